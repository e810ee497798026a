//! Processes end and start.

use std::time::Duration;

use rand::Rng as _;

use pushonce_core::ClusterVersion;

use super::Generator;
use crate::schedule::{Action, Command};

impl Generator {
    pub(super) fn stop_and_start(&mut self, begin: Duration, end: Duration, stop: Action) {
        let node = stop.node().unwrap_or_default();
        self.between(begin, stop, end, Action::Start { node });
    }

    /// Longer than an election takes, or several times for about as long as a lease.
    pub(super) fn pause(&mut self, begin: Duration, end: Duration, node: usize) {
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

    pub(super) fn cut_power(&mut self, begin: Duration, end: Duration, node: usize) {
        let cut = match self.random.random_bool(0.5) {
            true => Action::CutPower { node },
            false => Action::CutPowerAfter { node, operations: self.random.random_range(0..60) },
        };
        self.stop_and_start(begin, end, cut);
    }

    /// All within some milliseconds, and started at different times.
    pub(super) fn stop_everything(&mut self, begin: Duration, end: Duration) {
        let has_power = self.random.random_bool(0.5);
        for node in 0..self.nodes {
            let at = begin + self.time_below(Duration::from_millis(100));
            let stop = if has_power { Action::Kill { node } } else { Action::CutPower { node } };
            let start_at = end + self.time_below(Duration::from_secs(2));
            self.stop_and_start(at, start_at, stop);
        }
    }

    /// One node or all of them.
    pub(super) fn change_addresses(&mut self, begin: Duration, end: Duration, node: usize) {
        let nodes = if self.random.random_bool(0.5) { 0..self.nodes } else { node..node + 1 };
        for node in nodes {
            self.stop_and_start(begin, end, Action::Kill { node });
            self.add(begin, Action::ChangeAddress { node });
        }
    }

    /// A rolling upgrade that takes most of the time, with steps back, and at last the raise. In some runs one node keeps
    /// the old build, so that the raise must be rejected.
    pub(super) fn upgrade(&mut self) {
        let (old, new) = (ClusterVersion::NEWEST.0 - 1, ClusterVersion::NEWEST.0);
        let interval = self.length.mul_f64(0.7) / u32::try_from(self.nodes).unwrap_or(1);
        let not_upgraded =
            self.random.random_bool(0.3).then(|| self.random.random_range(0..self.nodes));
        for node in (0..self.nodes).filter(|&node| Some(node) != not_upgraded) {
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
}
