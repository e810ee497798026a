//! Commands that change the members and the placement: bootstrap, join, drain, remove.

use pushonce_core::{ConsensusTimes, ShardId};

use super::log_mark_test::log_mark;
use super::namespace_test::count;
use super::*;
use crate::member::tests::profile;
use crate::{InvalidProfile, MoveToMemory, ProcessRun, Profile};
use crate::{JoinCredential, JoinReply};

pub(super) const CLUSTER: ClusterId = ClusterId(77);

pub(crate) fn bootstrap_command() -> BootstrapCommand {
    BootstrapCommand {
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        run: ProcessRun::default(),
        profile: profile("n1"),
        shards: ShardCount::DEFAULT,
        replicas: 3,
        spread: Spread::Zones,
        namespaces: Namespaces::default(),
        times: ConsensusTimes::LAN,
        log: None,
        cluster_version: VersionRange::supported().min,
    }
}

pub(super) fn join_command(incarnation: u128, name: &str) -> JoinCommand {
    JoinCommand {
        incarnation: Incarnation(incarnation),
        run: ProcessRun::default(),
        cluster: None,
        node: None,
        profile: profile(name),
        times: None,
        log: None,
        credential: JoinCredential::None,
    }
}

pub(super) fn drain(node: NodeId) -> ControlCommand {
    ControlCommand::Drain { node, force: true }
}

/// A view whose active members n1, n2, … have these regions and zones.
pub(crate) fn view_with_labels(labels: &[(&str, &str)]) -> ClusterView {
    let mut cluster = CommandLog::bootstrapped();
    for index in 1..labels.len() as u128 {
        let joined = cluster.join(join_command(index + 1, &format!("n{}", index + 1))).unwrap();
        cluster.apply_ok(ControlCommand::Activate(joined.node));
    }
    let mut view = cluster.state.view().unwrap();
    for (member, (region, zone)) in view.members.values_mut().zip(labels) {
        member.region = (*region).to_owned();
        member.zone = (*zone).to_owned();
    }
    view
}

/// A state and the index of its last entry.
pub(super) struct CommandLog {
    pub(super) state: ControlState,
    pub(super) index: u64,
}

impl CommandLog {
    pub(super) fn bootstrapped() -> CommandLog {
        let mut log = CommandLog { state: ControlState::default(), index: 4 };
        log.apply_ok(ControlCommand::Bootstrap(bootstrap_command()));
        log
    }

    pub(super) fn apply(&mut self, command: ControlCommand) -> CommandReply {
        self.index += 1;
        self.state.apply(self.index, command)
    }

    pub(super) fn apply_ok(&mut self, command: ControlCommand) {
        assert_eq!(self.apply(command), CommandReply::Done);
    }

    pub(super) fn apply_rejected(&mut self, command: ControlCommand) -> CommandRejection {
        let before = self.state.clone();
        match self.apply(command) {
            CommandReply::Rejected(rejection) => {
                assert_eq!(self.state, before, "a rejected command changed the state");
                rejection
            }
            answer => panic!("not rejected: {answer:?}"),
        }
    }

    /// Checks the index of the reply and sets it to 0, because it differs each time the same node joins.
    pub(super) fn join(&mut self, joining: JoinCommand) -> Result<JoinReply, CommandRejection> {
        match self.apply(ControlCommand::Join(joining)) {
            CommandReply::Joined(joined) => {
                assert_eq!(joined.index, self.index, "the index of the commit");
                Ok(JoinReply { index: 0, ..joined })
            }
            CommandReply::Rejected(rejection) => Err(rejection),
            answer => panic!("unexpected reply to a join: {answer:?}"),
        }
    }

    pub(super) fn view(&self) -> ClusterView {
        self.state.view().unwrap()
    }

    pub(super) fn rules(&self) -> &'static Rules {
        Rules::for_version(self.state.cluster_version())
    }
}

#[test]
fn first_node_is_active_and_holds_every_shard() {
    let log = CommandLog::bootstrapped();
    let view = log.view();
    assert_eq!(view.version, 5);
    assert_eq!(view.members[&NodeId(1)].state, MemberState::Active);
    assert!(view.shards.ids().all(|shard| view.placement.replicas_of(shard) == [NodeId(1)]));
    assert_eq!(view.placement.replicas, Placement::compute(&view));
}

