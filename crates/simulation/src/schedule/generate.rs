//! Draws a schedule from a seed.
//!
//! Each run has a random half of the kinds of faults. A run in which everything happens at once finds less: some
//! states are reached only while nothing else disturbs.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, SeedableRng as _};

use pushonce_core::ClusterVersion;

use super::{Action, Command, Endpoint, Schedule, Step};
use crate::run::HISTORY_MIN;

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

    fn stop_and_start(&mut self, begin: Duration, end: Duration, stop: Action) {
        let node = stop.node().unwrap_or_default();
        self.between(begin, stop, end, Action::Start { node });
    }

    /// Longer than an election takes, or several times for about as long as a lease.
    fn pause(&mut self, begin: Duration, end: Duration, node: usize) {
        if self.random.random_bool(0.5) {
            return self.between(begin, Action::Pause { node }, end, Action::Resume { node });
        }
        let mut at = begin;
        for _ in 0..self.random.random_range(1..=4) {
            let resumed = at + Duration::from_millis(self.random.random_range(200..1_200));
            self.between(at, Action::Pause { node }, resumed, Action::Resume { node });
            at = resumed + self.time_below(Duration::from_secs(2));
        }
    }

    fn cut_power(&mut self, begin: Duration, end: Duration, node: usize) {
        let cut = match self.random.random_bool(0.5) {
            true => Action::CutPower { node },
            false => Action::CutPowerAfter { node, operations: self.random.random_range(0..60) },
        };
        self.stop_and_start(begin, end, cut);
    }

    /// All within some milliseconds, and started at different times.
    fn stop_everything(&mut self, begin: Duration, end: Duration) {
        let has_power = self.random.random_bool(0.5);
        for node in 0..self.nodes {
            let at = begin + self.time_below(Duration::from_millis(100));
            let stop = if has_power { Action::Kill { node } } else { Action::CutPower { node } };
            let start_at = end + self.time_below(Duration::from_secs(2));
            self.stop_and_start(at, start_at, stop);
        }
    }

    /// Two groups of nodes that do not reach each other; the clients reach all of them, or not.
    fn partition(&mut self, begin: Duration, end: Duration) {
        let nodes = 0..self.nodes;
        let size = self.random.random_range(1..=self.nodes / 2);
        let group = nodes.clone().choose_multiple(&mut self.random, size);
        let (is_outward_cut, is_inward_cut) = match self.random.random_range(0..3) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let mut others: Vec<_> =
            nodes.filter(|node| !group.contains(node)).map(Endpoint::Node).collect();
        if self.random.random_bool(0.3) {
            others.push(Endpoint::Clients);
        }
        for &node in &group {
            for &other in &others {
                let node = Endpoint::Node(node);
                if is_outward_cut {
                    self.cut(begin, end, node, other);
                }
                if is_inward_cut {
                    self.cut(begin, end, other, node);
                }
            }
        }
    }

    /// While an operator changes settings, which reach one of the two late.
    fn cut_one_link(&mut self, begin: Duration, end: Duration) {
        let pair = (0..self.nodes).choose_multiple(&mut self.random, 2);
        let &[a, b] = &pair[..] else { return };
        self.cut(begin, end, Endpoint::Node(a), Endpoint::Node(b));
        self.cut(begin, end, Endpoint::Node(b), Endpoint::Node(a));
        let at = begin + self.time_below(end.saturating_sub(begin));
        self.change_namespace(at);
    }

    fn cut(&mut self, begin: Duration, end: Duration, from: Endpoint, to: Endpoint) {
        self.between(begin, Action::Cut { from, to }, end, Action::Restore { from, to });
    }

    /// Two different hosts, of which one has a node.
    fn endpoints(&mut self) -> (Endpoint, Endpoint) {
        let from = self.random.random_range(0..self.nodes);
        let others = (0..self.nodes).filter(|&node| node != from).map(Endpoint::Node);
        let to = others.chain([Endpoint::Clients]).choose(&mut self.random);
        let (from, to) = (Endpoint::Node(from), to.unwrap_or(Endpoint::Clients));
        if self.random.random() { (from, to) } else { (to, from) }
    }

    fn degrade(&mut self, begin: Duration, end: Duration) {
        let count = self.random.random_range(1..=4);
        for _ in 0..count {
            let (from, to) = self.endpoints();
            let latency_ms = [0, 5, 40, 200].choose(&mut self.random).copied().unwrap_or_default();
            let loss = [0, 10, 100, 300].choose(&mut self.random).copied().unwrap_or_default();
            let bytes_per_ms =
                [0, 0, 20, 200].choose(&mut self.random).copied().unwrap_or_default();
            let degrade = Action::Degrade { from, to, latency_ms, loss, bytes_per_ms };
            self.between(begin, degrade, end, Action::Restore { from, to });
        }
    }

    fn disturb_connections(&mut self, begin: Duration) {
        let count = self.random.random_range(1..=5);
        for _ in 0..count {
            let at = begin + self.time_below(Duration::from_secs(2));
            let (from, to) = self.endpoints();
            let connection = self.random.random_range(0..6);
            let action = match self.random.random_bool(0.5) {
                true => Action::Reset { from, to },
                false => Action::Stall { from, to, connection },
            };
            self.add(at, action);
        }
    }

    fn disturb_clock(&mut self, begin: Duration, node: usize) {
        let action = match self.random.random_range(0..3) {
            0 => Action::StepClock { node, by_ms: self.random.random_range(-7_200_000..7_200_000) },
            1 => Action::StepClock { node, by_ms: self.random.random_range(-2_000..2_000) },
            _ => Action::Drift { node, ppm: self.random.random_range(-500..=500) },
        };
        self.add(begin, action);
    }

    fn disturb_disk(&mut self, begin: Duration, end: Duration, node: usize) {
        if self.random.random_bool(0.5) {
            self.between(begin, Action::FillDisk { node }, end, Action::FreeDisk { node });
        } else {
            let sync_ms = [2, 20, 150].choose(&mut self.random).copied().unwrap_or_default();
            let usual = Action::SlowDisk { node, sync_ms: 0 };
            self.between(begin, Action::SlowDisk { node, sync_ms }, end, usual);
        }
    }

    /// Something happens to the files of one node, once.
    fn damage(&mut self, begin: Duration, end: Duration) {
        if std::mem::replace(&mut self.is_node_lost, true) {
            return;
        }
        let node = self.damaged;
        let next = Duration::from_millis(1);
        match self.random.random_range(0..5) {
            0 => {
                self.add(begin, Action::FailSync { node });
                self.add(end, Action::Start { node });
            }
            1 => {
                // After a kill, the whole file is checked, after a shutdown only what is read.
                let is_killed = self.random.random_bool(0.3);
                let stop = if is_killed { Action::Kill { node } } else { Action::Stop { node } };
                self.add(begin, stop);
                let place = self.random.random_range(0..1_000_000);
                self.add(end, Action::FlipBits { node, place });
                self.add(end + next, Action::Start { node });
            }
            2 => {
                self.add(begin, Action::Kill { node });
                self.add(begin + next, Action::SaveFiles { node });
                self.add(begin + 2 * next, Action::Start { node });
                self.add(end, Action::Kill { node });
                self.add(end + next, Action::RestoreFiles { node });
                self.add(end + 2 * next, Action::Start { node });
            }
            3 => self.lose_log_beside_late_node(begin, end),
            _ => {
                self.add(begin, Action::Kill { node });
                self.add(begin + next, Action::Wipe { node });
                self.add(end, Action::Start { node });
            }
        }
    }

    /// One node loses its log while another one is behind, and starts with that one before the third is back. If its votes
    /// counted, the two would continue without what only the third has.
    fn lose_log_beside_late_node(&mut self, begin: Duration, end: Duration) {
        let lost = self.damaged;
        let others: Vec<_> = (0..self.nodes).filter(|&node| node != lost).collect();
        let Some(&late) = others.choose(&mut self.random) else { return };
        let delay = self.time_below(Duration::from_secs(2));
        self.stop_and_start(begin, end + delay, Action::Kill { node: late });
        for &node in others.iter().filter(|&&node| node != late) {
            self.stop_and_start(end, end + delay + Duration::from_secs(4), Action::Kill { node });
        }
        self.stop_and_start(end, end + delay, Action::DeleteLog { node: lost });
    }

    /// The shards of a node move away and back, once or, before they have arrived, several times.
    fn drain(&mut self, begin: Duration, end: Duration, node: usize) {
        let drain = Action::Operator(Command::Drain { node });
        let undrain = Action::Operator(Command::Undrain { node });
        if self.random.random_bool(0.5) {
            return self.between(begin, drain, end, undrain);
        }
        // With three nodes, the copies of a shard have nowhere else to go.
        self.add(begin, Action::Operator(Command::Join));
        let mut at = begin + self.time_below(Duration::from_secs(3));
        if self.random.random_bool(0.5) {
            // It is late to notice that it has no copy any more.
            let (slow, usual) =
                (Action::SlowDisk { node, sync_ms: 150 }, Action::SlowDisk { node, sync_ms: 0 });
            self.between(begin, slow, self.length, usual);
        }
        for _ in 0..self.random.random_range(2..=5) {
            let back = at + self.time_below(Duration::from_millis(1_500));
            self.between(at, drain.clone(), back, undrain.clone());
            at = back + self.time_below(Duration::from_millis(1_500));
        }
    }

    /// One node or all of them.
    fn change_addresses(&mut self, begin: Duration, end: Duration, node: usize) {
        let nodes = if self.random.random_bool(0.5) { 0..self.nodes } else { node..node + 1 };
        for node in nodes {
            self.stop_and_start(begin, end, Action::Kill { node });
            self.add(begin, Action::ChangeAddress { node });
        }
    }

    fn start_with_old_view(&mut self, begin: Duration, end: Duration, node: usize) {
        let changed = begin + self.time_below(Duration::from_secs(1));
        let start = changed + self.time_below(Duration::from_secs(2));
        self.add(begin, Action::Kill { node });
        self.change_namespace(changed);
        let others = (0..self.nodes).filter(|&other| other != node);
        let Some(other) = others.choose(&mut self.random) else { return };
        self.cut(start, start.max(end), Endpoint::Node(node), Endpoint::Node(other));
        self.cut(start, start.max(end), Endpoint::Node(other), Endpoint::Node(node));
        self.add(start, Action::Start { node });
    }

    fn hand_over_slowly(&mut self, begin: Duration, end: Duration, node: usize) {
        let stop = begin + self.time_below(Duration::from_millis(500));
        for other in (0..self.nodes).filter(|&other| other != node) {
            let (from, to) = (Endpoint::Node(node), Endpoint::Node(other));
            let latency_ms = self.random.random_range(50..400);
            let slow = Action::Degrade { from, to, latency_ms, loss: 0, bytes_per_ms: 0 };
            self.between(begin, slow, end.max(stop), Action::Restore { from, to });
            // Its clients subscribe again.
            for _ in 0..self.random.random_range(1..=4) {
                let at = stop + self.time_below(Duration::from_millis(1_000));
                self.add(at, Action::Reset { from: Endpoint::Clients, to });
            }
        }
        self.stop_and_start(stop, end.max(stop), Action::Stop { node });
    }

    fn disturb_transfer(&mut self, begin: Duration, end: Duration) {
        if std::mem::replace(&mut self.is_node_lost, true) {
            return;
        }
        let node = self.damaged;
        self.add(begin, Action::Kill { node });
        self.add(begin, Action::Wipe { node });
        let to = Endpoint::Node(node);
        let others: Vec<_> = (0..self.nodes).filter(|&other| other != node).collect();
        for from in others.into_iter().map(Endpoint::Node) {
            let degrade = Action::Degrade { from, to, latency_ms: 5, loss: 0, bytes_per_ms: 150 };
            self.between(begin, degrade, end, Action::Restore { from, to });
            let mut at = begin + self.time_below(Duration::from_secs(3));
            while at < end {
                self.add(at, Action::Reset { from, to });
                at += Duration::from_millis(self.random.random_range(500..3_000));
            }
        }
        self.add(begin, Action::Start { node });
    }

    /// A rolling upgrade that takes most of the time, with steps back, and at last the raise.
    fn upgrade(&mut self) {
        let (old, new) = (ClusterVersion::NEWEST.0 - 1, ClusterVersion::NEWEST.0);
        let interval = self.length.mul_f64(0.7) / u32::try_from(self.nodes).unwrap_or(1);
        for node in 0..self.nodes {
            let mut at = interval * u32::try_from(node).unwrap_or_default();
            let returns = self.random.random_bool(0.2);
            let versions = if returns { vec![new, old, new] } else { vec![new] };
            for version in versions {
                at += self.time_below(interval / 4);
                let stop = match self.random.random_bool(0.7) {
                    true => Action::Stop { node },
                    false => Action::Kill { node },
                };
                self.add(at, stop);
                self.add(at, Action::Install { node, version });
                at += Duration::from_millis(self.random.random_range(100..2_500));
                self.add(at, Action::Start { node });
            }
        }
        let at = self.length.mul_f64(0.6) + self.time_below(self.length.mul_f64(0.4));
        self.add(at, Action::Operator(Command::Finalize));
    }

    /// Removes everything that stops or separates the nodes beside a rolled-back one. Only nodes that have run since its
    /// commits know of them; with another node that missed them, it would be a majority.
    fn keep_witnesses(&mut self) {
        let damaged = self.damaged;
        self.steps.retain(|step| match &step.action {
            Action::StepClock { .. } | Action::Drift { .. } | Action::SlowDisk { .. } => true,
            Action::Operator(command) => !matches!(command, Command::Remove { .. }),
            action => action.node() == Some(damaged),
        });
    }

    /// With a change of durability, publishers have to repeat publishes of which they do not know the outcome.
    fn change_namespace_amid_reset(&mut self, begin: Duration, node: usize) {
        self.change_namespace(begin);
        if self.random.random_bool(0.5) {
            let at = begin + self.time_below(Duration::from_millis(100));
            match self.random.random_bool(0.5) {
                true => {
                    let (from, to) = (Endpoint::Clients, Endpoint::Node(node));
                    self.add(at, Action::Reset { from, to });
                }
                false => {
                    let start = at + self.time_below(Duration::from_secs(2));
                    self.stop_and_start(at, start, Action::Kill { node });
                }
            }
        }
    }

    fn change_namespace(&mut self, begin: Duration) {
        let command = match self.random.random_bool(0.5) {
            true => {
                let namespace =
                    ["hot", "game"].choose(&mut self.random).copied().unwrap_or("hot").to_owned();
                let messages = self.random.random_range(HISTORY_MIN..4 * HISTORY_MIN);
                Command::History { namespace, messages }
            }
            // Not back into memory: a message that arrives between the count of the stored messages and the change is
            // dropped although it was acknowledged (see RESULTS.md).
            false => Command::Durability { namespace: "pulse".to_owned(), in_memory: false },
        };
        self.add(begin, Action::Operator(command));
    }

    fn change_membership(&mut self, begin: Duration, end: Duration) {
        self.add(begin, Action::Operator(Command::Join));
        if self.random.random_bool(0.6) && !std::mem::replace(&mut self.is_node_lost, true) {
            // The node that leaves does not count as lost: its shards move first.
            let node = self.random.random_range(0..self.nodes);
            let drained = begin + self.time_below(end.saturating_sub(begin));
            self.add(drained, Action::Operator(Command::Drain { node }));
            self.add(end, Action::Operator(Command::Remove { node }));
        }
    }
}
