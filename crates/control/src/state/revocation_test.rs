use super::state_test::CommandLog;
use pushonce_core::{RevokedTokens, Timestamp};

use super::*;

const DAY_MS: u64 = 24 * 3_600_000;

fn revoke(id: &str, at: u64, kept_until: u64) -> ControlCommand {
    let tokens = RevokedTokens::WithId(id.to_owned());
    ControlCommand::Revoke { tokens, at: Timestamp(at), kept_until: Timestamp(kept_until) }
}

fn revoked_ids(log: &CommandLog) -> Vec<RevokedTokens> {
    log.view().revocations.iter().map(|(tokens, _)| tokens).collect()
}

#[test]
fn command_of_a_node_whose_clock_is_ahead_ends_no_revocation_of_a_valid_token() {
    let mut log = CommandLog::bootstrapped();
    log.apply_ok(revoke("valid", DAY_MS, 2 * DAY_MS));
    log.apply_ok(revoke("of-a-clock-ahead", 3 * DAY_MS - 1, 9 * DAY_MS));
    assert_eq!(revoked_ids(&log).len(), 2);
    log.apply_ok(revoke("third", 3 * DAY_MS, 9 * DAY_MS));
    let expired = RevokedTokens::WithId("valid".to_owned());
    assert_eq!(revoked_ids(&log).len(), 2);
    assert!(!revoked_ids(&log).contains(&expired));
}
