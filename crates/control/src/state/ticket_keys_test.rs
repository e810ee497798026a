//! The keys of TLS session tickets.

use pushonce_core::{TicketKey, Timestamp};

use super::state_test::CommandLog;
use super::*;

const HOUR_MS: u64 = 3_600_000;

fn rotate(byte: u8, hour: u64) -> ControlCommand {
    ControlCommand::RotateTicketKeys { key: TicketKey([byte; 32]), at: Timestamp(hour * HOUR_MS) }
}

#[test]
fn every_view_has_the_newest_keys_and_a_repeated_rotation_changes_nothing() {
    let mut log = CommandLog::bootstrapped();
    assert_eq!(log.view().ticket_keys, None);
    log.apply_ok(rotate(1, 1_000));
    let first = log.view();
    for repeated in [rotate(1, 1_000), rotate(2, 1_001)] {
        log.apply_ok(repeated);
        assert_eq!(log.view(), first);
    }
    log.apply_ok(rotate(3, 1_012));
    let keys = log.view().ticket_keys.expect("keys");
    assert_eq!((keys.current, keys.previous), (TicketKey([3; 32]), Some(TicketKey([1; 32]))));
    assert_eq!(ControlState::restore(&log.state.snapshot()), Ok(log.state));
}

#[test]
fn keys_are_printed_neither_with_a_command_nor_with_a_state() {
    let mut log = CommandLog::bootstrapped();
    log.apply_ok(rotate(171, 1_000));
    let printed = format!("{:?} {:?} {:?}", rotate(171, 1_000), log.state, log.view());
    assert!(printed.contains("TicketKey(..)") && !printed.contains("171, 171"), "{printed}");
}
