//! The change of the times of consensus: who has acknowledged its first step.

use std::collections::BTreeSet;

use pushonce_core::{ClusterTimes, ConsensusTimes, NodeId};
use serde::{Deserialize, Serialize};

/// The agreed times and the members that hold them: on disk and in force. Deterministic: a part of
/// the control group's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Times {
    agreed: ClusterTimes,
    /// The members that have acknowledged `agreed.version`. Kept while a change is under way.
    acknowledged: BTreeSet<NodeId>,
}

/// Another change is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changing {
    /// To these times.
    pub(crate) to: ConsensusTimes,
}

impl Times {
    pub(crate) fn new(times: ConsensusTimes) -> Times {
        Times { agreed: ClusterTimes::new(times), acknowledged: BTreeSet::new() }
    }

    pub(crate) fn agreed(&self) -> ClusterTimes {
        self.agreed
    }

    /// Begins a change, or takes the one under way back. To take it back needs no acknowledgement:
    /// nobody's lease is longer, and nobody's hold shorter, than before it began.
    pub(crate) fn set(&mut self, times: ConsensusTimes) -> Result<(), Changing> {
        match self.agreed.next {
            _ if self.agreed.target() == times => return Ok(()),
            Some(_) if self.agreed.current == times => self.agreed.next = None,
            Some(to) => return Err(Changing { to }),
            None => self.agreed.next = Some(times),
        }
        self.agreed.version += 1;
        self.acknowledged.clear();
        Ok(())
    }

    /// A member holds the times of `version`. One that was let in just now was told them.
    pub(crate) fn acknowledge(&mut self, node: NodeId, version: u64) {
        if self.agreed.next.is_some() && version == self.agreed.version {
            self.acknowledged.insert(node);
        }
    }

    /// The members whose acknowledgement is missing; empty when no change is under way.
    pub(crate) fn missing<'a>(
        &'a self,
        members: impl Iterator<Item = NodeId> + 'a,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let changing = self.agreed.next.is_some();
        members.filter(move |member| changing && !self.acknowledged.contains(member))
    }

    /// Ends the change when all `members` have acknowledged its first step. To be called whenever
    /// one has, and whenever one was removed.
    pub(crate) fn advance(&mut self, members: impl Iterator<Item = NodeId>) {
        let Some(next) = self.agreed.next else { return };
        if self.missing(members).next().is_some() {
            return;
        }
        self.agreed = ClusterTimes { version: self.agreed.version + 1, current: next, next: None };
        self.acknowledged.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];

    fn times(election_max_ms: u32) -> ConsensusTimes {
        ConsensusTimes { election_max_ms, ..ConsensusTimes::LAN }
    }

    /// The committed state, and the times in force at each node, which is some way behind.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct World {
        committed: Vec<ClusterTimes>,
        acknowledged: BTreeSet<NodeId>,
        /// Which of `committed` each node has in force.
        at: [usize; 2],
        changes: usize,
    }

    impl World {
        fn change(&self, change: impl FnOnce(&mut Times)) -> World {
            let agreed = *self.committed.last().expect("never empty");
            let mut state = Times { agreed, acknowledged: self.acknowledged.clone() };
            change(&mut state);
            let mut world = self.clone();
            if state.agreed != agreed {
                world.committed.push(state.agreed);
            }
            world.acknowledged = state.acknowledged;
            world
        }

        /// Everything that may happen next.
        fn next(&self) -> Vec<World> {
            let mut next = Vec::new();
            if self.changes < 3 {
                for to in [400, 800, 4000] {
                    let mut world = self.change(|state| {
                        let _ = state.set(times(to));
                    });
                    world.changes += 1;
                    next.push(world);
                }
            }
            for (n, node) in NODES.into_iter().enumerate() {
                let holds = self.committed[self.at[n]].version;
                next.push(self.change(|state| {
                    state.acknowledge(node, holds);
                    state.advance(NODES.into_iter());
                }));
                if self.at[n] + 1 < self.committed.len() {
                    let mut world = self.clone();
                    world.at[n] += 1;
                    next.push(world);
                }
            }
            next
        }

        fn is_safe(&self) -> bool {
            let in_force = || self.at.iter().map(|&at| self.committed[at]);
            let lease = in_force().map(|times| times.lease()).max();
            lease <= in_force().map(|times| times.hold()).min()
        }
    }

    /// All interleavings of three changes among three lengths, the acknowledgements, and two nodes
    /// that learn each step at their own pace.
    #[test]
    fn no_lease_is_ever_longer_than_a_hold_however_changes_and_nodes_interleave() {
        let begin = World {
            committed: vec![ClusterTimes::new(times(800))],
            acknowledged: BTreeSet::new(),
            at: [0, 0],
            changes: 0,
        };
        let (mut seen, mut open) = (HashSet::from([begin.clone()]), vec![begin]);
        let mut settled = 0;
        while let Some(world) = open.pop() {
            assert!(world.is_safe(), "{:?} at {:?}", world.committed, world.at);
            settled += usize::from(world.committed.last().is_some_and(|t| t.version > 2));
            open.extend(world.next().into_iter().filter(|next| seen.insert(next.clone())));
        }
        assert!(settled > 100, "changes were completed: {settled} of {}", seen.len());
    }

    #[test]
    fn a_change_waits_for_every_member_and_ends_without_a_removed_one() {
        let mut state = Times::new(times(800));
        state.set(times(4000)).expect("nothing is under way");
        assert_eq!(state.set(times(400)), Err(Changing { to: times(4000) }));
        let version = state.agreed().version;
        state.acknowledge(NODES[0], version);
        state.advance(NODES.into_iter());
        assert_eq!(state.agreed().current, times(800));
        assert_eq!(state.missing(NODES.into_iter()).collect::<Vec<_>>(), [NODES[1]]);
        state.advance([NODES[0]].into_iter());
        assert_eq!(state.agreed(), ClusterTimes { version: 3, current: times(4000), next: None });
    }

    #[test]
    fn an_acknowledgement_of_an_earlier_step_does_not_count() {
        let mut state = Times::new(times(800));
        let before = state.agreed().version;
        state.set(times(4000)).expect("nothing is under way");
        state.acknowledge(NODES[0], before);
        state.advance([NODES[0]].into_iter());
        assert_eq!(state.agreed().current, times(800));
    }
}
