//! Runs faults against real clusters and judges what clients saw; see the library's `runner`.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pushonce_cluster_tests::checker::Promises;
use pushonce_cluster_tests::faults::Row;
use pushonce_cluster_tests::history::file;
use pushonce_cluster_tests::runner::{
    self, Options, PLANTED, Planted, Report, SHORT, Verdict, Watchdog,
};

const USAGE: &str = "\
faults --list                 every row
faults check FILE             judges a history again
faults [--tier short|full]    runs the rows of a tier (full unless said)
       [--only NAME]...       only these rows
       [--seed N]             of everything that is drawn (1 unless said)
       [--seconds S]          how long faults come and go in each row (20 unless said)
       [--dir DIR]            where histories and logs are kept (a new folder in the temporary one)
       [--keep]               keep them also when all is well
       [--patient]            times as for a machine that has other things to do
       [--results FILE]       writes the table there
faults --soak MINUTES          runs of several faults and operator commands at a time, each of --seconds
                               with the next seed, until the time is over
faults --planted              whether each planted bug of the rows is caught; needs a binary built with them
faults --failovers N          kills the owner of a topic N times, and prints how long publishing stops";

struct Asked {
    options: Options,
    rows: Vec<&'static Row>,
    results: Option<PathBuf>,
    planted: bool,
    failovers: Option<usize>,
    soak: Option<Duration>,
}

enum Ask {
    List,
    Check(PathBuf),
    Run(Asked),
}

#[tokio::main]
async fn main() -> ExitCode {
    match ask(std::env::args().skip(1)) {
        Ok(Ask::List) => {
            for row in runner::rows() {
                println!("{:<18} {}", row.name, row.story);
            }
            ExitCode::SUCCESS
        }
        Ok(Ask::Check(path)) => check(&path),
        Ok(Ask::Run(asked)) => run(asked).await,
        Err(why) => {
            eprintln!("{why}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn ask(mut args: impl Iterator<Item = String>) -> Result<Ask, String> {
    let dir = std::env::temp_dir().join(format!("pushonce-faults-{}", std::process::id()));
    let promises = Promises::STATED;
    let mut options = Options { seed: 1, seconds: 20, promises, dir, keep: false, planted: None };
    let (mut only, mut short, mut results) = (Vec::new(), false, None);
    let (mut planted, mut failovers, mut soak) = (false, None, None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
        match arg.as_str() {
            "--list" => return Ok(Ask::List),
            "--help" => {
                return Err("faults: breaks clusters and judges what clients saw".to_owned());
            }
            "check" => return Ok(Ask::Check(value()?.into())),
            "--seed" => options.seed = number(value()?)?,
            "--seconds" => options.seconds = number(value()?)?,
            "--dir" => options.dir = value()?.into(),
            "--keep" => options.keep = true,
            "--patient" => options.promises = Promises::PATIENT,
            "--planted" => planted = true,
            "--failovers" => failovers = usize::try_from(number(value()?)?).ok(),
            "--soak" => soak = Some(Duration::from_secs(number(value()?)? * 60)),
            "--only" => only.push(value()?),
            "--results" => results = Some(value()?.into()),
            "--tier" => match value()?.as_str() {
                "short" => short = true,
                "full" => short = false,
                other => return Err(format!("there is no tier {other}")),
            },
            other => return Err(format!("{other} is unknown")),
        }
    }
    let named = |name: &String| runner::row(name).ok_or_else(|| format!("there is no row {name}"));
    let mut rows = only.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() {
        let is_wanted = |row: &&Row| !short || SHORT.contains(&row.name);
        rows = runner::rows().into_iter().filter(is_wanted).collect();
    }
    Ok(Ask::Run(Asked { options, rows, results, planted, failovers, soak }))
}

fn check(path: &Path) -> ExitCode {
    let records = match file::read(path) {
        Ok(records) => records,
        Err(why) => {
            eprintln!("{}: {why}", path.display());
            return ExitCode::from(2);
        }
    };
    let (good, text) = runner::again(&records, &Promises::STATED);
    print!("{text}");
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(asked: Asked) -> ExitCode {
    let Asked { options, rows, results, planted, failovers, soak } = asked;
    std::fs::create_dir_all(&options.dir).expect("the directory can be made");
    if planted {
        return catch_planted(&options, &rows).await;
    }
    let _watchdog = Watchdog::over(&options.dir).expect("a watchdog can be started");
    if let Some(kills) = failovers {
        let dir = options.dir.join("failovers");
        std::fs::create_dir_all(&dir).expect("the directory can be made");
        print!("{}", runner::failovers(kills, dir).await);
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
        // After each: a run that is cut short leaves what it has.
        if let Some(path) = &results {
            std::fs::write(path, page(&reports, &options)).expect("the results can be written");
        }
    }
    let failed = reports.iter().filter(|r| matches!(r.verdict, Verdict::Fail(_))).count();
    let unknown = reports.iter().filter(|r| matches!(r.verdict, Verdict::Unknown(_))).count();
    println!("{} rows: {failed} failed, {unknown} unknown", reports.len());
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One run after the other, each of another seed: a run that fails is done again by its own command.
async fn soak_for(time: Duration, mut options: Options) -> ExitCode {
    let row = runner::row("soak").expect("it is a row");
    let begun = Instant::now();
    let (mut runs, mut failed) = (0, 0);
    while begun.elapsed() < time {
        let report = runner::run(row, &options).await;
        println!("{report}   repeat: {}", runner::command(row, &options));
        runs += 1;
        failed += usize::from(report.verdict != Verdict::Pass);
        options.seed += 1;
    }
    println!(
        "{runs} runs in {:.0} min: {failed} did not pass",
        begun.elapsed().as_secs_f64() / 60.0
    );
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn page(reports: &[Report], options: &Options) -> String {
    let Options { seed, seconds, .. } = options;
    format!(
        "# Faults and promises\n\n\
         Written by `scripts/faults`: seed {seed}, {seconds} s of faults a row. ✓ held, ✗ broken, ? \
         what the promise is about did not take place. The promises are those of the page of \
         `src/checker`; a row in which the fault never took place, or with less than half of the \
         usual publishes tried meanwhile, is unknown.\n\n{}",
        runner::table(reports)
    )
}

/// Each planted bug in its row. They are missed or caught; the histories of those that were missed
/// stay.
async fn catch_planted(options: &Options, rows: &[&'static Row]) -> ExitCode {
    let mut missed = 0;
    let is_asked = |planted: &&Planted| rows.iter().any(|row| row.name == planted.row);
    for planted in PLANTED.iter().filter(is_asked) {
        let options = planted.options(options);
        std::fs::create_dir_all(&options.dir).expect("the directory can be made");
        let _watchdog = Watchdog::over(&options.dir).expect("a watchdog can be started");
        let row = runner::rows().into_iter().find(|row| row.name == planted.row);
        let report = runner::run(row.expect("it is in the list"), &options).await;
        match planted.judge(&report) {
            Ok(broken) => {
                println!("{} is caught in {} by {}", planted.bug, planted.row, broken.join(", "));
                let _ = std::fs::remove_dir_all(&options.dir);
            }
            Err(why) => {
                missed += 1;
                println!("MISSED: {why}\n{report}   {}", report.dir.display());
            }
        }
    }
    if missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
