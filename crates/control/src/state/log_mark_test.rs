//! A joining node proves that it still has the log on which it voted.

use super::state_test::{CommandLog, join_command};
use super::*;

pub(super) fn log_mark(log: u64, writes: u64) -> Option<LogMark> {
    Some(LogMark { log, writes })
}

/// Joins the second node of a cluster and announces its log.
fn join_with_log(log: &mut CommandLog) -> JoinCommand {
    let joined = log.join(join_command(2, "n2")).unwrap();
    let again =
        JoinCommand { node: Some(joined.node), log: log_mark(9, 50), ..join_command(2, "n2") };
    assert_eq!(log.join(again.clone()), Ok(joined));
    again
}

#[test]
fn node_that_was_in_use_is_rejected_without_its_log() {
    let mut log = CommandLog::bootstrapped();
    let n2 = join_with_log(&mut log);
    let lost = CommandRejection::LogLost { node: NodeId(2) };
    let cases = [
        JoinCommand { node: None, log: None, ..n2.clone() },
        JoinCommand { log: None, ..n2.clone() },
        JoinCommand { log: log_mark(10, 99), ..n2.clone() },
    ];
    for joining in cases {
        assert_eq!(log.apply_rejected(ControlCommand::Join(joining)), lost);
    }
    let older = JoinCommand { log: log_mark(9, 49), ..n2.clone() };
    let rolled_back = CommandRejection::LogRolledBack { node: NodeId(2), writes: 49, known: 50 };
    assert_eq!(log.apply_rejected(ControlCommand::Join(older)), rolled_back);
    assert!(log.join(JoinCommand { log: log_mark(9, 51), ..n2 }).is_ok());
}

#[test]
fn active_member_without_a_reported_log_is_rejected() {
    let mut log = CommandLog::bootstrapped();
    let joined = log.join(join_command(2, "n2")).unwrap();
    assert_eq!(
        log.join(join_command(2, "n2")),
        Ok(joined),
        "a joining member without a log has no vote"
    );
    log.apply_ok(ControlCommand::Activate(joined.node));
    let rejection = log.apply_rejected(ControlCommand::Join(join_command(2, "n2")));
    assert_eq!(rejection, CommandRejection::LogLost { node: joined.node });
}
