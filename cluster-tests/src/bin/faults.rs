//! Injects faults into real clusters and checks what clients observed; see the library's `runner`.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pushonce_cluster_tests::checker::Guarantees;
use pushonce_cluster_tests::faults::FaultScenario;
use pushonce_cluster_tests::history::file;
use pushonce_cluster_tests::runner::{
    self, Options, PLANTED_BUGS, PlantedBug, RunReport, RunVerdict, SHORT_TIER, Watchdog,
};

const USAGE: &str = "\
faults --list                 lists every row
faults check FILE             checks a recorded history again
faults [--tier short|full]    runs the rows of a tier (default: full)
       [--only NAME]...       runs only these rows
       [--seed N]             seed of all random choices (default: 1)
       [--seconds S]          duration of the fault phase of each row (default: 20)
       [--dir DIR]            directory for histories and logs (default: a new temporary directory)
       [--keep]               keeps histories and logs of rows that pass
       [--patient]            relaxed time limits, for a busy machine
       [--results FILE]       writes the results table to FILE
faults --soak MINUTES          runs several faults and operator commands at a time, for --seconds each,
                               with consecutive seeds, until MINUTES have passed
faults --planted              checks that each planted bug of the rows is caught; needs a binary with fail points
faults --failovers N          kills the owner of a topic N times, and prints how long publishing stops";

struct RunArgs {
    options: Options,
    rows: Vec<&'static FaultScenario>,
    results: Option<PathBuf>,
    check_planted_bugs: bool,
    failovers: Option<usize>,
    soak_time: Option<Duration>,
}

