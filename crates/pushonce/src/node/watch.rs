//! Looks at the node again and again, and says whether it can do its work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_consensus::Engine;
use pushonce_control::condition::Problem;
use pushonce_core::ShardId;
use pushonce_gateway::{Admission, MemoryUse, Rounds};
use pushonce_publish::Ready;
use pushonce_shard::NodeTopics;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::current::Current;
use super::health::{Blocks, Facts, Part, Reason, Standing, Watchman};
use super::host::Hosted;
use super::memory;
use super::moves;
use super::overview::Overview;

/// Often enough that what is wrong is told within five seconds, most of which silence takes.
const EVERY: Duration = Duration::from_millis(250);

/// An opinion older than this is none: whoever should form one hangs itself.
const OLD: Duration = Duration::from_secs(3);

/// What the last look came to.
#[derive(Clone, Debug)]
pub(super) struct Health {
    because: Vec<Reason>,
    at: Instant,
}

/// Everything that is looked at.
pub(super) struct Watch {
    pub(super) overview: Overview,
    pub(super) current: watch::Receiver<Current>,
    pub(super) topics: Arc<NodeTopics>,
    pub(super) hosted: Hosted,
    pub(super) engine: Engine,
    pub(super) relay: pushonce_relay::Handle,
    pub(super) lanes: Rounds,
    pub(super) admission: Admission,
    pub(super) memory: MemoryUse,
    /// In bytes; zero is no bound.
    pub(super) memory_max: u64,
    pub(super) health: watch::Sender<Health>,
    /// The same as yes or no.
    pub(super) ready: watch::Sender<Ready>,
    /// Cancelled when the node begins to stop.
    pub(super) stopping: CancellationToken,
}

/// The one reason of a node that stops.
pub(super) const STOPPING: &str = "this node is stopping";

/// What a node with these reasons can do.
pub(super) fn ready(because: &[Reason]) -> Ready {
    let blocked = |what: fn(Blocks) -> bool| because.iter().any(|reason| what(reason.blocks));
    Ready { publish: !blocked(|b| b.publish), viewers: !blocked(|b| b.viewers) }
}

