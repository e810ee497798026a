//! The consensus times: checked at a join, and changed in two steps.

use super::state_test::{CommandLog, join_command};
use pushonce_core::ConsensusTimes;

use super::*;

#[test]
fn node_with_other_times_is_rejected_and_a_new_one_receives_the_times() {
    let mut log = CommandLog::bootstrapped();
    let slow = JoinCommand { times: Some(ConsensusTimes::WAN), ..join_command(2, "n2") };
    let rejection = CommandRejection::TimesMismatch {
        node_times: ConsensusTimes::WAN,
        cluster: ConsensusTimes::LAN,
    };
    assert_eq!(log.apply_rejected(ControlCommand::Join(slow)), rejection);
    let joined = log.join(join_command(2, "n2")).unwrap();
    assert_eq!(joined.times.current, ConsensusTimes::LAN);
}

#[test]
fn times_change_completes_when_every_member_acknowledged_or_was_removed() {
    let mut log = CommandLog::bootstrapped();
    for n in 2..=3 {
        let joined = log.join(join_command(n, &format!("n{n}"))).unwrap();
        log.apply_ok(ControlCommand::Activate(joined.node));
    }
    log.apply_ok(ControlCommand::SetTimes(ConsensusTimes::WAN));
    let step = log.view().times;
    assert_eq!((step.current, step.next), (ConsensusTimes::LAN, Some(ConsensusTimes::WAN)));
    let other = ConsensusTimes { heartbeat_ms: 100, ..ConsensusTimes::LAN };
    let missing = vec![NodeId(1), NodeId(2), NodeId(3)];
    let busy = CommandRejection::TimesChanging { to: ConsensusTimes::WAN, missing };
    assert_eq!(log.apply_rejected(ControlCommand::SetTimes(other)), busy);

    log.apply_ok(ControlCommand::AckTimes { node: NodeId(1), version: step.version });
    log.apply_ok(ControlCommand::AckTimes { node: NodeId(2), version: step.version });
    let newcomer = log.join(join_command(4, "n4")).unwrap();
    assert_eq!(
        newcomer.times, step,
        "the new node received the step, so its acknowledgement is not needed"
    );
    assert_eq!(log.view().times, step);
    log.apply_ok(ControlCommand::Remove(NodeId(3)));
    let after = log.view().times;
    assert_eq!((after.current, after.next), (ConsensusTimes::WAN, None));
}
