//! One run: a cluster starts, works under load while faults happen, recovers, and is judged.

mod folder;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_client::{CertificateTrust, Transport};
use pushonce_cluster_tests::checker::Guarantees;
use pushonce_cluster_tests::history::{
    FaultEffect, HistoryEvent, HistoryRecord, ProcessRecorder, Recorder, RunPhase,
};
use pushonce_cluster_tests::load::Workload;
use pushonce_cluster_tests::runner::{LogReaders, all_caught_up, wait_caught_up};
use pushonce_cluster_tests::{Ports, http_client};
use pushonce_core::ClusterVersion;
use tokio::time::{Instant, sleep};

pub use folder::RunFolder;

use crate::cluster::SimulatedCluster;
use crate::kernel::{self, Outcome};
use crate::nemesis::Nemesis;
use crate::operator;
use crate::plan::RunPlan;
use crate::schedule::{Action, Command, Step};

/// What a run has shown, before it is judged.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// What all clients observed.
    pub history: Vec<HistoryRecord>,
    /// Why the cluster did not recover, if it did not.
    pub stuck: Option<String>,
    /// A hash of everything that happened. Equal runs have equal hashes.
    pub trace: u64,
    /// The simulated time.
    pub simulated: Duration,
}

/// The time within which a cluster must be whole again after the last fault.
const RECOVERY_MAX: Duration = Duration::from_secs(120);

/// The time for which a healthy cluster is under load at the end.
const RECOVERY_LOAD: Duration = Duration::from_secs(4);

/// The number of messages that every topic keeps at least. Some have more than that after a few seconds, so that
/// a subscriber that resumes late gets a gap.
pub const HISTORY_MIN: u32 = 20;

/// The published limits, but for three: histories are short; nodes are probed once a second, and an owner that works for a
/// moment between two faults renews what the others know; and a WebSocket client of the SDK that only receives notices after
/// 62.5 s that its node lost its power.
pub const GUARANTEES: Guarantees = Guarantees {
    history_min: HISTORY_MIN as usize,
    unready_within: Duration::from_secs(8),
    caught_up_within: Duration::from_secs(75),
    ..Guarantees::PUBLISHED
};

/// The time in which a cluster without faults is ready.
const START_MAX: Duration = Duration::from_secs(30);

/// The longest simulated time of a run: far more than any takes.
const SIMULATED_MAX: Duration = Duration::from_secs(1_800);

/// Panics of all simulated processes.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Runs a plan in this process, which can do so once. `root` is an empty folder for the files of the nodes.
///
/// # Errors
/// When files cannot be written.
pub fn run(plan: &RunPlan, root: &Path, metrics: PrometheusHandle) -> io::Result<RunRecord> {
    let flips_bits =
        plan.schedule.steps.iter().any(|step| matches!(step.action, Action::FlipBits { .. }));
    count_panics(flips_bits);
    kernel::create(plan.seed);
    let result = Arc::new(Mutex::new(None));
    let shards = 2;
    let cluster = SimulatedCluster::new(root, plan.nodes, shards, metrics)?;
    install_builds(&cluster, plan);
    let (clients, plan, slot) = (cluster.clients(), plan.clone(), Arc::clone(&result));
    kernel::limit(SIMULATED_MAX);
    kernel::spawn_on(clients, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime needs no more than a simulated process has");
        let ended = runtime.block_on(Driver::run(cluster, plan));
        *slot.lock().expect("not poisoned") = Some(ended);
        kernel::finish();
    });
    let outcome = kernel::run();
    let (trace, simulated) = kernel::with(|kernel| (kernel.trace(), kernel.now()));
    let ended = result.lock().expect("not poisoned").take();
    let (history, mut stuck) = ended.unwrap_or_default();
    if outcome != Outcome::Finished {
        stuck = Some(format!("the simulation ended early: {outcome:?}"));
    }
    Ok(RunRecord { history, stuck, trace, simulated: Duration::from_nanos(simulated) })
}

