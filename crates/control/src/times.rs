//! The two-step change of the consensus times, and its acknowledgements.

use std::collections::BTreeSet;

use pushonce_core::{ClusterTimes, ConsensusTimes, NodeId};
use serde::{Deserialize, Serialize};

/// The agreed times, and the members that have them on disk and in force. Deterministic: part of the
/// control group's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgreedTimes {
    agreed: ClusterTimes,
    /// The members that have acknowledged `agreed.version`. Kept while a change is in progress.
    acknowledged: BTreeSet<NodeId>,
}

/// Another change is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeInProgress {
    /// The times of that change.
    pub(crate) to: ConsensusTimes,
}

impl AgreedTimes {
    pub(crate) fn new(times: ConsensusTimes) -> AgreedTimes {
        AgreedTimes { agreed: ClusterTimes::new(times), acknowledged: BTreeSet::new() }
    }

    pub(crate) fn agreed(&self) -> ClusterTimes {
        self.agreed
    }

    /// Begins a change, or cancels the one in progress. A cancellation needs no acknowledgements: no lease
    /// is longer, and no vote holdoff shorter, than before the change.
    pub(crate) fn begin_change(&mut self, times: ConsensusTimes) -> Result<(), ChangeInProgress> {
        match self.agreed.next {
            _ if self.agreed.target() == times => return Ok(()),
            Some(_) if self.agreed.current == times => self.agreed.next = None,
            Some(to) => return Err(ChangeInProgress { to }),
            None => self.agreed.next = Some(times),
        }
        self.agreed.version += 1;
        self.acknowledged.clear();
        Ok(())
    }

    /// Records that a member has the times of `version`. A member that just joined received them with the
    /// reply.
    pub(crate) fn acknowledge(&mut self, node: NodeId, version: u64) {
        if self.agreed.next.is_some() && version == self.agreed.version {
            self.acknowledged.insert(node);
        }
    }

    /// The members whose acknowledgement is missing; empty when no change is in progress.
    pub(crate) fn missing_acks<'a>(
        &'a self,
        members: impl Iterator<Item = NodeId> + 'a,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let is_changing = self.agreed.next.is_some();
        members.filter(move |member| is_changing && !self.acknowledged.contains(member))
    }

    /// Completes the change when all `members` have acknowledged its first step. Must be called after every
    /// acknowledgement and every removal.
    pub(crate) fn complete_if_acknowledged(&mut self, members: impl Iterator<Item = NodeId>) {
        let Some(next) = self.agreed.next else { return };
        if self.missing_acks(members).next().is_some() {
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

    /// The committed times and the times in force at each node, which may lag behind.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct TimesModel {
        committed: Vec<ClusterTimes>,
        acknowledged: BTreeSet<NodeId>,
        /// The index in `committed` of the times that each node has in force.
        in_force: [usize; 2],
        changes: usize,
    }

    impl TimesModel {
        fn change(&self, change: impl FnOnce(&mut AgreedTimes)) -> TimesModel {
            let agreed = *self.committed.last().expect("never empty");
            let mut state = AgreedTimes { agreed, acknowledged: self.acknowledged.clone() };
            change(&mut state);
            let mut model = self.clone();
            if state.agreed != agreed {
                model.committed.push(state.agreed);
            }
            model.acknowledged = state.acknowledged;
            model
        }

        /// All possible next states.
        fn next(&self) -> Vec<TimesModel> {
            let mut next = Vec::new();
            if self.changes < 3 {
                for to in [400, 800, 4000] {
                    let mut model = self.change(|state| {
                        let _ = state.begin_change(times(to));
                    });
                    model.changes += 1;
                    next.push(model);
                }
            }
            for (n, node) in NODES.into_iter().enumerate() {
                let held_version = self.committed[self.in_force[n]].version;
                next.push(self.change(|state| {
                    state.acknowledge(node, held_version);
                    state.complete_if_acknowledged(NODES.into_iter());
                }));
                if self.in_force[n] + 1 < self.committed.len() {
                    let mut model = self.clone();
                    model.in_force[n] += 1;
                    next.push(model);
                }
            }
            next
        }

        fn is_safe(&self) -> bool {
            let times_in_force = || self.in_force.iter().map(|&at| self.committed[at]);
            let lease = times_in_force().map(|times| times.lease()).max();
            lease <= times_in_force().map(|times| times.vote_holdoff()).min()
        }
    }

    /// All interleavings of three changes among three values, their acknowledgements, and two nodes that
    /// apply each step at their own pace.
    #[test]
    fn lease_never_exceeds_the_hold_under_any_interleaving() {
        let initial = TimesModel {
            committed: vec![ClusterTimes::new(times(800))],
            acknowledged: BTreeSet::new(),
            in_force: [0, 0],
            changes: 0,
        };
        let (mut visited, mut pending) = (HashSet::from([initial.clone()]), vec![initial]);
        let mut settled = 0;
        while let Some(model) = pending.pop() {
            assert!(model.is_safe(), "{:?} at {:?}", model.committed, model.in_force);
            settled += usize::from(model.committed.last().is_some_and(|t| t.version > 2));
            pending.extend(model.next().into_iter().filter(|next| visited.insert(next.clone())));
        }
        assert!(settled > 100, "too few completed changes: {settled} of {}", visited.len());
    }

    #[test]
    fn change_waits_for_every_member_and_completes_without_a_removed_one() {
        let mut state = AgreedTimes::new(times(800));
        state.begin_change(times(4000)).expect("no change is in progress");
        assert_eq!(state.begin_change(times(400)), Err(ChangeInProgress { to: times(4000) }));
        let version = state.agreed().version;
        state.acknowledge(NODES[0], version);
        state.complete_if_acknowledged(NODES.into_iter());
        assert_eq!(state.agreed().current, times(800));
        assert_eq!(state.missing_acks(NODES.into_iter()).collect::<Vec<_>>(), [NODES[1]]);
        state.complete_if_acknowledged([NODES[0]].into_iter());
        assert_eq!(state.agreed(), ClusterTimes { version: 3, current: times(4000), next: None });
    }

    #[test]
    fn an_acknowledgement_of_an_earlier_step_does_not_count() {
        let mut state = AgreedTimes::new(times(800));
        let before = state.agreed().version;
        state.begin_change(times(4000)).expect("no change is in progress");
        state.acknowledge(NODES[0], before);
        state.complete_if_acknowledged([NODES[0]].into_iter());
        assert_eq!(state.agreed().current, times(800));
    }
}
