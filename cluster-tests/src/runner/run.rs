//! Runs one row of the fault matrix.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use pushonce_client::Transport;
use pushonce_core::FailPoint;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::RunReport;
use super::completion::{LogReaders, all_caught_up, wait_caught_up};
use crate::checker::Guarantees;
use crate::cluster::ProcessCluster;
use crate::environment::WithEnvVars;
use crate::faults::{FaultContext, FaultInjector, FaultScenario, FaultState, PreparedScenario};
use crate::history::{self, HistoryEvent, ProcessRecorder, Recorder, RunPhase};
use crate::load::{self, HOT_TOPIC, Workload, WorkloadPlan};
use crate::wait::{secs, wait_until};

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed of all random choices.
    pub seed: u64,
    /// The duration of the fault phase.
    pub seconds: u64,
    /// The guarantees to check.
    pub guarantees: Guarantees,
    /// The parent of the run's directory.
    pub dir: PathBuf,
    /// Keeps the directory even if the run passes.
    pub keep: bool,
    /// The fail point that is active in every node.
    pub fail_point: Option<FailPoint>,
}

/// The command that repeats a run.
pub fn repeat_command(scenario: &FaultScenario, options: &Options) -> String {
    let Options { seed, seconds, .. } = options;
    format!("scripts/faults --only {} --seed {seed} --seconds {seconds}", scenario.name)
}

/// Runs a scenario and evaluates it. Its directory is kept unless the run passes.
pub async fn run(scenario: &'static FaultScenario, options: &Options) -> RunReport {
    let PreparedScenario { environment, fault } = match (scenario.prepare)(options.seed) {
        Ok(prepared) => prepared,
        Err(error) => return RunReport::skipped(scenario, options, error),
    };
    let heartbeat = format!("{}s", load::HEARTBEAT_INTERVAL.as_secs());
    let mut variables = vec![("PUSHONCE_SESSION_HEARTBEAT", heartbeat)];
    variables
        .extend(options.fail_point.map(|point| (FailPoint::VARIABLE, point.name().to_owned())));
    let environment = Arc::new(WithEnvVars { inner: environment, variables });
    let dir = options.dir.join(format!("{}-{}", scenario.name, options.seed));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("create the directory of the run");
    let recorder = Recorder::new();
    let builder = ProcessCluster::with_nodes(scenario.nodes)
        .flags(scenario.flags)
        .in_environment(environment)
        .dir(dir.clone());
    // If the run panics, the records so far are still evaluated.
    let run = run_scenario(builder, fault, options.clone(), recorder.clone(), scenario.name);
    let panic = AssertUnwindSafe(run).catch_unwind().await.err();
    let aborted = panic.map(|panic| format!("the run was aborted: {}", panic_message(&*panic)));
    let records = recorder.records();
    let written = history::file::write(&dir.join("history.jsonl"), &records);
    written.expect("write the history");
    let report = RunReport::evaluate(scenario, options, &records, aborted, dir.clone());
    if report.verdict == super::RunVerdict::Pass && !options.keep {
        let _ = std::fs::remove_dir_all(&dir);
    }
    report
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}

