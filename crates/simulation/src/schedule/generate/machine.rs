//! Clocks, disks and lost files.

use std::time::Duration;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::Generator;
use crate::schedule::{Action, Command};

/// A time for which a disk stays full.
const LONG_FULL: Duration = Duration::from_secs(15);

impl Generator {
    pub(super) fn disturb_clock(&mut self, begin: Duration, node: usize) {
        let action = match self.random.random_range(0..3) {
            0 => Action::StepClock { node, by_ms: self.random.random_range(-7_200_000..7_200_000) },
            1 => Action::StepClock { node, by_ms: self.random.random_range(-2_000..2_000) },
            _ => Action::Drift { node, ppm: self.random.random_range(-500..=500) },
        };
        self.add(begin, action);
    }

    pub(super) fn disturb_disk(&mut self, begin: Duration, end: Duration, node: usize) {
        if self.random.random_bool(0.5) {
            // Sometimes longer than a node may take to hand over or to report.
            let is_long = self.random.random_bool(0.4);
            let end = if is_long { end.max(self.length.min(begin + LONG_FULL)) } else { end };
            self.between(begin, Action::FillDisk { node }, end, Action::FreeDisk { node });
        } else {
            let sync_ms = [2, 20, 150].choose(&mut self.random).copied().unwrap_or_default();
            let usual = Action::SlowDisk { node, sync_ms: 0 };
            self.between(begin, Action::SlowDisk { node, sync_ms }, end, usual);
        }
    }

    /// Something happens to the files of one node, once.
    pub(super) fn damage(&mut self, begin: Duration, end: Duration) {
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
                // redb checks the whole file after a kill, and only the pages that it reads after a shutdown.
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

    /// Removes everything that stops or separates the nodes beside a rolled-back one. Only nodes that have run since its
    /// commits know of them; with another node that missed them, it would be a majority.
    pub(super) fn keep_witnesses(&mut self) {
        let damaged = self.damaged;
        self.steps.retain(|step| match &step.action {
            Action::StepClock { .. } | Action::Drift { .. } | Action::SlowDisk { .. } => true,
            Action::Operator(command) => !matches!(command, Command::Remove { .. }),
            action => action.node() == Some(damaged),
        });
    }
}