#[test]
fn cluster_is_bootstrapped_once() {
    let mut log = CommandLog::bootstrapped();
    let before = log.state.clone();
    log.apply_ok(ControlCommand::Bootstrap(bootstrap_command()));
    assert_eq!(log.state, before);
    let other = BootstrapCommand { cluster: ClusterId(78), ..bootstrap_command() };
    assert_eq!(
        log.apply_rejected(ControlCommand::Bootstrap(other)),
        CommandRejection::AlreadyBootstrapped(CLUSTER)
    );
}

#[test]
fn commands_before_the_bootstrap_are_rejected() {
    let mut state = ControlState::default();
    let answer = state.apply(1, ControlCommand::Join(join_command(2, "n2")));
    assert_eq!(answer, CommandReply::Rejected(CommandRejection::NotBootstrapped));
    assert_eq!(state.view(), None);
}

#[test]
fn node_ids_increase_and_a_directory_keeps_its_id() {
    let mut log = CommandLog::bootstrapped();
    let second = log.join(join_command(2, "n2")).unwrap();
    let third = log.join(join_command(3, "n3")).unwrap();
    assert_eq!((second.node, third.node), (NodeId(2), NodeId(3)));
    assert_eq!(log.join(join_command(2, "n2")).unwrap(), second);
    assert_eq!(log.view().members[&NodeId(2)].state, MemberState::Joining);
}

#[test]
fn repeated_join_without_changes_makes_no_new_version() {
    let mut log = CommandLog::bootstrapped();
    log.join(join_command(2, "n2")).unwrap();
    let version = log.view().version;
    log.join(join_command(2, "n2")).unwrap();
    assert_eq!(log.view().version, version);
}

#[test]
fn rejoining_node_may_change_its_address_and_keeps_its_state() {
    let mut log = CommandLog::bootstrapped();
    let joined = log.join(join_command(2, "n2")).unwrap();
    log.apply_ok(ControlCommand::Activate(joined.node));
    let mut moved = join_command(2, "n2");
    moved.cluster = Some(CLUSTER);
    moved.node = Some(joined.node);
    moved.log = log_mark(9, 50);
    moved.profile.addresses.peer = "elsewhere:7091".to_owned();
    assert_eq!(log.join(moved).unwrap(), joined);
    let member = &log.view().members[&joined.node];
    assert_eq!(member.addresses.peer, "elsewhere:7091");
    assert_eq!(member.state, MemberState::Active);
}

#[test]
fn directory_of_another_cluster_is_rejected() {
    let mut log = CommandLog::bootstrapped();
    let foreign = JoinCommand { cluster: Some(ClusterId(5)), ..join_command(2, "n2") };
    let rejection = log.apply_rejected(ControlCommand::Join(foreign));
    assert_eq!(
        rejection,
        CommandRejection::OtherCluster { directory_cluster: ClusterId(5), cluster: CLUSTER }
    );
    assert!(rejection.to_string().contains("empty data directory"));
}

#[test]
fn removed_node_cannot_rejoin_and_its_id_is_not_reused() {
    let mut log = CommandLog::bootstrapped();
    let removed = log.join(join_command(2, "n2")).unwrap().node;
    log.apply_ok(ControlCommand::Remove(removed));
    assert!(log.view().member(removed).is_none());
    assert_eq!(
        log.apply_rejected(ControlCommand::Join(join_command(2, "n2"))),
        CommandRejection::Removed(removed)
    );
    let wiped = JoinCommand { node: Some(removed), ..join_command(9, "n2") };
    assert_eq!(log.apply_rejected(ControlCommand::Join(wiped)), CommandRejection::Removed(removed));
    assert_eq!(log.join(join_command(3, "n3")).unwrap().node, NodeId(3));
}

#[test]
fn node_id_with_another_directory_is_rejected() {
    let mut log = CommandLog::bootstrapped();
    log.join(join_command(2, "n2")).unwrap();
    let copied = JoinCommand { node: Some(NodeId(1)), ..join_command(2, "n2") };
    assert_eq!(
        log.apply_rejected(ControlCommand::Join(copied)),
        CommandRejection::NodeIdMismatch(NodeId(1))
    );
    let invented = JoinCommand { node: Some(NodeId(40)), ..join_command(8, "n8") };
    assert_eq!(
        log.apply_rejected(ControlCommand::Join(invented)),
        CommandRejection::NodeIdMismatch(NodeId(40))
    );
}

