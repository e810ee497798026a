//! Arbitrary commands and bytes.

use proptest::prelude::*;
use pushonce_core::{TicketKey, Timestamp};

use super::namespace_test::count;
use super::state_test::{CLUSTER, CommandLog, bootstrap_command, drain, join_command};
use super::*;
use crate::{JoinCredential, MoveToMemory};

/// Commands that often conflict: few directories, few names, few ids.
fn command() -> impl Strategy<Value = ControlCommand> {
    let certificate = prop::option::of((1..9u64).prop_map(NodeId));
    let join = (2..6u128, prop::option::of(1..6u64), certificate, 1..6u64, any::<bool>()).prop_map(
        |(incarnation, node, certificate, name, ours)| {
            let node = node.map(NodeId);
            let credential = certificate.map_or(JoinCredential::None, JoinCredential::Certificate);
            let cluster = Some(if ours { CLUSTER } else { ClusterId(1) });
            ControlCommand::Join(JoinCommand {
                node,
                cluster,
                credential,
                ..join_command(incarnation, &format!("n{name}"))
            })
        },
    );
    let place = (1..5u64, prop::collection::vec(1..6u64, 1..4)).prop_map(|(version, nodes)| {
        let list: Vec<NodeId> = nodes.into_iter().map(NodeId).collect();
        ControlCommand::SetPlacement { version, replicas: vec![list; 16] }
    });
    prop_oneof![
        4 => join,
        2 => (1..6u64).prop_map(|node| ControlCommand::Activate(NodeId(node))),
        1 => (1..6u64).prop_map(|node| ControlCommand::Remove(NodeId(node))),
        1 => (1..6u64).prop_map(|node| drain(NodeId(node))),
        1 => (1..6u64).prop_map(|node| ControlCommand::Undrain(NodeId(node))),
        2 => place,
        1 => Just(ControlCommand::Bootstrap(bootstrap_command())),
        1 => (any::<[u8; 32]>(), 0..4u64).prop_map(|(key, half_days)| {
            let at = Timestamp(half_days * 12 * 3_600_000);
            ControlCommand::RotateTicketKeys { key: TicketKey(key), at }
        }),
        1 => (prop::option::of("[ab]"), prop::option::of((0..3u32).prop_map(count)))
            .prop_map(|(name, change)| ControlCommand::SetNamespace { name, change, move_to_memory: MoveToMemory::DropStored }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ids_names_and_directories_stay_unique_under_any_commands(
        commands in prop::collection::vec(command(), 0..40),
    ) {
        let mut log = CommandLog::bootstrapped();
        let mut assigned = BTreeMap::from([(Incarnation(1), NodeId(1))]);
        for command in commands {
            let before = log.state.clone();
            let incarnation = match &command {
                ControlCommand::Join(joining) => Some(joining.incarnation),
                _ => None,
            };
            let answer = log.apply(command);
            if let (CommandReply::Joined(joined), Some(incarnation)) = (answer, incarnation) {
                let first = *assigned.entry(incarnation).or_insert(joined.node);
                prop_assert_eq!(first, joined.node);
            }
            let ids: std::collections::BTreeSet<_> = assigned.values().collect();
            prop_assert_eq!(ids.len(), assigned.len(), "an id was assigned twice");
            let view = log.view();
            let names: std::collections::BTreeSet<_> =
                view.members.values().map(|m| &m.name).collect();
            prop_assert_eq!(names.len(), view.members.len(), "two members have the same name");
            prop_assert!(!view.placement_candidates().is_empty());
            prop_assert_eq!(log.state != before, view.version == log.index);
            prop_assert_eq!(ControlState::restore(&log.state.snapshot()), Ok(log.state.clone()));
        }
    }


    #[test]
    fn encoded_command_decodes_to_the_same_command(command in command()) {
        let version = VersionRange::supported().max;
        prop_assert_eq!(ControlCommand::decode(&command.encode(version)), Ok((version, command)));
    }
}
