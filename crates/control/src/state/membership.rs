//! Members and the placement of shards on them.

use pushonce_core::{CoverageMark, Member, MemberState, NodeId, Placement};

use super::{ClusterState, MemberRecord};
use crate::{CommandRejection, CommandReply};

impl ClusterState {
    pub(super) fn activate(&mut self, node: NodeId) -> Result<CommandReply, CommandRejection> {
        let known = self.members.get_mut(&node).ok_or(CommandRejection::NotAMember(node))?;
        if known.member.state == MemberState::Joining {
            known.member.state = MemberState::Active;
        }
        Ok(CommandReply::Done)
    }

    /// Drops a member that never became active. It has voted in no group, so its directory is not remembered: a
    /// node that joins with it again gets another id.
    pub(super) fn expire_joining(&mut self, node: NodeId) -> CommandReply {
        let is_joining = |known: &MemberRecord| known.member.state == MemberState::Joining;
        if self.members.get(&node).is_some_and(is_joining) {
            self.members.remove(&node);
            self.times.complete_if_acknowledged(self.members.keys().copied());
        }
        CommandReply::Done
    }

    pub(super) fn set_placement(
        &mut self,
        version: u64,
        replicas: Vec<Vec<NodeId>>,
    ) -> Result<CommandReply, CommandRejection> {
        let placement = Placement { version, replicas };
        if placement == self.placement {
            return Ok(CommandReply::Done);
        }
        let holders = self.view();
        let holders = holders.placement_candidates();
        let complete = placement.replicas.len() == usize::from(self.shards.get());
        let is_valid = |list: &Vec<NodeId>| {
            !list.is_empty()
                && list.iter().all(|node| holders.contains_key(node))
                && list.iter().enumerate().all(|(at, node)| !list[..at].contains(node))
        };
        if version != self.placement.version + 1
            || !complete
            || !placement.replicas.iter().all(is_valid)
        {
            return Err(CommandRejection::StalePlacement);
        }
        self.placement = placement;
        Ok(CommandReply::Done)
    }

    pub(super) fn remove(&mut self, node: NodeId) -> Result<CommandReply, CommandRejection> {
        if self.removed.values().any(|&gone| gone == node) {
            return Ok(CommandReply::Done);
        }
        if self.view().placement_candidates().keys().eq([&node]) {
            return Err(CommandRejection::LastShardHolder(node));
        }
        let known = self.members.remove(&node).ok_or(CommandRejection::NotAMember(node))?;
        CoverageMark::MemberRemoved.reach();
        self.removed.insert(known.incarnation, node);
        self.times.complete_if_acknowledged(self.members.keys().copied());
        Ok(CommandReply::Done)
    }

    /// Drains a member. The node that received the command has checked reachability; of two nodes that
    /// check at the same time, neither sees the drain of the other, so the number of remaining members is
    /// checked here again.
    pub(super) fn drain(
        &mut self,
        node: NodeId,
        force: bool,
    ) -> Result<CommandReply, CommandRejection> {
        let view = self.view();
        if view.placement_candidates().keys().eq([&node]) {
            return Err(CommandRejection::LastShardHolder(node));
        }
        let can_hold = |member: &Member| member.roles.core && member.state == MemberState::Active;
        let left =
            view.members.values().filter(|other| other.id != node && can_hold(other)).count();
        let is_holder = view.member(node).is_some_and(can_hold);
        if is_holder && !force && left < usize::from(self.replicas) {
            let (left, wanted) = (left as u32, u32::from(self.replicas));
            return Err(CommandRejection::TooFewCopies { node, left, wanted });
        }
        let known = self.members.get_mut(&node).ok_or(CommandRejection::NotAMember(node))?;
        known.member.state = MemberState::Draining;
        Ok(CommandReply::Done)
    }

    pub(super) fn undrain(&mut self, node: NodeId) -> Result<CommandReply, CommandRejection> {
        let known = self.members.get_mut(&node).ok_or(CommandRejection::NotAMember(node))?;
        if known.member.state == MemberState::Draining {
            known.member.state = MemberState::Active;
        }
        Ok(CommandReply::Done)
    }
}
