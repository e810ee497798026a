//! Runs simulations: one, or a campaign of many.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use pushonce::metrics;
use pushonce_cluster_tests::history;
use pushonce_core::{CoverageMark, FailPoint};
use pushonce_simulation::RunPlan;
use pushonce_simulation::campaign::{Campaign, RUN_TIMEOUT, Summary};
use pushonce_simulation::run::{self, RunFolder};
use pushonce_simulation::shrink::{Shrinker, Shrunk};
use pushonce_simulation::verdict::Verdict;

/// Whole clusters in one process, on simulated time, networks and disks.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Run one seed
    Run(RunArgs),
    /// Run many seeds, each in a process of its own
    Campaign(CampaignArgs),
    /// Shorten a plan that fails
    Shrink(ShrinkArgs),
    /// Count the seeds until a campaign finds each planted defect
    Planted(PlantedArgs),
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct PlanArgs {
    /// The seed
    #[arg(long)]
    seed: Option<u64>,
    /// A file with the plan
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Leave a participant of the load out, as `burst` or `unary0`
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Print the log of all nodes to the standard error, as RUST_LOG selects
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Write the history to a file of JSON lines
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Print the verdict as a line of JSON
    #[arg(long)]
    json: bool,
    /// Run on the Nth core of those that this process may use, instead of the current one
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Let the system switch between threads, for debuggers and profilers
    #[arg(long)]
    system_threads: bool,
}

#[derive(Args)]
struct CampaignArgs {
    /// The number of seeds
    #[arg(long, default_value_t = 300)]
    seeds: usize,
    /// Leave out seeds whose plan does not contain this action, as `wipe` or `drain`
    #[arg(long = "with", value_name = "ACTION")]
    action: Option<String>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// The number of processes at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Repeat every Nth seed and compare the traces; 0 repeats none
    #[arg(long, default_value_t = 10, value_name = "N")]
    repeat_every: u64,
    /// End after this number of failures
    #[arg(long, default_value_t = 20, value_name = "N")]
    failures_max: usize,
}

#[derive(Args)]
struct ShrinkArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// The file for the shortened plan
    #[arg(long, default_value = "shortened.plan")]
    output: PathBuf,
    /// The time for all attempts, in seconds
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

#[derive(Args)]
struct PlantedArgs {
    /// The number of seeds after which a defect counts as not found
    #[arg(long, default_value_t = 200)]
    seeds: usize,
    /// The number of processes at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// One defect instead of all
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        CliCommand::Run(args) => run_one(&args),
        CliCommand::Campaign(args) => run_campaign(&args),
        CliCommand::Shrink(args) => shrink(&args),
        CliCommand::Planted(args) => find_planted(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run_one(args: &RunArgs) -> anyhow::Result<bool> {
    pushonce_simulation::use_one_arena();
    pushonce_simulation::pin_to_core(args.core);
    if args.system_threads {
        pushonce_simulation::disable_fibers();
    }
    if let Some(filter) = &args.log {
        let log = tracing_subscriber::fmt().with_env_filter(filter);
        log.with_writer(io::stderr).with_ansi(false).init();
    }
    let mut plan = args.plan.read()?;
    plan.excluded.extend(args.without.iter().cloned());
    end_if_stuck();
    let folder = RunFolder::create(plan.seed)?;
    let begun = Instant::now();
    let record = run::run(&plan, folder.path(), metrics::install_recorder()?)?;
    let mut verdict = Verdict::of(plan.seed, &record);
    verdict.elapsed_ms = u64::try_from(begun.elapsed().as_millis())?;
    let marks = CoverageMark::reached().unwrap_or_default();
    verdict.marks = marks.into_iter().map(|mark| mark.name().to_owned()).collect();
    let actions: BTreeSet<_> = plan.schedule.steps.iter().map(|step| step.action.name()).collect();
    verdict.actions = actions.into_iter().collect();
    folder.remove();
    if let Some(path) = &args.history {
        history::file::write(path, &record.history)?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&verdict)?);
    } else {
        print_verdict(&plan, &verdict);
    }
    io::stdout().flush()?;
    // The threads of killed processes are still there, and must not see the end of this one.
    pushonce_simulation::exit_now(i32::from(!verdict.is_pass()))
}

/// Ends this process if it takes far longer than any run: a campaign may have ended before.
fn end_if_stuck() {
    thread::spawn(|| {
        thread::sleep(RUN_TIMEOUT);
        pushonce_simulation::exit_now(3)
    });
}

impl PlanArgs {
    fn read(&self) -> anyhow::Result<RunPlan> {
        let Some(path) = &self.plan else {
            return Ok(RunPlan::from_seed(self.seed.unwrap_or_default()));
        };
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        text.parse().with_context(|| path.display().to_string())
    }
}

fn shrink(args: &ShrinkArgs) -> anyhow::Result<bool> {
    let plan = args.plan.read()?;
    let shrinker = Shrinker {
        program: std::env::current_exe()?,
        file: args.output.clone(),
        fail_point: active_fail_point(),
        limit: Duration::from_secs(args.seconds),
    };
    let Some(Shrunk { plan: shortened, verdict, attempts }) = shrinker.shrink(&plan)? else {
        println!("seed {} passes", plan.seed);
        return Ok(false);
    };
    let (before, after) = (plan.schedule.steps.len(), shortened.schedule.steps.len());
    println!("{after} of {before} steps remain after {attempts} runs\n\n{shortened}");
    println!("violates {:?}", verdict.violated());
    println!("repeat: scripts/simulate run --plan {}", args.output.display());
    Ok(true)
}