#[test]
fn name_belongs_to_one_member() {
    let mut log = CommandLog::bootstrapped();
    log.join(join_command(2, "eu")).unwrap();
    for name in ["eu", "EU"] {
        let rejection = log.apply_rejected(ControlCommand::Join(join_command(3, name)));
        let holder = NodeId(2);
        assert_eq!(rejection, CommandRejection::NameTaken { name: "eu".to_owned(), holder });
        assert!(rejection.to_string().contains("choose another --name"));
    }
    log.join(join_command(3, "us")).unwrap();
    assert!(matches!(
        log.apply_rejected(ControlCommand::Join(join_command(3, "eu"))),
        CommandRejection::NameTaken { .. }
    ));
}

#[test]
fn name_cannot_be_mistaken_for_another_node() {
    let mut log = CommandLog::bootstrapped();
    for name in ["n7", "N7", "n007"] {
        let rejection = log.apply_rejected(ControlCommand::Join(join_command(2, name)));
        let (name, node, other) = (name.to_owned(), NodeId(2), NodeId(7));
        assert_eq!(rejection, CommandRejection::NameLooksLikeId { name, node, other });
    }
    log.join(join_command(2, "n2")).unwrap();
    log.join(join_command(3, "node-7")).unwrap();
}

#[test]
fn full_cluster_rejects_new_nodes_and_accepts_rejoining_members() {
    let mut log = CommandLog::bootstrapped();
    let max = Rules::for_version(VersionRange::supported().max).members_max;
    for index in 2..=max as u128 {
        let node = log.join(join_command(index, &format!("n{index}"))).unwrap().node;
        // All but the first: a member that never had a log may join again without one.
        if index > 2 {
            log.apply(ControlCommand::Activate(node));
        }
    }
    let rejection = log.apply_rejected(ControlCommand::Join(join_command(5_000, "late")));
    assert_eq!(rejection, CommandRejection::TooManyMembers { max: 1_000 });
    assert_eq!(log.join(join_command(2, "n2")).unwrap().node, NodeId(2));
}

#[test]
fn members_that_never_come_are_bounded_and_dropped() {
    let mut log = CommandLog::bootstrapped();
    let max = Rules::for_version(VersionRange::supported().max).joining_max as u128;
    for index in 2..2 + max {
        log.join(join_command(index, &format!("node-{index}"))).unwrap();
    }
    let late = || join_command(5_000, "late");
    let rejection = log.apply_rejected(ControlCommand::Join(late()));
    assert_eq!(rejection, CommandRejection::TooManyJoining { max: 32 });
    assert_eq!(log.join(join_command(2, "node-2")).unwrap().node, NodeId(2), "a repeat");

    log.apply(ControlCommand::Activate(NodeId(3)));
    for node in [2, 3] {
        log.apply(ControlCommand::ExpireJoining(NodeId(node)));
    }
    let view = log.view();
    assert!(
        view.was_removed(NodeId(2)) && view.member(NodeId(3)).is_some(),
        "an active member stays"
    );
    let joined = log.join(late()).unwrap().node;
    assert_eq!(joined, NodeId(2 + max as u64), "no id is used twice");
    // The node comes after all, with the id that it was given, or without one.
    let claimed = JoinCommand { node: Some(NodeId(2)), ..join_command(2, "node-2") };
    let rejection = log.apply_rejected(ControlCommand::Join(claimed));
    assert_eq!(rejection, CommandRejection::JoinExpired(NodeId(2)));
    assert!(rejection.is_final());
    assert_eq!(log.join(join_command(2, "node-2")).unwrap().node, NodeId(3 + max as u64));
}

#[test]
fn join_that_changes_nothing_is_answered_from_the_state() {
    let mut log = CommandLog::bootstrapped();
    let first = join_command(2, "node-2");
    assert_eq!(log.state.reply_to_repeated_join(7, &first), None, "a new node");
    let joined = log.join(first.clone()).unwrap();
    let expected = CommandReply::Joined(JoinReply { index: 7, ..joined });
    assert_eq!(log.state.reply_to_repeated_join(7, &first), Some(expected));
    let renamed = join_command(2, "other");
    assert_eq!(log.state.reply_to_repeated_join(7, &renamed), None, "another profile");
    let taken = log.state.reply_to_repeated_join(7, &join_command(3, "node-2"));
    assert!(matches!(taken, Some(CommandReply::Rejected(CommandRejection::NameTaken { .. }))));
}

