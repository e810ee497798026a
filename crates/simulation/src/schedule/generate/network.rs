//! Hosts do not reach each other, or slowly.

use std::time::Duration;

use rand::Rng as _;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};

use super::Generator;
use crate::schedule::{Action, Endpoint};

impl Generator {
    /// Two groups of nodes that do not reach each other; the clients reach all of them, or not.
    pub(super) fn partition(&mut self, begin: Duration, end: Duration) {
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
    pub(super) fn cut_one_link(&mut self, begin: Duration, end: Duration) {
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

    pub(super) fn degrade(&mut self, begin: Duration, end: Duration) {
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

    pub(super) fn disturb_connections(&mut self, begin: Duration) {
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

    pub(super) fn start_with_old_view(&mut self, begin: Duration, end: Duration, node: usize) {
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

    pub(super) fn hand_over_slowly(&mut self, begin: Duration, end: Duration, node: usize) {
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

    pub(super) fn disturb_transfer(&mut self, begin: Duration, end: Duration) {
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
}
