//! One run of one row.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Report;
use crate::checker::Promises;
use crate::cluster::Cluster;
use crate::faults::{Confirmed, Fault, Prepared, Row, Stage};
use crate::ground::WithEnvironment;
use crate::history::{self, Event, Phase, Record, Recorder, Scribe};
use crate::load::{self, HOT, Load, Plan};
use crate::wait::{secs, until};

/// How a row is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of everything that is drawn.
    pub seed: u64,
    /// How long faults come and go.
    pub seconds: u64,
    /// What is promised.
    pub promises: Promises,
    /// Where the directory of the run is made.
    pub dir: PathBuf,
    /// Keep it also when all is well.
    pub keep: bool,
    /// The bug that every node has, if the binary was built with it.
    pub planted: Option<&'static str>,
}

/// The command that does a row again.
pub fn command(row: &Row, options: &Options) -> String {
    let Options { seed, seconds, .. } = options;
    format!("scripts/faults --only {} --seed {seed} --seconds {seconds}", row.name)
}

/// Runs a row and judges it. Its directory stays when it did not pass.
pub async fn run(row: &'static Row, options: &Options) -> Report {
    let Prepared { ground, fault } = match (row.prepare)(options.seed) {
        Ok(prepared) => prepared,
        Err(why) => return Report::left_out(row, options, why),
    };
    let heartbeat = format!("{}s", load::HEARTBEAT.as_secs());
    let mut variables = vec![("PUSHONCE_SESSION_HEARTBEAT", heartbeat)];
    variables.extend(options.planted.map(|bug| ("PUSHONCE_PLANTED_BUG", bug.to_owned())));
    let ground = Arc::new(WithEnvironment { ground, variables });
    let dir = options.dir.join(format!("{}-{}", row.name, options.seed));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("the directory of the run can be made");
    let recorder = Recorder::new();
    let builder = Cluster::of(row.nodes).flags(row.flags).on(ground).home(dir.clone());
    // When it panics, what is recorded is judged all the same.
    let story = story(builder, fault, options.clone(), recorder.clone(), row.name);
    let broken = AssertUnwindSafe(story).catch_unwind().await.err();
    let broken = broken.map(|panic| format!("the run broke off: {}", words(&*panic)));
    let records = recorder.records();
    let written = history::file::write(&dir.join("history.jsonl"), &records);
    written.expect("the history can be written");
    let report = Report::of(row, options, &records, broken, dir.clone());
    if report.verdict == super::Verdict::Pass && !options.keep {
        let _ = std::fs::remove_dir_all(&dir);
    }
    report
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}

async fn story(
    builder: crate::cluster::Builder,
    mut fault: Box<dyn Fault>,
    options: Options,
    recorder: Recorder,
    name: &'static str,
) {
    let scribe = recorder.scribe("runner");
    let phase = |phase| scribe.write(Event::Phase { phase });
    let rng = StdRng::seed_from_u64(options.seed);
    let (cluster, hot) = (builder.start().await, HOT.to_owned());
    let mut stage = Stage { cluster, hot, rng, scribe: recorder.scribe("nemesis") };
    fault.prepare(&mut stage).await;
    sample(&stage, &scribe);

    let nodes = (0..stage.cluster.len()).map(|i| stage.cluster.node(i).ports).collect();
    let plan = Plan::of(options.seed);
    let mut load = Load::start(plan, nodes, &stage.cluster.trust(), &recorder);
    until("every subscriber gets messages", secs(30), async || {
        recorder.look(|records| level_with(records, |_| None))
    })
    .await;
    phase(Phase::WarmUp);
    tokio::time::sleep(Duration::from_secs(options.seconds / 5).clamp(secs(3), secs(8))).await;

    phase(Phase::Faults);
    nemesis(&mut *fault, &mut stage, name, options.seconds).await;
    phase(Phase::Recovery);
    tokio::time::sleep(secs(2)).await;

    load.hush().await;
    phase(Phase::Drain);
    drain(&stage, &plan, &recorder, options.promises.level + secs(1)).await;
    phase(Phase::Reading);
    read(&stage, &plan, &scribe).await;
    load.end().await;
    // Descriptors of sessions that just ended are closed when the node has noticed.
    tokio::time::sleep(secs(1)).await;
    sample(&stage, &scribe);
    for node in 0..stage.cluster.len() {
        let count = stage.cluster.node(node).log().matches("panicked").count() as u64;
        scribe.write(Event::Panics { node, count });
    }
}

