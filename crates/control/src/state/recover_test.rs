//! Recovery of the group on the survivors of a lost majority.

use std::collections::BTreeSet;

use super::state_test::{CommandLog, join_command};
use super::*;

#[test]
fn recovered_cluster_has_only_the_survivors_and_reuses_no_id() {
    let mut log = CommandLog::bootstrapped();
    for n in 2..=3 {
        let joined = log.join(join_command(n, &format!("n{n}"))).unwrap();
        log.apply_ok(ControlCommand::Activate(joined.node));
    }
    let (me, lost) = (NodeId(2), [NodeId(1), NodeId(3)].into());
    assert_eq!(log.state.recover(me, &lost, 1 << 40), Ok(()));
    let view = log.view();
    assert_eq!(view.members.keys().collect::<Vec<_>>(), [&me]);
    assert_eq!(view.version, 1 << 40);
    // The lost members may have assigned this id without this node's knowledge.
    assert!(view.was_removed(NodeId(4)));
    log.index = 1 << 40;
    let back = log.apply_rejected(ControlCommand::Join(join_command(3, "n3")));
    assert_eq!(back, CommandRejection::Removed(NodeId(3)));
    assert!(log.join(join_command(9, "new")).unwrap().node > NodeId(1000));
    assert_eq!(ControlState::restore(&log.state.snapshot()), Ok(log.state));
}

#[test]
fn invalid_recovery_changes_nothing() {
    use super::RecoverError::{IsLocalNode, NotAMember, NotBootstrapped, NotShardHolder};
    let lost = |id| BTreeSet::from([NodeId(id)]);
    assert_eq!(ControlState::default().recover(NodeId(1), &lost(2), 99), Err(NotBootstrapped));
    let mut log = CommandLog::bootstrapped();
    let joined = log.join(join_command(2, "n2")).unwrap();
    let before = log.state.clone();
    let mut recover_error = |me, id| log.state.recover(NodeId(me), &lost(id), 99);
    assert_eq!(recover_error(1, 1), Err(IsLocalNode(NodeId(1))));
    assert_eq!(recover_error(1, 7), Err(NotAMember(NodeId(7))));
    assert_eq!(recover_error(2, 1), Err(NotShardHolder(joined.node)));
    assert_eq!(log.state, before);
}