/// Lets each host have a build of its own, if this program has several.
fn install_builds(cluster: &SimulatedCluster, plan: &RunPlan) {
    let newest = ClusterVersion::NEWEST.0;
    let build = if plan.is_old_build { newest - 1 } else { newest };
    kernel::with(|kernel| {
        for node in 0..cluster.len() {
            kernel.set_build(cluster.host(node), build);
        }
    });
    #[cfg(feature = "next-version")]
    pushonce_core::set_newest_version(|| {
        let build = kernel::build_here().map(ClusterVersion);
        build.map_or(ClusterVersion::NEWEST, |build| build.min(ClusterVersion::NEWEST))
    });
}

/// Counts panics. With `flips_bits`, those of redb do not count: it panics at some damaged pages, and the log store
/// makes an error of each.
fn count_panics(flips_bits: bool) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_in_redb = panic.location().is_some_and(|place| place.file().contains("/redb-"));
        if !(flips_bits && is_in_redb) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        print(panic);
    }));
}

/// Runs on the host of the clients.
struct Driver {
    cluster: SimulatedCluster,
    recorder: Recorder,
    process: ProcessRecorder,
    /// The nodes that have reported that their log was rolled back, or were not accepted with it.
    rolled_back: BTreeSet<usize>,
}

impl Driver {
    async fn run(cluster: SimulatedCluster, plan: RunPlan) -> (Vec<HistoryRecord>, Option<String>) {
        let recorder = Recorder::new();
        let process = recorder.for_process("runner");
        let mut driver = Driver { cluster, recorder, process, rolled_back: BTreeSet::new() };
        let stuck = driver.run_phases(&plan).await.err();
        for node in 0..driver.cluster.len() {
            // All nodes share one process, so a panic cannot be assigned to one.
            let count = if node == 0 { PANICS.load(Ordering::Relaxed) } else { 0 };
            driver.process.record(HistoryEvent::Panics { node, count });
        }
        (driver.recorder.records(), stuck)
    }

    async fn run_phases(&mut self, plan: &RunPlan) -> Result<(), String> {
        self.start().await?;
        let workload = plan.workload();
        let trust = CertificateTrust::default();
        let mut load = Workload::start(&workload, self.cluster.all_ports(), &trust, &self.recorder);
        let recorder = self.recorder.clone();
        retry("every subscriber receives messages", START_MAX, async || {
            recorder.with_records(|records| all_caught_up(records, |_| None))
        })
        .await?;
        self.begin(RunPhase::WarmUp);
        sleep(Duration::from_secs(2)).await;

        self.begin(RunPhase::Faults);
        let effect = effect_of(plan);
        self.process.record(HistoryEvent::FaultInjected { fault: FAULT.into(), effect });
        self.process.record(HistoryEvent::FaultActive { fault: FAULT.into() });
        let mut nemesis = Nemesis::new(&mut self.cluster);
        let ran = nemesis.run(&plan.schedule, plan.length).await;
        ran.map_err(|error| format!("a step failed: {error}"))?;
        nemesis.heal(&not_upgraded(plan));
        nemesis.finish_commands().await;
        nemesis.wait_until_started().await;
        let removed = nemesis.removed;
        self.process.record(HistoryEvent::FaultHealed { fault: FAULT.into() });

        let recovered = self.recover(&removed, &damaged_nodes(plan)).await;
        // Without a current address of any other node, a removed node never learns of its removal.
        removed.iter().for_each(|&node| kernel::kill(self.cluster.host(node)));
        self.begin(RunPhase::Recovery);
        sleep(RECOVERY_LOAD).await;
        load.stop_publishers().await;
        self.begin(RunPhase::Drain);
        let members = self.members(&removed);
        let Some(&(_, first)) = members.first() else { return recovered };
        let limit = GUARANTEES.caught_up_within + Duration::from_secs(1);
        wait_caught_up(first, &workload.topics, &self.recorder, limit).await;
        self.begin(RunPhase::ReadLogs);
        recovered?;
        let missed = rolled_back_node(plan).filter(|node| !self.rolled_back.contains(node));
        if let Some(node) = missed {
            return Err(format!("node {node} was rolled back, and did not report it"));
        }
        let readers = LogReaders {
            nodes: &members,
            trust: &trust,
            transports: &[Transport::Ws, Transport::Grpc],
        };
        readers.read_all(&workload.topics, &self.process).await;
        load.stop().await;
        Ok(())
    }

    fn begin(&self, phase: RunPhase) {
        self.process.record(HistoryEvent::Phase { phase });
    }

