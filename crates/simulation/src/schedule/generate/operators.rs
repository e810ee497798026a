//! Commands of operators.

use std::time::Duration;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::Generator;
use crate::run::HISTORY_MIN;
use crate::schedule::{Action, Command, Endpoint};

impl Generator {
    /// The shards of a node move away and back, once or, before they have arrived, several times.
    pub(super) fn drain(&mut self, begin: Duration, end: Duration, node: usize) {
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

    /// With a change of durability, publishers have to repeat publishes of which they do not know the outcome.
    pub(super) fn change_namespace_amid_reset(&mut self, begin: Duration, node: usize) {
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

    pub(super) fn change_namespace(&mut self, begin: Duration) {
        if self.random.random_bool(0.5) {
            return self.change_durability(begin);
        }
        let namespace =
            ["hot", "game"].choose(&mut self.random).copied().unwrap_or("hot").to_owned();
        let messages = self.random.random_range(HISTORY_MIN..4 * HISTORY_MIN);
        self.add(begin, Action::Operator(Command::History { namespace, messages }));
    }

    /// A namespace moves out of memory and, in some runs, back before many messages are stored: with stored messages
    /// the move back is rejected.
    fn change_durability(&mut self, begin: Duration) {
        let command = |in_memory| {
            let namespace = "pulse".to_owned();
            Action::Operator(Command::Durability { namespace, in_memory })
        };
        self.add(begin, command(false));
        if self.random.random_bool(0.7) {
            let back = begin + self.time_below(Duration::from_millis(30));
            self.add(back, command(true));
        }
    }

    pub(super) fn change_membership(&mut self, begin: Duration, end: Duration) {
        self.add(begin, Action::Operator(Command::Join));
        if self.random.random_bool(0.6) && !std::mem::replace(&mut self.is_node_lost, true) {
            // Its shards move to other nodes first.
            let node = self.random.random_range(0..self.nodes);
            let drained = begin + self.time_below(end.saturating_sub(begin));
            self.add(drained, Action::Operator(Command::Drain { node }));
            self.add(end, Action::Operator(Command::Remove { node }));
        }
    }
}
