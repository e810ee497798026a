//! Commands and snapshots of any content, as a disk or a voter could hand them over.

use pushonce_core::{NamespaceChange, TicketKey, Timestamp};
use pushonce_fuzz::Input;

use super::state_test::{bootstrap_command, drain, join_command};
use super::*;
use crate::MoveToMemory;

fn commands() -> Vec<ControlCommand> {
    vec![
        ControlCommand::Bootstrap(bootstrap_command()),
        ControlCommand::Join(join_command(2, "n2")),
        ControlCommand::Join(join_command(3, "berlin")),
        ControlCommand::Activate(NodeId(2)),
        ControlCommand::SetPlacement { version: 1, replicas: vec![vec![NodeId(1), NodeId(2)]; 16] },
        ControlCommand::RotateTicketKeys { key: TicketKey([7; 32]), at: Timestamp(1_000) },
        ControlCommand::SetNamespace {
            name: Some("chat".to_owned()),
            change: Some(NamespaceChange { history_count_max: Some(3), ..Default::default() }),
            move_to_memory: MoveToMemory::DropStored,
        },
        drain(NodeId(2)),
        ControlCommand::Undrain(NodeId(2)),
        ControlCommand::Remove(NodeId(3)),
    ]
}

/// Each command after its length, two bytes, big endian.
fn log(commands: &[ControlCommand]) -> Vec<u8> {
    let entries = commands.iter().map(|command| command.encode(VersionRange::supported().max));
    entries.flat_map(|entry| [&(entry.len() as u16).to_be_bytes(), &entry[..]].concat()).collect()
}

/// Applies the commands of `input` that can be decoded, from `index` on.
fn apply_log(state: &mut ControlState, mut index: u64, mut input: Input<'_>) {
    loop {
        let len = input.u16();
        let entry = input.bytes(usize::from(len));
        if entry.is_empty() {
            return;
        }
        let Ok((version, command)) = ControlCommand::decode(entry) else { continue };
        let encoded = command.encode(version);
        assert_eq!(ControlCommand::decode(&encoded), Ok((version, command.clone())));
        let before = state.clone();
        let reply = state.apply(index, command);
        assert_eq!(CommandReply::decode(&reply.encode(version)), Ok(reply.clone()));
        if matches!(reply, CommandReply::Rejected(_)) {
            assert_eq!(*state, before, "a rejected command changed the state");
        }
        index += 1;
    }
}

/// The state is restored from its own snapshot, has a view, and its members have different names.
fn assert_consistent(state: &ControlState) {
    assert_eq!(ControlState::restore(&state.snapshot()).as_ref(), Ok(state));
    let Some(view) = state.view() else { return };
    let names: std::collections::BTreeSet<_> =
        view.members.values().map(|member| &member.name).collect();
    assert_eq!(names.len(), view.members.len(), "two members have the same name");
}

#[test]
fn accepted_commands_leave_a_consistent_state() {
    let seeds = vec![log(&commands()), log(&commands()[..3])];
    pushonce_fuzz::check!("commands", seeds, |input| {
        let mut state = ControlState::default();
        apply_log(&mut state, 1, Input::new(input));
        assert_consistent(&state);
        // After a bootstrap, too.
        let mut state = ControlState::default();
        apply_log(&mut state, 1, Input::new(&log(&commands()[..1])));
        apply_log(&mut state, 2, Input::new(input));
        assert_consistent(&state);
    });
}

#[test]
fn accepted_snapshot_is_a_state_that_continues() {
    let mut state = ControlState::default();
    apply_log(&mut state, 1, Input::new(&log(&commands())));
    pushonce_fuzz::check!("snapshots", vec![state.snapshot().to_vec()], |input| {
        let Ok(mut state) = ControlState::restore(input) else { return };
        let _ = state.view();
        apply_log(&mut state, 1_000, Input::new(&log(&commands())));
        let _ = state.view();
        assert_eq!(ControlState::restore(&state.snapshot()), Ok(state));
    });
}
