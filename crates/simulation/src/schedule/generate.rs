//! Draws a schedule from a seed.
//!
//! Each run has a random half of the kinds of faults. A run in which everything happens at once finds less: some
//! states are reached only while nothing else disturbs.

mod machine;
mod network;
mod operators;
mod processes;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::{Action, Command, Schedule, Step};

/// A kind of fault, or of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Processes are killed, and started again.
    Kill,
    /// Nodes are shut down, and started again.
    Stop,
    /// Hosts lose their power, some of them amid a write.
    Power,
    /// All hosts lose their power, or all processes are killed.
    Everything,
    /// Processes are stopped for a while.
    Pause,
    /// Machines are suspended for a while.
    Suspend,
    /// Hosts are separated, in one direction or both.
    Partition,
    /// Two nodes do not reach each other, though both reach all others.
    Cut,
    /// Links are slow, lossy or narrow.
    Degrade,
    /// Connections are reset, or stalled.
    Connections,
    /// Dates jump, and clocks drift.
    Clock,
    /// Disks are full, or slow.
    Disk,
    /// One node loses its files, or has older or damaged ones.
    Damage,
    /// Operators change namespaces.
    Namespaces,
    /// Operators drain nodes.
    Drain,
    /// Operators add, remove and replace nodes.
    Membership,
    /// Operators change the consensus times.
    Times,
    /// Nodes start again on other ports.
    Addresses,
    /// A node starts again behind a cut link, after a change of settings that it does not know.
    OldView,
    /// A node with an empty disk receives snapshots over links that break.
    Transfer,
    /// A node hands its shards over while its links are slow and clients subscribe.
    SlowHandover,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [FaultKind; 21] = [
        FaultKind::Kill,
        FaultKind::Stop,
        FaultKind::Power,
        FaultKind::Everything,
        FaultKind::Pause,
        FaultKind::Suspend,
        FaultKind::Partition,
        FaultKind::Cut,
        FaultKind::Degrade,
        FaultKind::Connections,
        FaultKind::Clock,
        FaultKind::Disk,
        FaultKind::Damage,
        FaultKind::Namespaces,
        FaultKind::Drain,
        FaultKind::Membership,
        FaultKind::Times,
        FaultKind::Addresses,
        FaultKind::OldView,
        FaultKind::Transfer,
        FaultKind::SlowHandover,
    ];
}

/// Draws the steps of a run.
pub struct Generator {
    random: StdRng,
    nodes: usize,
    length: Duration,
    is_old_build: bool,
    steps: Vec<Step>,
    /// The node whose files may be lost: with two, acknowledged messages may be lost.
    damaged: usize,
    /// Whether a node was chosen that loses its files or is removed. One at a time: a removed node counts as lost until its
    /// copies have moved.
    is_node_lost: bool,
}

impl Generator {
    /// A generator for a cluster of `nodes`, whose phase of faults has this length. `is_old_build` when all nodes begin
    /// with the build before the newest.
    pub fn new(seed: u64, nodes: usize, length: Duration, is_old_build: bool) -> Generator {
        let mut random = StdRng::seed_from_u64(seed);
        let damaged = random.random_range(0..nodes);
        Generator {
            random,
            nodes,
            length,
            is_old_build,
            steps: Vec::new(),
            damaged,
            is_node_lost: false,
        }
    }

    /// Draws a schedule.
    pub fn generate(mut self) -> Schedule {
        let kinds: Vec<_> =
            FaultKind::ALL.into_iter().filter(|_| self.random.random_bool(0.5)).collect();
        if self.is_old_build {
            self.upgrade();
        }
        let episodes = self.random.random_range(2..=8);
        for _ in 0..episodes {
            let Some(&kind) = kinds.choose(&mut self.random) else { break };
            self.add_episode(kind);
        }
        if self.steps.iter().any(|step| matches!(step.action, Action::RestoreFiles { .. })) {
            self.keep_witnesses();
        }
        self.steps.sort_by_key(|step| step.at);
        Schedule { steps: self.steps }
    }

    fn add_episode(&mut self, kind: FaultKind) {
        let begin = self.time_below(self.length.mul_f64(0.8));
        let length = Duration::from_millis(self.random.random_range(50..8_000));
        let end = (begin + length).min(self.length);
        let node = self.random.random_range(0..self.nodes);
        match kind {
            FaultKind::Kill => self.stop_and_start(begin, end, Action::Kill { node }),
            FaultKind::Stop => self.stop_and_start(begin, end, Action::Stop { node }),
            FaultKind::Power => self.cut_power(begin, end, node),
            FaultKind::Everything => self.stop_everything(begin, end),
            FaultKind::Pause => self.pause(begin, end, node),
            FaultKind::Suspend => {
                self.between(begin, Action::Suspend { node }, end, Action::Resume { node });
            }
            FaultKind::Partition => self.partition(begin, end),
            FaultKind::Cut => self.cut_one_link(begin, end),
            FaultKind::Degrade => self.degrade(begin, end),
            FaultKind::Connections => self.disturb_connections(begin),
            FaultKind::Clock => self.disturb_clock(begin, node),
            FaultKind::Disk => self.disturb_disk(begin, end, node),
            FaultKind::Damage => self.damage(begin, end),
            FaultKind::Namespaces => self.change_namespace_amid_reset(begin, node),
            FaultKind::Drain => self.drain(begin, end, node),
            FaultKind::Membership => self.change_membership(begin, end),
            FaultKind::Times => {
                let ms = self.random.random_range(800..=1_200);
                self.add(begin, Action::Operator(Command::ElectionMax { ms }));
            }
            FaultKind::Addresses => self.change_addresses(begin, end, node),
            FaultKind::OldView => self.start_with_old_view(begin, end, node),
            FaultKind::Transfer => self.disturb_transfer(begin, end),
            FaultKind::SlowHandover => self.hand_over_slowly(begin, end, node),
        }
    }

    fn add(&mut self, at: Duration, action: Action) {
        // Whole milliseconds, as in the text of a schedule.
        let at = Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
        self.steps.push(Step { at, action });
    }

    fn between(&mut self, begin: Duration, first: Action, end: Duration, last: Action) {
        self.add(begin, first);
        self.add(end, last);
    }

    fn time_below(&mut self, end: Duration) -> Duration {
        Duration::from_millis(self.random.random_range(0..end.as_millis().max(1) as u64))
    }
}