/// The fault comes and goes.
async fn nemesis(fault: &mut dyn Fault, stage: &mut Stage, name: &'static str, seconds: u64) {
    let over = Instant::now() + secs(seconds);
    let name = || name.into();
    for round in 0..fault.rounds() {
        if round > 0 && Instant::now() + fault.hold() > over {
            break;
        }
        stage.scribe.write(Event::FaultBegins { fault: name(), effect: Default::default() });
        match fault.inject(stage).await {
            Ok(effect) => {
                // Said again, now that it is known what it does.
                stage.scribe.write(Event::FaultBegins { fault: name(), effect });
            }
            Err(why) => {
                stage.scribe.write(Event::FaultSkipped { fault: name(), why: why.into() });
                break;
            }
        }
        let confirmed = fault.confirm(stage).await;
        let there = confirmed == Confirmed::Installed;
        stage.scribe.write(match confirmed {
            Confirmed::Installed => Event::FaultConfirmed { fault: name() },
            Confirmed::Skipped(why) => Event::FaultSkipped { fault: name(), why: why.into() },
            Confirmed::Indeterminate(why) => {
                Event::FaultIndeterminate { fault: name(), why: why.into() }
            }
        });
        if there {
            tokio::time::sleep(fault.hold()).await;
        }
        fault.heal(stage).await;
        stage.scribe.write(Event::FaultEnds { fault: name() });
        stage.whole().await;
        let pause = Duration::from_millis(stage.rng.random_range(300..2_000));
        tokio::time::sleep(pause).await;
    }
}

/// Waits until every subscriber has what the nodes say is the newest, or the checker's limit for it
/// is over: then it is the checker's to say so.
async fn drain(stage: &Stage, plan: &Plan, recorder: &Recorder, limit: Duration) {
    let begun = Instant::now();
    let node = stage.cluster.running().next().expect("some node runs");
    let ports = stage.cluster.node(node).ports;
    while begun.elapsed() < limit {
        let mut heads = std::collections::HashMap::new();
        for topic in plan.names() {
            if let Ok(head) = load::head(ports, &topic).await {
                heads.insert(topic, head);
            }
        }
        if recorder.look(|records| level_with(records, |topic| heads.get(topic).copied())).is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether every subscription has reached what `head` says of its topic, or anything at all. A forger
/// leaves when it likes.
fn level_with(
    records: &[Record],
    head: impl Fn(&str) -> Option<pushonce_core::Position>,
) -> Result<(), String> {
    let mut reached = std::collections::BTreeMap::new();
    for Record { process, event, .. } in records {
        match event {
            Event::Subscribe { topic, .. } if !process.starts_with("forger") => {
                reached.entry((process, topic)).or_insert(None);
            }
            Event::Delivered { topic, position, .. } | Event::Gap { topic, to: position, .. } => {
                if let Some(place) = reached.get_mut(&(process, topic)) {
                    *place = (*place).max(Some(*position));
                }
            }
            _ => {}
        }
    }
    if reached.is_empty() {
        return Err("nobody subscribes".to_owned());
    }
    for ((process, topic), at) in reached {
        match (at, head(topic)) {
            (None, _) => return Err(format!("{process} has nothing of {topic}")),
            (Some(at), Some(head)) if at < head => {
                return Err(format!("{process} is at {at} of {topic}, which is at {head}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Every log, from every node that runs, over every transport.
async fn read(stage: &Stage, plan: &Plan, scribe: &Scribe) {
    let trust = &stage.cluster.trust();
    for node in stage.cluster.running() {
        let doors = (stage.cluster.node(node).ports, trust);
        for topic in plan.names() {
            let what = format!("the log of {topic} at node {node}");
            // What was written by an attempt that failed half way is read again, and the same.
            until(&what, secs(60), async || load::read(scribe, node, doors, &topic).await).await;
        }
    }
}

/// What every node takes of the machine now.
fn sample(stage: &Stage, scribe: &Scribe) {
    for node in stage.cluster.running() {
        let Some(pid) = stage.cluster.node(node).pid() else { continue };
        let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
        let status = std::fs::read_to_string(proc.join("status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kib = rss.and_then(|rss| rss.trim().trim_end_matches(" kB").parse().ok());
        let descriptors = std::fs::read_dir(proc.join("fd")).map(|dir| dir.count() as u64);
        if let (Some(rss_kib), Ok(descriptors)) = (rss_kib, descriptors) {
            scribe.write(Event::Sample { node, rss_kib, descriptors });
        }
    }
}
