//! Runs simulations: one, or a campaign of many.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use pushonce::metrics;
use pushonce_cluster_tests::history;
use pushonce_simulation::campaign::{Campaign, Summary};
use pushonce_simulation::run::{self, RunPlan};
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
}

#[derive(Args)]
struct RunArgs {
    /// The seed
    #[arg(long)]
    seed: u64,
    /// A file with the schedule, instead of the one that follows from the seed
    #[arg(long)]
    schedule: Option<PathBuf>,
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
}

#[derive(Args)]
struct CampaignArgs {
    /// The number of seeds
    #[arg(long, default_value_t = 300)]
    seeds: u64,
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

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        CliCommand::Run(args) => run_one(&args),
        CliCommand::Campaign(args) => run_campaign(&args),
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
    if let Some(filter) = &args.log {
        let log = tracing_subscriber::fmt().with_env_filter(filter);
        log.with_writer(io::stderr).with_ansi(false).init();
    }
    let mut plan = RunPlan::from_seed(args.seed);
    if let Some(path) = &args.schedule {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        plan.schedule = text.parse().with_context(|| path.display().to_string())?;
    }
    plan.excluded.extend(args.without.iter().cloned());
    let root = run::create_root()?;
    let begun = Instant::now();
    let record = run::run(&plan, &root, metrics::install_recorder()?)?;
    let mut verdict = Verdict::of(plan.seed, &record);
    verdict.elapsed_ms = u64::try_from(begun.elapsed().as_millis())?;
    let actions: BTreeSet<_> = plan.schedule.steps.iter().map(|step| step.action.name()).collect();
    verdict.actions = actions.into_iter().collect();
    let _ = fs::remove_dir_all(&root);
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

fn print_verdict(plan: &RunPlan, verdict: &Verdict) {
    println!("{} nodes, {:?} of faults\n{}", plan.nodes, plan.length, plan.schedule);
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
        arguments: Vec::new(),
        first_seed: args.first,
        seeds: args.seeds,
        jobs: args.jobs.max(1),
        repeat_every: args.repeat_every,
        failures_max: args.failures_max.max(1),
    };
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
    Ok(summary.is_pass())
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