enum FaultsCommand {
    List,
    Check(PathBuf),
    Run(RunArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    match parse_args(std::env::args().skip(1)) {
        Ok(FaultsCommand::List) => {
            for row in runner::scenarios() {
                println!("{:<30} {}", row.name, row.description);
            }
            ExitCode::SUCCESS
        }
        Ok(FaultsCommand::Check(path)) => check(&path),
        Ok(FaultsCommand::Run(asked)) => run(asked).await,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse_args(mut args: impl Iterator<Item = String>) -> Result<FaultsCommand, String> {
    let dir = std::env::temp_dir().join(format!("pushonce-faults-{}", std::process::id()));
    let guarantees = Guarantees::PUBLISHED;
    let mut options =
        Options { seed: 1, seconds: 20, guarantees, dir, keep: false, fail_point: None };
    let (mut only, mut short, mut results) = (Vec::new(), false, None);
    let (mut planted, mut failovers, mut soak) = (false, None, None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number =
            |text: String| text.parse().map_err(|_| format!("{arg} needs a number, not {text}"));
        match arg.as_str() {
            "--list" => return Ok(FaultsCommand::List),
            "--help" => {
                return Err(
                    "faults: injects faults into clusters and checks what clients observed"
                        .to_owned(),
                );
            }
            "check" => return Ok(FaultsCommand::Check(value()?.into())),
            "--seed" => options.seed = number(value()?)?,
            "--seconds" => options.seconds = number(value()?)?,
            "--dir" => options.dir = value()?.into(),
            "--keep" => options.keep = true,
            "--patient" => options.guarantees = Guarantees::RELAXED,
            "--planted" => planted = true,
            "--failovers" => failovers = usize::try_from(number(value()?)?).ok(),
            "--soak" => soak = Some(Duration::from_secs(number(value()?)? * 60)),
            "--only" => only.push(value()?),
            "--results" => results = Some(value()?.into()),
            "--tier" => match value()?.as_str() {
                "short" => short = true,
                "full" => short = false,
                other => return Err(format!("unknown tier {other}; use short or full")),
            },
            other => return Err(format!("unknown argument {other}")),
        }
    }
    let find_scenario = |name: &String| {
        runner::scenario(name).ok_or_else(|| format!("unknown row {name}; --list prints all rows"))
    };
    let mut rows = only.iter().map(find_scenario).collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() {
        let is_wanted = |row: &&FaultScenario| !short || SHORT_TIER.contains(&row.name);
        rows = runner::scenarios().into_iter().filter(is_wanted).collect();
    }
    Ok(FaultsCommand::Run(RunArgs {
        options,
        rows,
        results,
        check_planted_bugs: planted,
        failovers,
        soak_time: soak,
    }))
}

fn check(path: &Path) -> ExitCode {
    let records = match file::read(path) {
        Ok(records) => records,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    let (passed, text) = runner::recheck(&records, &Guarantees::PUBLISHED);
    print!("{text}");
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(args: RunArgs) -> ExitCode {
    let RunArgs { options, rows, results, check_planted_bugs: planted, failovers, soak_time: soak } =
        args;
    std::fs::create_dir_all(&options.dir).expect("create the directory");
    if planted {
        return check_planted_bugs(&options, &rows).await;
    }
    let _watchdog = Watchdog::watch(&options.dir).expect("start the watchdog");
    if let Some(kills) = failovers {
        let dir = options.dir.join("failovers");
        std::fs::create_dir_all(&dir).expect("create the directory");
        print!("{}", runner::measure_failovers(kills, dir).await);
        return ExitCode::SUCCESS;
    }
    if let Some(time) = soak {
        return soak_for(time, options).await;
    }
    println!("histories and logs: {}; seed {}", options.dir.display(), options.seed);
    let mut reports = Vec::new();
    for row in rows {
        let report = runner::run(row, &options).await;
        println!("{report}");
        reports.push(report);
        // Written after each row, so that an interrupted run keeps its results.
        if let Some(path) = &results {
            std::fs::write(path, results_page(&reports, &options)).expect("write the results");
        }
    }
    let failed = reports.iter().filter(|r| matches!(r.verdict, RunVerdict::Fail(_))).count();
    let unknown = reports.iter().filter(|r| matches!(r.verdict, RunVerdict::Unknown(_))).count();
    println!("{} rows: {failed} failed, {unknown} unknown", reports.len());
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the soak scenario with consecutive seeds until `time` has passed.
async fn soak_for(time: Duration, mut options: Options) -> ExitCode {
    let row = runner::scenario("soak").expect("the soak scenario exists");
    let begun = Instant::now();
    let (mut runs, mut failed) = (0, 0);
    while begun.elapsed() < time {
        let report = runner::run(row, &options).await;
        println!("{report}   repeat: {}", runner::repeat_command(row, &options));
        runs += 1;
        failed += usize::from(report.verdict != RunVerdict::Pass);
        options.seed += 1;
    }
    println!(
        "{runs} runs in {:.0} min: {failed} did not pass",
        begun.elapsed().as_secs_f64() / 60.0
    );
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn results_page(reports: &[RunReport], options: &Options) -> String {
    let Options { seed, seconds, .. } = options;
    format!(
        "# Faults and invariants\n\n\
         Written by `scripts/faults`: seed {seed}, {seconds} s of faults per row. ✓ holds, ✗ is violated, ? \
         could not be checked, because its subject did not occur. `src/checker` defines the invariants. A row is \
         unknown if its fault never took place, or if less than half of the usual publishes were \
         attempted during it.\n\n{}",
        runner::render_table(reports)
    )
}

/// Each planted bug in its row. They are missed or caught; the histories of those that were missed
/// stay.
async fn check_planted_bugs(options: &Options, rows: &[&'static FaultScenario]) -> ExitCode {
    let mut missed = 0;
    let is_selected = |planted: &&PlantedBug| rows.iter().any(|row| row.name == planted.scenario);
    for planted in PLANTED_BUGS.iter().filter(is_selected) {
        let options = planted.run_options(options);
        std::fs::create_dir_all(&options.dir).expect("the directory can be made");
        let _watchdog = Watchdog::watch(&options.dir).expect("a watchdog can be started");
        let row = runner::scenarios().into_iter().find(|row| row.name == planted.scenario);
        let report = runner::run(row.expect("it is in the list"), &options).await;
        match planted.check(&report) {
            Ok(broken) => {
                println!(
                    "{} is caught in {} by {}",
                    planted.fail_point.name(),
                    planted.scenario,
                    broken.join(", ")
                );
                let _ = std::fs::remove_dir_all(&options.dir);
            }
            Err(error) => {
                missed += 1;
                println!("MISSED: {error}\n{report}   {}", report.dir.display());
            }
        }
    }
    if missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