async fn run_scenario(
    builder: crate::cluster::Builder,
    mut fault: Box<dyn FaultInjector>,
    options: Options,
    recorder: Recorder,
    name: &'static str,
) {
    let process_recorder = recorder.for_process("runner");
    let begin_phase = |phase| process_recorder.record(HistoryEvent::Phase { phase });
    let rng = StdRng::seed_from_u64(options.seed);
    let (cluster, hot_topic) = (builder.start().await, HOT_TOPIC.to_owned());
    let mut context =
        FaultContext { cluster, hot_topic, rng, process_recorder: recorder.for_process("nemesis") };
    fault.prepare(&mut context).await;
    sample_resources(&context, &process_recorder);

    let nodes = (0..context.cluster.len()).map(|i| context.cluster.node(i).ports).collect();
    let plan = WorkloadPlan::new(options.seed);
    let mut load = Workload::start(&plan, nodes, &context.cluster.trust(), &recorder);
    wait_until("every subscriber receives messages", secs(30), async || {
        recorder.with_records(|records| all_caught_up(records, |_| None))
    })
    .await;
    begin_phase(RunPhase::WarmUp);
    tokio::time::sleep(Duration::from_secs(options.seconds / 5).clamp(secs(3), secs(8))).await;

    begin_phase(RunPhase::Faults);
    run_nemesis(&mut *fault, &mut context, name, options.seconds).await;
    begin_phase(RunPhase::Recovery);
    tokio::time::sleep(secs(2)).await;

    load.stop_publishers().await;
    begin_phase(RunPhase::Drain);
    let first = context.cluster.running_nodes().next().expect("at least one node runs");
    let (ports, limit) = (context.cluster.ports(first), options.guarantees.caught_up_within);
    wait_caught_up(ports, &plan.topics, &recorder, limit + secs(1)).await;
    begin_phase(RunPhase::ReadLogs);
    let nodes: Vec<_> =
        context.cluster.running_nodes().map(|node| (node, context.cluster.ports(node))).collect();
    let transports = [Transport::Ws, Transport::Grpc, Transport::Quic];
    let readers =
        LogReaders { nodes: &nodes, trust: &context.cluster.trust(), transports: &transports };
    readers.read_all(&plan.topics, &process_recorder).await;
    load.stop().await;
    // A node closes the descriptors of ended sessions after it has noticed their end.
    tokio::time::sleep(secs(1)).await;
    sample_resources(&context, &process_recorder);
    for node in 0..context.cluster.len() {
        let count = context.cluster.node(node).log_text().matches("panicked").count() as u64;
        process_recorder.record(HistoryEvent::Panics { node, count });
    }
}

/// Injects and heals the fault until the time is over.
async fn run_nemesis(
    fault: &mut dyn FaultInjector,
    context: &mut FaultContext,
    name: &'static str,
    seconds: u64,
) {
    let ends_at = Instant::now() + secs(seconds);
    let name = || name.into();
    for round in 0..fault.rounds_max() {
        if round > 0 && Instant::now() + fault.duration() > ends_at {
            break;
        }
        context
            .process_recorder
            .record(HistoryEvent::FaultInjected { fault: name(), effect: Default::default() });
        match fault.inject(context).await {
            Ok(effect) => {
                // Recorded again, now that the effect is known.
                context
                    .process_recorder
                    .record(HistoryEvent::FaultInjected { fault: name(), effect });
            }
            Err(error) => {
                context
                    .process_recorder
                    .record(HistoryEvent::FaultNotActive { fault: name(), reason: error.into() });
                break;
            }
        }
        let confirmed = fault.confirm(context).await;
        let is_active = confirmed == FaultState::Active;
        context.process_recorder.record(match confirmed {
            FaultState::Active => HistoryEvent::FaultActive { fault: name() },
            FaultState::NotActive(reason) => {
                HistoryEvent::FaultNotActive { fault: name(), reason: reason.into() }
            }
            FaultState::Indeterminate(reason) => {
                HistoryEvent::FaultIndeterminate { fault: name(), reason: reason.into() }
            }
        });
        if is_active {
            tokio::time::sleep(fault.duration()).await;
        }
        fault.heal(context).await;
        context.process_recorder.record(HistoryEvent::FaultHealed { fault: name() });
        context.wait_all_ready().await;
        let pause = Duration::from_millis(context.rng.random_range(300..2_000));
        tokio::time::sleep(pause).await;
    }
}

/// Records the memory and the descriptors of every running node.
fn sample_resources(context: &FaultContext, process_recorder: &ProcessRecorder) {
    for node in context.cluster.running_nodes() {
        let Some(pid) = context.cluster.node(node).pid() else { continue };
        let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
        let status = std::fs::read_to_string(proc.join("status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kib = rss.and_then(|rss| rss.trim().trim_end_matches(" kB").parse().ok());
        let descriptors = std::fs::read_dir(proc.join("fd")).map(|dir| dir.count() as u64);
        if let (Some(rss_kib), Ok(descriptors)) = (rss_kib, descriptors) {
            process_recorder.record(HistoryEvent::ResourceSample { node, rss_kib, descriptors });
        }
    }
}
