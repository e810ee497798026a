//! Several faults and operator commands at once, drawn at random.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, SeedableRng as _};
use tonic::async_trait;

use super::super::Testbed;
use super::partition::{Partition, PartitionShape};
use super::{bad_links, clock_step, disk, power_cut};
use crate::faults::{
    FaultContext, FaultEffect, FaultInjector, FaultState, kill_leader, kill_owner, rolling_restart,
};
use crate::faults::{operator, pause_owner};
use crate::wait::secs;

/// Each round draws a change of settings, conditions that a cluster must tolerate along with other faults, an
/// operator command, and one fault that takes a node out of service. So at most a minority of the nodes is
/// out at any time, and publishing continues.
pub(super) struct Soak {
    testbed: Arc<Testbed>,
    /// Draws the rounds and nothing else, so that the behaviour of a fault does not change the next round.
    rng: StdRng,
    chosen: Vec<(&'static str, Box<dyn FaultInjector>)>,
    hold: Duration,
}

type FaultFactory = fn(&Arc<Testbed>) -> Box<dyn FaultInjector>;

/// A bad link and a partition both set the links, so only one of them is active at a time.
const LINK_FAULTS: &[(&str, FaultFactory)] = &[
    ("packet-loss", |testbed| {
        Box::new(bad_links::BadLinks::new(testbed.clone(), bad_links::lossy_link()))
    }),
    ("packet-delay", |testbed| {
        Box::new(bad_links::BadLinks::new(testbed.clone(), bad_links::slow_link()))
    }),
    ("partition-owner", |testbed| {
        Box::new(Partition::new(testbed.clone(), PartitionShape::OwnerIsolated))
    }),
    ("partition-other", |testbed| {
        Box::new(Partition::new(testbed.clone(), PartitionShape::OtherIsolated))
    }),
    ("owner-receives-nothing", |testbed| {
        Box::new(Partition::new(testbed.clone(), PartitionShape::OwnerReceivesNothing))
    }),
    ("owner-sends-nothing", |testbed| {
        Box::new(Partition::new(testbed.clone(), PartitionShape::OwnerSendsNothing))
    }),
    ("partition-peer-port", |testbed| {
        Box::new(Partition::new(testbed.clone(), PartitionShape::PeerPort))
    }),
    ("partition-pair", |testbed| {
        Box::new(Partition::new(testbed.clone(), PartitionShape::Partial))
    }),
];

const CONDITION_FAULTS: &[(&str, FaultFactory)] = &[
    ("clock-step", |testbed| Box::new(clock_step::ClockStep::new(testbed.clone()))),
    ("slow-fsync", |testbed| Box::new(disk::SlowFsync::new(testbed.clone()))),
];

const SETTINGS_CHANGES: &[(&str, FaultFactory)] = &[
    ("namespace-settings", |_| Box::new(operator::NamespaceSettingsChange::default())),
    ("consensus-times", |_| Box::new(operator::ConsensusTimesChange::default())),
];

const OPERATOR_COMMANDS: &[(&str, FaultFactory)] = &[
    ("drain", |_| Box::new(operator::NodeDrain::default())),
    ("rolling-restart", |_| rolling_restart(false)),
    ("rolling-restart-sigterm", |_| rolling_restart(true)),
];

const NODE_FAULTS: &[(&str, FaultFactory)] = &[
    ("kill-owner", |_| kill_owner()),
    ("kill-control-leader", |_| kill_leader()),
    ("pause-owner", |_| pause_owner()),
    ("power-cut-owner", |testbed| {
        Box::new(power_cut::PowerCut::new(testbed.clone(), power_cut::PowerCutTarget::Owner))
    }),
    ("fsync-error", |testbed| Box::new(disk::FsyncError::new(testbed.clone()))),
];

impl Soak {
    pub(super) fn new(testbed: Arc<Testbed>, seed: u64) -> Soak {
        let rng = StdRng::seed_from_u64(seed);
        Soak { testbed, rng, chosen: Vec::new(), hold: Duration::ZERO }
    }

    /// Faults that partition a node and faults that take one out of service are not combined: they would
    /// affect two nodes.
    fn choose_faults(&mut self) {
        let rng = &mut self.rng;
        let mut chosen: Vec<&(&'static str, FaultFactory)> = Vec::new();
        chosen.extend(CONDITION_FAULTS.iter().filter(|_| rng.random_bool(0.4)));
        let outage_faults = if rng.random() { LINK_FAULTS } else { NODE_FAULTS };
        // Commands come before the outage, because an operator waits for their completion.
        chosen.extend(SETTINGS_CHANGES.choose(rng));
        if rng.random_bool(0.4) {
            chosen.extend(OPERATOR_COMMANDS.choose(rng));
        }
        chosen.extend(outage_faults.iter().choose(rng));
        self.hold = secs(rng.random_range(2..9));
        self.chosen =
            chosen.into_iter().map(|(name, factory)| (*name, factory(&self.testbed))).collect();
    }
}

#[async_trait(?Send)]
impl FaultInjector for Soak {
    fn duration(&self) -> Duration {
        self.hold
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.choose_faults();
        let mut effect = FaultEffect::on_nodes(Vec::new());
        let mut injected_faults = Vec::new();
        for (name, mut fault) in std::mem::take(&mut self.chosen) {
            match fault.inject(context).await {
                Ok(injected) => {
                    effect = effect.combine(injected);
                    injected_faults.push((name, fault));
                }
                // Changes that were already made are healed with the rest.
                Err(error) => context.print_note(&format!("{name} was not injected: {error}")),
            }
        }
        let names: Vec<_> = injected_faults.iter().map(|(name, _)| *name).collect();
        context.print_note(&format!("drawn: {}", names.join(", ")));
        self.chosen = injected_faults;
        if self.chosen.is_empty() { Err("no fault was injected".to_owned()) } else { Ok(effect) }
    }

    /// Active when all drawn faults are active.
    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        for (name, fault) in &mut self.chosen {
            match fault.confirm(context).await {
                FaultState::Active => {}
                FaultState::NotActive(reason) => {
                    return FaultState::NotActive(format!("{name}: {reason}"));
                }
                FaultState::Indeterminate(reason) => {
                    return FaultState::Indeterminate(format!("{name}: {reason}"));
                }
            }
        }
        FaultState::Active
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        while let Some((_, mut fault)) = self.chosen.pop() {
            fault.heal(context).await;
        }
    }
}
