//! A campaign: many runs, each in a process of its own, and what all of them have shown.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pushonce_core::FailPoint;

use crate::plan::RunPlan;
use crate::verdict::{RECOVERY, Verdict};

/// The runs of a campaign.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The program that runs one plan.
    pub program: PathBuf,
    /// The defect that is active in every node.
    pub fail_point: Option<FailPoint>,
    /// The first seed.
    pub first_seed: u64,
    /// The number of seeds.
    pub seeds: usize,
    /// The action that a plan must contain, by its name; other seeds are left out.
    pub action: Option<String>,
    /// The number of processes at a time.
    pub jobs: usize,
    /// Every how many seeds a run is repeated and its trace compared.
    pub repeat_every: u64,
    /// The number of failures after which the campaign ends early.
    pub failures_max: usize,
}

/// The longest time of one run: far more than any takes.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// What the runs have shown.
#[derive(Debug, Default)]
pub struct Summary {
    /// The runs that passed.
    pub passed: u64,
    /// The runs that did not.
    pub failures: Vec<Verdict>,
    /// Runs that ended without a verdict, and repetitions with another trace.
    pub broken: Vec<(u64, String)>,
    /// For each kind of action and each invariant: the number of runs with evidence.
    pub evidence: BTreeMap<String, BTreeMap<String, u64>>,
    /// For each coverage mark: the number of runs that reached it.
    pub marks: BTreeMap<String, u64>,
    /// The number of runs that were repeated.
    pub repeated: u64,
    /// All acknowledged publishes.
    pub acknowledged: u64,
    /// All received messages.
    pub delivered: u64,
    /// The simulated time of all runs.
    pub simulated: Duration,
    /// The time that all runs took.
    pub elapsed: Duration,
}

impl Campaign {
    /// Runs all seeds. `on_progress` is called after each.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn run(&self, mut on_progress: impl FnMut(&Summary, usize)) -> io::Result<Summary> {
        let (sender, results) = mpsc::channel();
        let mut summary = Summary::default();
        let mut seeds = self.seeds().peekable();
        let mut done = 0;
        // Each job has a core of its own.
        let mut free_cores: Vec<_> = (0..self.jobs).rev().collect();
        loop {
            while seeds.peek().is_some()
                && summary.failures.len() + summary.broken.len() < self.failures_max
                && let Some(core) = free_cores.pop()
                && let Some(seed) = seeds.next()
            {
                let (campaign, sender) = (self.clone(), sender.clone());
                // The receiver lives as long as the campaign.
                thread::spawn(move || {
                    drop(sender.send((core, seed, campaign.run_seed(seed, core))))
                });
            }
            if free_cores.len() == self.jobs {
                return Ok(summary);
            }
            let Ok((core, seed, result)) = results.recv() else { return Ok(summary) };
            free_cores.push(core);
            summary.add(seed, result?);
            done += 1;
            on_progress(&summary, done);
        }
    }

    /// The seeds in order.
    pub fn seeds(&self) -> impl Iterator<Item = u64> {
        let has_action = |&seed: &u64| {
            let Some(name) = &self.action else { return true };
            let steps = RunPlan::from_seed(seed).schedule.steps;
            steps.iter().any(|step| step.action.name() == *name)
        };
        // The rarest actions are in one plan of about fifty.
        let candidates = self.seeds.saturating_mul(1_000) as u64;
        (self.first_seed..self.first_seed + candidates).filter(has_action).take(self.seeds)
    }

    fn run_seed(&self, seed: u64, core: usize) -> io::Result<SeedResult> {
        let first = self.run_once(seed, core)?;
        let is_repeated = self.repeat_every > 0 && seed.is_multiple_of(self.repeat_every);
        let (Ok(verdict), true) = (&first, is_repeated) else {
            return Ok(SeedResult { outcome: first, is_repeated: false });
        };
        let outcome = match self.run_once(seed, core)? {
            Ok(second) if second.trace == verdict.trace => first,
            Ok(second) => Err(format!(
                "two runs differ: trace {:016x} and {:016x}",
                verdict.trace, second.trace
            )),
            Err(error) => Err(error),
        };
        Ok(SeedResult { outcome, is_repeated: true })
    }

    fn run_once(&self, seed: u64, core: usize) -> io::Result<Result<Verdict, String>> {
        let arguments = [format!("--seed={seed}"), format!("--core={core}")];
        run_process(&self.program, &arguments, self.fail_point)
    }
}