fn print_verdict(plan: &RunPlan, verdict: &Verdict) {
    println!("{plan}");
    for (id, violation) in &verdict.violations {
        println!("{id} is violated: {violation}");
    }
    let simulated = Duration::from_millis(verdict.simulated_ms);
    let elapsed = Duration::from_millis(verdict.elapsed_ms);
    println!(
        "seed {}: {} acknowledged, {} delivered; {simulated:?} simulated in {elapsed:?} ({:.0} x), trace {:016x}",
        verdict.seed,
        verdict.acknowledged,
        verdict.delivered,
        simulated.as_secs_f64() / elapsed.as_secs_f64(),
        verdict.trace
    );
    println!("{}", if verdict.is_pass() { "pass" } else { "FAIL" });
}

fn run_campaign(args: &CampaignArgs) -> anyhow::Result<bool> {
    let campaign = Campaign {
        program: std::env::current_exe()?,
        fail_point: active_fail_point(),
        first_seed: args.first,
        seeds: args.seeds,
        action: args.action.clone(),
        jobs: args.jobs.max(1),
        repeat_every: args.repeat_every,
        failures_max: args.failures_max.max(1),
    };
    anyhow::ensure!(
        campaign.seeds().next().is_some(),
        "no plan contains the action `{}`: the first word of a step names it, as `wipe`",
        args.action.as_deref().unwrap_or_default()
    );
    let begun = Instant::now();
    let is_terminal = io::stderr().is_terminal();
    let mut shown = 0;
    let summary = campaign.run(|summary, done| {
        for verdict in &summary.failures[shown..] {
            eprintln!("seed {} violates {:?}", verdict.seed, verdict.violated());
        }
        shown = summary.failures.len();
        if is_terminal {
            eprint!("\r{done} of {} seeds, {} failed ", args.seeds, summary.failures.len());
        }
    })?;
    print_summary(&summary, begun.elapsed());
    let is_whole = args.seeds >= SEEDS_FOR_ALL_STATES && args.action.is_none();
    let is_covered = !is_whole || unvisited(&summary).is_empty();
    Ok(summary.is_pass() && is_covered)
}

/// The number of seeds from which on a campaign must have visited every state: the rarest takes some hundreds.
const SEEDS_FOR_ALL_STATES: usize = 5_000;

/// The states that no run has visited.
fn unvisited(summary: &Summary) -> Vec<&'static str> {
    let names = CoverageMark::ALL.iter().map(|mark| mark.name());
    names.filter(|&name| !summary.marks.contains_key(name)).collect()
}

fn print_summary(summary: &Summary, elapsed: Duration) {
    println!("\nruns with evidence, for each action and invariant\n\n{}", summary.table());
    for (id, count) in summary.failed_invariants() {
        println!("{id}: violated in {count} runs");
    }
    for verdict in &summary.failures {
        println!(
            "seed {} violates {:?}; repeat: scripts/simulate run --seed {}",
            verdict.seed,
            verdict.violated(),
            verdict.seed
        );
    }
    for (seed, reason) in &summary.broken {
        println!("seed {seed}: {reason}");
    }
    print_marks(summary);
    println!(
        "{} passed, {} failed, {} without a verdict; {} repeated with an equal trace",
        summary.passed,
        summary.failures.len(),
        summary.broken.len(),
        summary.repeated
    );
    println!(
        "{} acknowledged, {} delivered; {:.0} s simulated in {:.0} s of {:.0} s ({:.0} x real time on one core)",
        summary.acknowledged,
        summary.delivered,
        summary.simulated.as_secs_f64(),
        summary.elapsed.as_secs_f64(),
        elapsed.as_secs_f64(),
        summary.speed()
    );
}

fn print_marks(summary: &Summary) {
    if CoverageMark::reached().is_none() {
        return println!(
            "this build has no coverage marks: build it with the feature coverage-marks"
        );
    }
    println!("runs that reached a state\n");
    for mark in CoverageMark::ALL {
        println!(
            "{:<28}{:>8}",
            mark.name(),
            summary.marks.get(mark.name()).copied().unwrap_or_default()
        );
    }
    println!("\nnever visited: {:?}\n", unvisited(summary));
}

/// The defect that the environment of this process names, for the processes that it starts.
fn active_fail_point() -> Option<FailPoint> {
    FailPoint::ALL.iter().copied().find(|point| point.is_active())
}

/// Prints a line for each defect: the seeds until it was found, and the invariants that it violates there.
fn find_planted(args: &PlantedArgs) -> anyhow::Result<bool> {
    anyhow::ensure!(
        FailPoint::COMPILED_IN,
        "this build has no fail points: build it with the feature fail-points"
    );
    let is_chosen =
        |point: &&FailPoint| args.only.as_deref().is_none_or(|only| only == point.name());
    for point in FailPoint::ALL.iter().filter(is_chosen) {
        let campaign = Campaign {
            program: std::env::current_exe()?,
            fail_point: Some(*point),
            first_seed: 1,
            seeds: args.seeds,
            action: None,
            jobs: args.jobs.max(1),
            repeat_every: 0,
            failures_max: 1,
        };
        let begun = Instant::now();
        let summary = campaign.run(|_, _| {})?;
        let elapsed = begun.elapsed().as_secs();
        let found = summary
            .failures
            .iter()
            .map(|verdict| (verdict.seed, format!("{:?}", verdict.violated())));
        let broken = summary.broken.iter().cloned();
        match found.chain(broken).min() {
            Some((seed, what)) => {
                println!("{:<32}{seed:>6} seeds {elapsed:>5} s  {what}", point.name())
            }
            None => {
                println!("{:<32}  not found in {} seeds, {elapsed} s", point.name(), args.seeds)
            }
        }
        io::stdout().flush()?;
    }
    Ok(true)
}