#[test]
fn invalid_profile_is_rejected_by_the_state() {
    let mut log = CommandLog::bootstrapped();
    let heavy = Profile { weight: u32::MAX, ..profile("n2") };
    let joining = JoinCommand { profile: heavy, ..join_command(2, "n2") };
    let rejection = log.apply_rejected(ControlCommand::Join(joining));
    assert_eq!(
        rejection,
        CommandRejection::Profile(InvalidProfile::Weight { max: Profile::WEIGHT_MAX })
    );
}

#[test]
fn last_shard_holder_and_unknown_nodes_cannot_be_removed() {
    let mut log = CommandLog::bootstrapped();
    log.join(join_command(2, "n2")).unwrap();
    assert_eq!(
        log.apply_rejected(ControlCommand::Remove(NodeId(1))),
        CommandRejection::LastShardHolder(NodeId(1))
    );
    assert_eq!(
        log.apply_rejected(ControlCommand::Remove(NodeId(7))),
        CommandRejection::NotAMember(NodeId(7))
    );
    log.apply_ok(ControlCommand::Activate(NodeId(2)));
    log.apply_ok(ControlCommand::Remove(NodeId(1)));
    log.apply_ok(ControlCommand::Remove(NodeId(1)));
}

#[test]
fn drained_node_holds_nothing_until_it_is_undrained() {
    let mut log = CommandLog::bootstrapped();
    let node = log.join(join_command(2, "n2")).unwrap().node;
    log.apply_ok(ControlCommand::Activate(node));
    log.apply_ok(drain(node));
    let version = log.view().version;
    log.apply_ok(drain(node));
    assert_eq!(log.view().version, version, "a repeated drain changed the state");
    assert_eq!(log.view().members[&node].state, MemberState::Draining);
    assert!(Placement::compute(&log.view()).iter().all(|list| list == &[NodeId(1)]));
    // A draining member that has caught up is not activated again.
    log.apply_ok(ControlCommand::Activate(node));
    assert_eq!(log.view().members[&node].state, MemberState::Draining);
    log.apply_ok(ControlCommand::Undrain(node));
    log.apply_ok(ControlCommand::Undrain(node));
    assert_eq!(log.view().members[&node].state, MemberState::Active);
}

#[test]
fn concurrent_drains_do_not_leave_fewer_copies_than_configured() {
    let mut log = CommandLog::bootstrapped();
    for nth in 2..=4 {
        let node = log.join(join_command(nth, &format!("n{nth}"))).unwrap().node;
        log.apply_ok(ControlCommand::Activate(node));
    }
    // Each node that received a drain saw three other members.
    let drain_unforced = |node| ControlCommand::Drain { node: NodeId(node), force: false };
    log.apply_ok(drain_unforced(3));
    let few = CommandRejection::TooFewCopies { node: NodeId(4), left: 2, wanted: 3 };
    assert_eq!(log.apply_rejected(drain_unforced(4)), few);
    log.apply_ok(drain_unforced(3));
    log.apply_ok(drain(NodeId(4)));
}

#[test]
fn last_shard_holder_and_removed_nodes_cannot_be_drained() {
    let mut log = CommandLog::bootstrapped();
    let node = log.join(join_command(2, "n2")).unwrap().node;
    assert_eq!(log.apply_rejected(drain(NodeId(1))), CommandRejection::LastShardHolder(NodeId(1)));
    log.apply_ok(ControlCommand::Activate(node));
    log.apply_ok(drain(NodeId(1)));
    assert_eq!(log.apply_rejected(drain(node)), CommandRejection::LastShardHolder(node));
    log.apply_ok(ControlCommand::Remove(NodeId(1)));
    for command in [drain(NodeId(1)), ControlCommand::Undrain(NodeId(1))] {
        assert_eq!(log.apply_rejected(command), CommandRejection::NotAMember(NodeId(1)));
    }
}

