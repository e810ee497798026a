//! Looks at the node again and again, and says whether it can do its work.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pushonce_consensus::Engine;
use pushonce_core::ShardId;
use pushonce_gateway::{Admission, MemoryUse, Rounds};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::health::{Facts, Part, Standing, Watchman};
use super::host::Hosted;
use super::memory;
use super::overview::Overview;

/// Often enough that what is wrong is told within five seconds, most of which silence takes.
const EVERY: Duration = Duration::from_millis(250);

/// An opinion older than this is none: whoever should form one hangs itself.
const OLD: Duration = Duration::from_secs(3);

/// What the last look came to.
#[derive(Clone, Debug)]
pub(super) struct Health {
    because: Vec<String>,
    at: Instant,
}

/// Everything that is looked at.
pub(super) struct Watch {
    pub(super) overview: Overview,
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
    pub(super) ready: watch::Sender<bool>,
}

impl Health {
    /// Before the first look.
    pub(super) fn unknown() -> Health {
        Health { because: vec!["this node is starting".to_owned()], at: Instant::now() }
    }

    /// Why the node cannot do its work; empty when it can.
    pub(super) fn obstacles(&self, now: Instant) -> Vec<String> {
        let age = now.saturating_duration_since(self.at);
        let old = format!("this node has not looked at itself for {} s", age.as_secs());
        self.because.iter().cloned().chain((age >= OLD).then_some(old)).collect()
    }
}

impl Watch {
    /// Looks until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut watchman = Watchman::default();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.memory.set(memory::resident().unwrap_or(0), self.memory_max);
            let at = Instant::now();
            let mut because = watchman.look(&self.facts(), at);
            because.extend(overloaded(&self.admission));
            self.say(&because);
            self.health.send_replace(Health { because, at });
        }
    }

    /// In the log when the answer changes; what it is made of changes with every shard that is moved.
    fn say(&self, because: &[String]) {
        let is_ready = because.is_empty();
        let news =
            self.ready.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready);
        match (news, is_ready) {
            (true, true) => tracing::info!("ready"),
            (true, false) => tracing::warn!("not ready: {}", because.join("; ")),
            (false, _) => {}
        }
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
        Facts {
            me: *me,
            state: view.member(*me).map(|member| member.state),
            control: Standing::from(&*control.borrow()),
            replicas: replicas.collect(),
            owners: view.shards.ids().map(|shard| (shard, owners.of(shard))).collect(),
            reachable: reachable.borrow().clone(),
            halted: self.halted(),
            conflicts: self.relay.version_conflicts().borrow().clone(),
            disk: self.engine.room().err().map(|full| full.to_string()),
            rolled_back: self.engine.rolled_back(),
            rounds,
        }
    }
}

/// A node that rejects new sessions says so before clients are sent to it.
fn overloaded(admission: &Admission) -> Option<String> {
    let (rejecting, lanes) = (admission.rejecting(), admission.lanes());
    (rejecting > 0).then(|| {
        format!(
            "{rejecting} of {lanes} client threads reject new sessions: memory or the backlog of \
             deliveries is near its bound; raise --memory-max or add a node"
        )
    })
}