/// Counts what is wrong with the cluster as this node sees it.
struct ProblemGauges(Vec<(&'static str, metrics::Gauge)>);

impl ProblemGauges {
    fn new() -> ProblemGauges {
        let gauge = |kind| (kind, metrics::gauge!("pushonce_cluster_problems", "kind" => kind));
        ProblemGauges(Problem::KINDS.map(gauge).to_vec())
    }

    fn count(&self, problems: &[Problem]) {
        for (kind, gauge) in &self.0 {
            let of_kind = problems.iter().filter(|problem| problem.kind() == *kind);
            gauge.set(of_kind.map(Problem::count).sum::<usize>() as f64);
        }
    }
}

impl Health {
    /// Before the first look.
    pub(super) fn unknown() -> Health {
        Health { because: vec![Reason::of_all("this node is starting")], at: Instant::now() }
    }

    /// Why the node cannot do its work; empty when it can.
    pub(super) fn obstacles(&self, now: Instant) -> Vec<Reason> {
        let age = now.saturating_duration_since(self.at);
        let old = format!("this node has not looked at itself for {} s", age.as_secs());
        let old = (age >= OLD).then(|| Reason::of_all(old));
        self.because.iter().cloned().chain(old).collect()
    }
}

impl Watch {
    /// Looks until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut watchman = Watchman::default();
        let problems = ProblemGauges::new();
        let topics = metrics::gauge!("pushonce_topics");
        let mut said = false;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Told at once: nobody should send anything more to a node that stops.
                () = self.stopping.cancelled(), if !said => said = true,
                _ = ticks.tick() => {}
            }
            self.memory.set(memory::resident().unwrap_or(0), self.memory_max);
            let at = Instant::now();
            self.measure_lag();
            let because = if said {
                vec![Reason::of_all(STOPPING)]
            } else {
                let mut because = watchman.look(&self.facts(), at);
                because.extend(self.overview.foreign_address());
                because.extend(overloaded(&self.admission));
                because
            };
            self.say(&because);
            self.health.send_replace(Health { because, at });
            problems.count(&self.overview.problems(&moves::local(self.hosted.progress())));
            topics.set(self.topics.held() as f64);
        }
    }

    /// In the log when the answer changes; what it is made of changes with every shard that is moved.
    fn say(&self, because: &[Reason]) {
        let now = ready(because);
        if !self.ready.send_if_modified(|known| std::mem::replace(known, now) != now) {
            return;
        }
        let texts: Vec<_> = because.iter().map(|reason| reason.text.as_str()).collect();
        let because = texts.join("; ");
        match (now.publish, now.viewers) {
            (true, true) => tracing::info!("ready"),
            (false, false) => tracing::warn!(%because, "not ready"),
            (false, true) => tracing::warn!(%because, "not ready for publishers"),
            (true, false) => tracing::warn!(%because, "not ready for subscribers"),
        }
    }

    /// How far the replicas of this node are behind their leaders, and how far those that it leads are
    /// behind this node.
    fn measure_lag(&self) {
        let (mut own, mut followers, mut sending) = (0, 0, 0);
        for handle in self.hosted.all() {
            let status = handle.group().status();
            let status = status.borrow();
            own = own.max(status.lag());
            let lags = status.voters.iter().filter_map(|&node| status.lag_of(node));
            followers = followers.max(lags.max().unwrap_or(0));
            sending += status.sending.len();
        }
        metrics::gauge!("pushonce_replica_lag_entries", "side" => "own").set(own as f64);
        metrics::gauge!("pushonce_replica_lag_entries", "side" => "followers")
            .set(followers as f64);
        metrics::gauge!("pushonce_snapshots_sending").set(sending as f64);
    }

    /// Why groups have halted on this node.
    fn halted(&self) -> BTreeMap<Option<ShardId>, String> {
        let control = self.overview.control.borrow().halted.clone().map(|why| (None, why));
        let shards = self.hosted.halted().into_iter().map(|(shard, why)| (Some(shard), why));
        let halted: BTreeMap<_, _> = control.into_iter().chain(shards).collect();
        metrics::gauge!("pushonce_halted_replicas").set(halted.len() as f64);
        halted
    }

    fn facts(&self) -> Facts {
        let Overview { me, view, owners, reachable, control, .. } = &self.overview;
        let (view, owners) = (view.borrow().clone(), owners.borrow().clone());
        // A founder has begun replicas before it was told how many shards there are.
        let counted = |handle: &pushonce_shard::Handle| handle.id().0 < view.shards.get();
        let replicas = self
            .hosted
            .all()
            .into_iter()
            .filter(counted)
            .map(|handle| (handle.id(), Standing::from(&*handle.group().status().borrow())));
        let lanes = self.lanes.counts().into_iter().enumerate();
        let mut rounds: BTreeMap<Part, u64> =
            lanes.map(|(lane, count)| (Part::Lane(lane), count)).collect();
        rounds.insert(Part::Relay, self.relay.rounds());
        let restored = self.engine.found().iter().filter_map(|group| group.as_shard());
        // Each watch is borrowed in a statement of its own: a borrow in the expression below would last
        // until its end, and a second borrow of the same watch waits for ever behind a writer that waits
        // for the first.
        let copies = self.overview.seen(|seen| {
            view.shards.ids().map(|shard| (shard, seen.voters(shard).to_vec())).collect()
        });
        let standing = Standing::from(&*control.borrow());
        let reachable = reachable.borrow().clone();
        let conflicts = self.relay.version_conflicts().borrow().clone();
        let halted = self.halted();
        Facts {
            me: *me,
            restored: restored.collect(),
            state: view.member(*me).map(|member| member.state),
            control: standing,
            replicas: replicas.collect(),
            owners: view.shards.ids().map(|shard| (shard, owners.of(shard))).collect(),
            copies,
            reachable,
            halted,
            conflicts,
            is_current: self.current.borrow().is_some(),
            is_opening: self.hosted.is_opening(),
            disk: self.engine.room().err().map(|full| full.to_string()),
            rolled_back: self.engine.rolled_back(),
            rounds,
        }
    }
}

/// A node that rejects new sessions says so. It keeps viewers away for its load alone: one that has as many
/// clients as it may have serves these, and would change its mind with each that goes.
fn overloaded(admission: &Admission) -> Option<Reason> {
    let (rejecting, lanes) = (admission.rejecting(), admission.lanes());
    (rejecting > 0).then(|| Reason {
        text: format!(
            "{rejecting} of {lanes} client threads reject new sessions: {}",
            admission.reasons().join("; ")
        ),
        blocks: if admission.overloaded() > 0 { Blocks::VIEWERS } else { Blocks::default() },
    })
}