    /// Starts all nodes, and creates the namespaces of the load.
    async fn start(&self) -> Result<(), String> {
        for node in 0..self.cluster.len() {
            self.cluster.start(node);
            if node == 0 {
                self.wait_ready(&[0], START_MAX).await?;
            }
        }
        let all: Vec<_> = (0..self.cluster.len()).collect();
        self.wait_ready(&all, START_MAX).await?;
        let in_memory = Command::Durability { namespace: "pulse".to_owned(), in_memory: true };
        operator::run(in_memory, self.cluster.all_ports(), Vec::new()).await?;
        for namespace in ["hot", "game", "pulse"].map(str::to_owned) {
            let short = Command::History { namespace, messages: HISTORY_MIN };
            operator::run(short, self.cluster.all_ports(), Vec::new()).await?;
        }
        self.wait_whole(&self.members(&BTreeSet::new()), START_MAX).await
    }

    /// The nodes that must work after the faults.
    fn members(&self, removed: &BTreeSet<usize>) -> Vec<(usize, Ports)> {
        let remaining = (0..self.cluster.len()).filter(|node| !removed.contains(node));
        remaining.map(|node| (node, self.cluster.ports(node))).collect()
    }

    /// Waits until the cluster is whole again. Replaces a node that does not start, as an operator does, but only one whose
    /// files were damaged: every other node must start.
    async fn recover(
        &mut self,
        removed: &BTreeSet<usize>,
        damaged: &BTreeSet<usize>,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let mut restarts = vec![0; self.cluster.len()];
        loop {
            let members = self.members(removed);
            let whole = self.is_whole(&members).await;
            let Err(reason) = whole else { return Ok(()) };
            if begun.elapsed() > RECOVERY_MAX {
                return Err(format!("not recovered within {RECOVERY_MAX:?}: {reason}"));
            }
            self.remove_lost(&members).await;
            if let Some(node) = self.find_rolled_back(&members).await {
                if !damaged.contains(&node) {
                    return Err(format!("node {node} reports a rollback that did not happen"));
                }
                self.rolled_back.insert(node);
                self.replace(node)?;
            }
            for &(node, ports) in &members {
                let is_late = begun.elapsed() > ADDRESSES_MAX;
                if is_late && self.cluster.has_old_addresses(node) && is_ready(ports).await.is_err()
                {
                    tracing::info!(node, "restarting a node with the new addresses of the others");
                    kernel::kill(self.cluster.host(node));
                }
                if !self.cluster.is_running(node) {
                    restarts[node] += 1;
                    if restarts[node] > RESTARTS_MAX {
                        if !damaged.contains(&node) {
                            return Err(format!(
                                "node {node}, whose files are whole, does not start"
                            ));
                        }
                        restarts[node] = 0;
                        // Its cluster does not accept an old copy.
                        self.rolled_back.insert(node);
                        self.replace(node)?;
                    }
                    self.cluster.start(node);
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// A node whose log was rolled back, which asks its operator to replace it.
    async fn find_rolled_back(&self, members: &[(usize, Ports)]) -> Option<usize> {
        for &(node, ports) in members {
            if is_ready(ports).await.is_err_and(|reason| reason.contains("was rolled back")) {
                return Some(node);
            }
        }
        None
    }

    /// Replaces a node by a new one on an empty disk.
    fn replace(&mut self, node: usize) -> Result<(), String> {
        tracing::info!(node, "replacing a node");
        kernel::kill(self.cluster.host(node));
        self.cluster.wipe(node).map_err(|error| error.to_string())
    }

    /// Removes the members that will not come back, as far as their cluster knows of them.
    async fn remove_lost(&self, members: &[(usize, Ports)]) {
        let ports: Vec<_> = members.iter().map(|&(_, ports)| ports).collect();
        let Ok(status) = operator::status(&ports).await else { return };
        for member in status.members.iter().filter(|m| self.cluster.lost().contains(&m.name)) {
            for &node in &ports {
                if operator::remove_lost(node, member.id).await.is_ok() {
                    break;
                }
            }
        }
    }

    async fn wait_ready(&self, nodes: &[usize], limit: Duration) -> Result<(), String> {
        for &node in nodes {
            let ports = self.cluster.ports(node);
            retry(&format!("node {node} is ready"), limit, async || is_ready(ports).await).await?;
        }
        Ok(())
    }

    async fn wait_whole(&self, members: &[(usize, Ports)], limit: Duration) -> Result<(), String> {
        retry("the cluster is whole", limit, async || self.is_whole(members).await).await
    }

    /// Whether every node is ready, and no node knows of a problem.
    async fn is_whole(&self, members: &[(usize, Ports)]) -> Result<(), String> {
        for &(node, ports) in members {
            is_ready(ports).await.map_err(|reason| format!("node {node}: {reason}"))?;
            let status = operator::status_of(ports).await?;
            if let Some(problem) = status.problems.first() {
                return Err(format!("node {node} reports: {problem:?}"));
            }
        }
        Ok(())
    }
}

/// The time after which a node that still waits for the others gets their new addresses from its operator.
const ADDRESSES_MAX: Duration = Duration::from_secs(30);

/// The name of all faults of a run in its history: they overlap.
const FAULT: &str = "schedule";

/// Starts of a node that ends at once, before it is replaced.
const RESTARTS_MAX: u32 = 6;

fn effect_of(plan: &RunPlan) -> FaultEffect {
    let steps = || plan.schedule.steps.iter().map(|step| &step.action);
    let nodes: BTreeSet<_> = steps().filter_map(Action::node).collect();
    let all: Vec<_> = (0..plan.nodes).collect();
    FaultEffect {
        nodes: nodes.into_iter().collect(),
        damaged: damaged_nodes(plan).into_iter().collect(),
        // Any of them may have been replaced as an owner while it was cut off.
        deposed: all,
        ..FaultEffect::default()
    }
}

/// The nodes that no step upgrades and that stay members: the version of the cluster must not be raised.
fn not_upgraded(plan: &RunPlan) -> BTreeSet<usize> {
    let is_touched = |node: usize| {
        plan.schedule.steps.iter().any(|step| match &step.action {
            Action::Install { node: upgraded, .. } => *upgraded == node,
            Action::Operator(Command::Remove { node: removed }) => *removed == node,
            action => action.damages_files() && action.node() == Some(node),
        })
    };
    (0..plan.nodes).filter(|&node| plan.is_old_build && !is_touched(node)).collect()
}

/// The nodes whose files are no longer those that they wrote.
fn damaged_nodes(plan: &RunPlan) -> BTreeSet<usize> {
    let actions = plan.schedule.steps.iter().map(|step| &step.action);
    actions.filter(|action| action.damages_files()).filter_map(Action::node).collect()
}

/// The node that has got an older copy of its files, which is certainly older: it was under load for some seconds in between,
/// and nothing else kept it from writing.
fn rolled_back_node(plan: &RunPlan) -> Option<usize> {
    let is_restore = |step: &&Step| matches!(step.action, Action::RestoreFiles { .. });
    let node = plan.schedule.steps.iter().find(is_restore)?.action.node();
    let concerns_node = |step: &&Step| {
        let is_clock = matches!(step.action, Action::StepClock { .. } | Action::Drift { .. });
        step.action.node() == node && !is_clock
    };
    let steps: Vec<_> = plan.schedule.steps.iter().filter(concerns_node).collect();
    let [_, saved, started, killed, restored, _] = &steps[..] else { return None };
    let is_certain = matches!(saved.action, Action::SaveFiles { .. })
        && matches!(started.action, Action::Start { .. })
        && matches!(killed.action, Action::Kill { .. })
        && restored.at > saved.at + ROLLBACK_CERTAIN;
    node.filter(|_| is_certain)
}

/// The time after which a running node has certainly written something.
const ROLLBACK_CERTAIN: Duration = Duration::from_secs(5);

async fn is_ready(ports: Ports) -> Result<(), String> {
    let answer = http_client::get(ports.http, "/health/ready", &[]);
    let answer = tokio::time::timeout(Duration::from_secs(2), answer).await;
    let answer = answer.map_err(|_| "no answer".to_owned())??;
    if answer.status == 200 { Ok(()) } else { Err(answer.body) }
}

/// Repeats until it succeeds.
async fn retry<F>(what: &str, limit: Duration, mut attempt: impl FnMut() -> F) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > limit => {
                return Err(format!("{what}: not within {limit:?}: {error}"));
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}