struct SeedResult {
    outcome: Result<Verdict, String>,
    is_repeated: bool,
}

/// Runs one plan in a process of its own; `Err` inside when it ended without a verdict.
///
/// # Errors
/// When the process cannot be started.
pub fn run_process(
    program: &Path,
    arguments: &[String],
    fail_point: Option<FailPoint>,
) -> io::Result<Result<Verdict, String>> {
    let mut command = Command::new(program);
    command.args(["run", "--json"]).args(arguments);
    command.env(FailPoint::VARIABLE, fail_point.map_or("", FailPoint::name));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let Some(output) = child.stdout.take() else { return Ok(Err("no output".to_owned())) };
    let (sender, line) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = BufReader::new(output).read_line(&mut text);
        sender.send(read.map(|_| text))
    });
    let line = line.recv_timeout(RUN_TIMEOUT);
    let status = end(&mut child)?;
    Ok(match line {
        Ok(Ok(text)) => serde_json::from_str(&text)
            .map_err(|error| format!("no verdict ({error}); the process ended with {status}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no verdict within {RUN_TIMEOUT:?}")),
    })
}

/// Ends a process that has said everything, or hangs.
fn end(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()
}

impl Summary {
    fn add(&mut self, seed: u64, SeedResult { outcome, is_repeated }: SeedResult) {
        let verdict = match outcome {
            Ok(verdict) => verdict,
            Err(reason) => return self.broken.push((seed, reason)),
        };
        self.repeated += u64::from(is_repeated);
        self.acknowledged += verdict.acknowledged as u64;
        self.delivered += verdict.delivered as u64;
        self.simulated += Duration::from_millis(verdict.simulated_ms);
        self.elapsed += Duration::from_millis(verdict.elapsed_ms);
        for mark in &verdict.marks {
            *self.marks.entry(mark.clone()).or_default() += 1;
        }
        for action in &verdict.actions {
            let row = self.evidence.entry(action.clone()).or_default();
            for invariant in &verdict.checked {
                *row.entry(invariant.clone()).or_default() += 1;
            }
        }
        match verdict.is_pass() {
            true => self.passed += 1,
            false => self.failures.push(verdict),
        }
    }

    /// Whether every run passed, and every repetition was equal.
    pub fn is_pass(&self) -> bool {
        self.failures.is_empty() && self.broken.is_empty()
    }

    /// The simulated time divided by the time that it took.
    pub fn speed(&self) -> f64 {
        self.simulated.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The table of invariants and actions: the number of runs with evidence.
    pub fn table(&self) -> String {
        let invariants: BTreeSet<_> = self.evidence.values().flat_map(BTreeMap::keys).collect();
        let mut invariants: Vec<_> = invariants.into_iter().collect();
        invariants.sort_by_key(|id| id.trim_start_matches('I').parse::<u32>().unwrap_or(u32::MAX));
        let mut text = format!("{:<18}", "");
        for id in &invariants {
            text += &format!("{id:>6}");
        }
        text.push('\n');
        for (action, row) in &self.evidence {
            text += &format!("{action:<18}");
            for id in &invariants {
                text += &format!("{:>6}", row.get(*id).copied().unwrap_or_default());
            }
            text.push('\n');
        }
        text
    }

    /// The number of failures of each invariant.
    pub fn failed_invariants(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for id in self.failures.iter().flat_map(Verdict::violated) {
            *counts.entry(id).or_default() += 1;
        }
        counts.remove(RECOVERY).map(|count| counts.insert(RECOVERY, count));
        counts
    }
}
