//! Nodes are partitioned one by one and reconnected in another order, which produces many partitions and many
//! ways to recover from them.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use tonic::async_trait;

use super::super::{LinkEnd, LinkRules, Testbed};
use super::counter;
use crate::faults::{FaultContext, FaultEffect, FaultInjector, FaultState};
use crate::wait::secs;

/// A swizzle: a sequence of partitions and reconnections.
pub(super) struct Swizzle {
    testbed: Arc<Testbed>,
    /// The partitioned nodes, in the reverse order of their reconnection.
    cut_off: Vec<usize>,
    nodes: usize,
    lost_before: u64,
}

/// The pause between two steps: about the election timeout, so that elections are in progress at the next
/// step.
const PAUSE_MS: std::ops::Range<u64> = 200..1500;

impl Swizzle {
    pub(super) fn new(testbed: Arc<Testbed>) -> Swizzle {
        Swizzle { testbed, cut_off: Vec::new(), nodes: 0, lost_before: 0 }
    }

    /// Blocks the links of partitioned nodes and restores the others.
    fn apply_links(&self) {
        for from in 0..self.nodes {
            for to in (0..self.nodes).filter(|&to| to != from) {
                let cut = self.cut_off.contains(&from) || self.cut_off.contains(&to);
                let link = if cut { LinkRules::cut() } else { LinkRules::default() };
                self.testbed.set_link(LinkEnd::Node(from), LinkEnd::Node(to), link);
            }
        }
    }

    fn lost_packets(&self) -> u64 {
        let lost_between = |from, to| {
            let count = self.testbed.packet_counts(LinkEnd::Node(from), LinkEnd::Node(to));
            count.sent - count.carried
        };
        (0..self.nodes).flat_map(|from| (0..self.nodes).map(move |to| lost_between(from, to))).sum()
    }
}

async fn random_pause(context: &mut FaultContext) {
    tokio::time::sleep(Duration::from_millis(context.rng.random_range(PAUSE_MS))).await;
}

#[async_trait(?Send)]
impl FaultInjector for Swizzle {
    fn duration(&self) -> Duration {
        secs(2)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let mut nodes: Vec<_> = context.cluster.running_nodes().collect();
        self.nodes = context.cluster.len();
        self.lost_before = self.lost_packets();
        nodes.shuffle(&mut context.rng);
        for &node in &nodes {
            self.cut_off.push(node);
            self.apply_links();
            random_pause(context).await;
        }
        self.cut_off.shuffle(&mut context.rng);
        // No node reaches another: each is partitioned, and may consider itself an owner.
        let (unready, deposed) = (nodes.clone(), nodes.clone());
        Ok(FaultEffect { nodes, unready, deposed, ..FaultEffect::default() })
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        counter::confirm_grows("packet was lost at a blocked link", self.lost_before, || {
            self.lost_packets()
        })
        .await
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        while self.cut_off.pop().is_some() {
            self.apply_links();
            random_pause(context).await;
        }
    }
}