#[test]
fn removed_node_is_distinguished_from_an_unknown_one() {
    let mut log = CommandLog::bootstrapped();
    let node = log.join(join_command(2, "n2")).unwrap().node;
    assert!(!log.view().was_removed(node));
    log.apply_ok(ControlCommand::Remove(node));
    assert!(log.view().was_removed(node));
    assert!(!log.view().was_removed(NodeId(3)), "the next id to assign");
}

#[test]
fn old_directory_copy_is_rejected_and_a_repeated_join_is_not() {
    let mut log = CommandLog::bootstrapped();
    let run =
        |count, token| JoinCommand { run: ProcessRun { count, token }, ..join_command(2, "n2") };
    let node = log.join(run(1, 11)).unwrap().node;
    log.join(run(3, 33)).unwrap();
    assert_eq!(log.join(run(3, 33)).unwrap().node, node);
    // A copy of the directory from before its last start, and an older one.
    for copy in [run(3, 34), run(2, 22)] {
        let rejection = log.apply_rejected(ControlCommand::Join(copy.clone()));
        let run = copy.run.count;
        assert_eq!(rejection, CommandRejection::StaleDirectory { node, run, known: 3 });
    }
    log.join(run(4, 44)).unwrap();
}

#[test]
fn placement_is_accepted_only_if_it_follows_the_current_version() {
    let mut log = CommandLog::bootstrapped();
    log.join(join_command(2, "n2")).unwrap();
    log.apply_ok(ControlCommand::Activate(NodeId(2)));
    let replicas = Placement::compute(&log.view());
    let place = |version, replicas: &Vec<Vec<NodeId>>| ControlCommand::SetPlacement {
        version,
        replicas: replicas.clone(),
    };
    assert_eq!(log.apply_rejected(place(3, &replicas)), CommandRejection::StalePlacement);
    log.apply_ok(place(2, &replicas));
    log.apply_ok(place(2, &replicas));
    assert_eq!(log.view().placement.replicas_of(ShardId(0)).len(), 2);

    let with = |list: &[u64]| {
        let mut table = replicas.clone();
        table[3] = list.iter().copied().map(NodeId).collect();
        table
    };
    for list in [&[][..], &[1, 1], &[9]] {
        assert_eq!(log.apply_rejected(place(3, &with(list))), CommandRejection::StalePlacement);
    }
    assert_eq!(
        log.apply_rejected(place(3, &replicas[1..].to_vec())),
        CommandRejection::StalePlacement
    );
}

#[test]
fn snapshot_restores_the_same_state_and_malformed_ones_are_rejected() {
    let mut log = CommandLog::bootstrapped();
    log.join(join_command(2, "n2")).unwrap();
    let snapshot = log.state.snapshot();
    assert_eq!(ControlState::restore(&snapshot).as_ref(), Ok(&log.state));
    for end in 0..snapshot.len() {
        assert!(ControlState::restore(&snapshot[..end]).is_err(), "cut after {end} bytes");
    }
    assert!(ControlState::restore(&[&snapshot[..], b"x"].concat()).is_err());
}

#[test]
fn command_encoding_is_stable() {
    // A changed value would make a node decode an old log differently.
    let encoded = |command: ControlCommand| command.encode(ClusterVersion::FIRST).to_vec();
    assert_eq!(encoded(ControlCommand::Activate(NodeId(2))), [0, 1, 2, 2]);
    let place =
        ControlCommand::SetPlacement { version: 3, replicas: vec![vec![NodeId(1), NodeId(2)]] };
    assert_eq!(encoded(place), [0, 1, 3, 3, 1, 2, 1, 2]);
    assert_eq!(encoded(ControlCommand::Remove(NodeId(300))), [0, 1, 4, 172, 2]);
    let unset = ControlCommand::SetNamespace {
        name: Some("a".to_owned()),
        change: None,
        move_to_memory: MoveToMemory::Reject,
    };
    assert_eq!(encoded(unset), [0, 1, 5, 1, 1, b'a', 0, 0]);
    let set = ControlCommand::SetNamespace {
        name: None,
        change: Some(count(3)),
        move_to_memory: MoveToMemory::Reject,
    };
    assert_eq!(encoded(set), [0, 1, 5, 0, 1, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encoded(drain(NodeId(3))), [0, 1, 6, 3, 1]);
    assert_eq!(encoded(ControlCommand::Undrain(NodeId(3))), [0, 1, 7, 3]);
}
