//! Joins with a certificate or a token.

use pushonce_core::{JoinTokenHash, JoinTokenStatus, Timestamp};

use super::state_test::{CommandLog, join_command};
use super::*;
use crate::JoinCredential;

const NOW: Timestamp = Timestamp(1_000);
const EXPIRES: Timestamp = Timestamp(2_000);

fn with_certificate(node: u64, incarnation: u128) -> JoinCommand {
    let credential = JoinCredential::Certificate(NodeId(node));
    JoinCommand { credential, ..join_command(incarnation, &format!("node-{incarnation}")) }
}

fn hash(token: u8) -> JoinTokenHash {
    JoinTokenHash([token; 32])
}

fn with_token(token: u8, now: Timestamp, incarnation: u128) -> JoinCommand {
    let credential = JoinCredential::Token { hash: hash(token), now };
    JoinCommand { credential, ..join_command(incarnation, &format!("node-{incarnation}")) }
}

fn add_token(token: u8, now: Timestamp) -> ControlCommand {
    ControlCommand::AddJoinToken { hash: hash(token), now, expires: EXPIRES }
}

fn rejection(log: &mut CommandLog, command: JoinCommand) -> CommandRejection {
    let before = log.state.clone();
    let rejection = log.join(command).expect_err("rejected");
    assert_eq!(log.state, before, "{rejection}");
    rejection
}

#[test]
fn certificate_gets_exactly_its_id_and_skipped_ids_stay_available() {
    let mut log = CommandLog::bootstrapped();
    assert_eq!(log.join(with_certificate(4, 40)).map(|joined| joined.node), Ok(NodeId(4)));
    let view = log.view();
    assert!(!view.was_removed(NodeId(2)) && !view.was_removed(NodeId(3)));
    assert_eq!(log.join(with_certificate(2, 20)).map(|joined| joined.node), Ok(NodeId(2)));
    assert_eq!(log.join(join_command(50, "node-50")).map(|joined| joined.node), Ok(NodeId(5)));
    assert_eq!(log.join(with_certificate(3, 30)).map(|joined| joined.node), Ok(NodeId(3)));
    assert_eq!(log.view().unused_ids, BTreeSet::new());
}

#[test]
fn certificate_of_an_id_that_was_used_is_rejected() {
    let mut log = CommandLog::bootstrapped();
    log.join(with_certificate(2, 20)).expect("joins");
    log.join(with_certificate(2, 20)).expect("the same directory joins again");
    let taken = |node, next| CommandRejection::IdTaken { node: NodeId(node), next: NodeId(next) };
    assert_eq!(rejection(&mut log, with_certificate(1, 9)), taken(1, 3));
    assert_eq!(rejection(&mut log, with_certificate(2, 21)), taken(2, 3));
    assert_eq!(
        rejection(&mut log, with_certificate(3, 20)),
        CommandRejection::CertificateMismatch { node: NodeId(2), certificate: NodeId(3) }
    );
    log.apply_ok(ControlCommand::Remove(NodeId(2)));
    assert_eq!(rejection(&mut log, with_certificate(2, 22)), taken(2, 3));
    assert_eq!(rejection(&mut log, with_certificate(2, 20)), CommandRejection::Removed(NodeId(2)));
}

#[test]
fn certificate_of_an_expired_join_is_rejected_with_the_command_for_another_id() {
    let mut log = CommandLog::bootstrapped();
    log.join(with_certificate(4, 40)).expect("joins");
    log.apply_ok(ControlCommand::ExpireJoining(NodeId(4)));
    let rejected = rejection(&mut log, with_certificate(4, 40));
    assert!(rejected.to_string().contains("`pushonce ca issue --node 5`"), "{rejected}");
    assert_eq!(log.join(with_certificate(5, 40)).map(|joined| joined.node), Ok(NodeId(5)));
}

#[test]
fn directory_whose_join_did_not_complete_joins_with_a_new_token_and_a_new_id() {
    let mut log = CommandLog::bootstrapped();
    log.apply_ok(add_token(7, NOW));
    let first = log.join(with_token(7, NOW, 20)).expect("joins").node;
    assert_eq!(rejection(&mut log, with_token(7, EXPIRES, 20)), CommandRejection::JoinTokenExpired);
    let later = Timestamp(EXPIRES.0 + 1_000);
    let added = ControlCommand::AddJoinToken { hash: hash(8), now: EXPIRES, expires: later };
    log.apply_ok(added);
    let second = log.join(with_token(8, EXPIRES, 20)).expect("joins again").node;
    assert!(second > first, "an id is never used again");
    assert!(log.view().member(first).is_none());
    assert_eq!(log.join(with_token(8, EXPIRES, 20)).map(|again| again.node), Ok(second));
    assert_eq!(
        rejection(&mut log, JoinCommand { node: Some(first), ..with_token(8, EXPIRES, 20) }),
        CommandRejection::NodeIdMismatch(first)
    );
}

#[test]
fn node_with_a_certificate_may_have_its_own_id_as_name_and_no_other() {
    let mut log = CommandLog::bootstrapped();
    let named = |name: &str| {
        let credential = JoinCredential::Certificate(NodeId(7));
        JoinCommand { credential, ..join_command(70, name) }
    };
    let rejected = rejection(&mut log, named("n2"));
    assert!(matches!(rejected, CommandRejection::NameLooksLikeId { .. }), "{rejected}");
    assert_eq!(log.join(named("n7")).map(|joined| joined.node), Ok(NodeId(7)));
}

#[test]
fn skipped_ids_are_bounded() {
    let mut log = CommandLog::bootstrapped();
    let max = log.rules().unused_ids_max as u64;
    let too_high = NodeId(2 + max + 1);
    let rejected = rejection(&mut log, with_certificate(too_high.0, 20));
    assert_eq!(rejected, CommandRejection::IdTooHigh { node: too_high, max: NodeId(2 + max) });
    let rejected = rejection(&mut log, with_certificate(u64::MAX, 20));
    assert!(matches!(rejected, CommandRejection::IdTooHigh { .. }));
    assert!(log.join(with_certificate(2 + max, 20)).is_ok());
    let next = rejection(&mut log, with_certificate(2 + max + 2, 21));
    assert!(matches!(next, CommandRejection::IdTooHigh { .. }), "the skipped ids are all in use");
    assert!(log.join(with_certificate(2 + max + 1, 21)).is_ok(), "nothing is skipped");
    assert!(log.join(with_certificate(7, 22)).is_ok());
}

#[test]
fn token_admits_one_directory_until_it_expires() {
    let mut log = CommandLog::bootstrapped();
    assert_eq!(rejection(&mut log, with_token(7, NOW, 20)), CommandRejection::UnknownJoinToken);
    log.apply_ok(add_token(7, NOW));
    assert_eq!(rejection(&mut log, with_token(7, EXPIRES, 20)), CommandRejection::JoinTokenExpired);
    let joined = log.join(with_token(7, NOW, 20)).expect("joins");
    assert_eq!(log.join(with_token(7, NOW, 20)).map(|again| again.node), Ok(joined.node));
    assert_eq!(
        rejection(&mut log, with_token(7, NOW, 21)),
        CommandRejection::JoinTokenUsed(joined.node),
        "of two nodes that race for one token, one joins"
    );
    assert_eq!(rejection(&mut log, with_token(7, EXPIRES, 20)), CommandRejection::JoinTokenExpired);
    let status = JoinTokenStatus { expires: EXPIRES, used_by: Some(joined.node) };
    assert_eq!(log.view().join_tokens, BTreeMap::from([(hash(7).id(), status)]));
}

#[test]
fn token_never_gives_the_identity_of_a_member() {
    let mut log = CommandLog::bootstrapped();
    log.apply_ok(add_token(7, NOW));
    let member = log.join(join_command(20, "node-20")).expect("joins").node;
    log.apply_ok(ControlCommand::Activate(member));
    let stolen = with_token(7, NOW, 20);
    assert_eq!(rejection(&mut log, stolen), CommandRejection::LogLost { node: member });
    assert!(log.join(with_token(7, NOW, 21)).is_ok(), "the token is not used up");
}

#[test]
fn token_with_the_id_of_another_one_is_unknown() {
    let mut log = CommandLog::bootstrapped();
    log.apply_ok(add_token(7, NOW));
    let mut forged = hash(7);
    forged.0[31] ^= 1;
    assert_eq!(forged.id(), hash(7).id());
    let credential = JoinCredential::Token { hash: forged, now: NOW };
    let joining = JoinCommand { credential, ..join_command(20, "node-2") };
    assert_eq!(rejection(&mut log, joining), CommandRejection::UnknownJoinToken);
}

#[test]
fn tokens_are_bounded_revocable_and_dropped_after_their_expiry() {
    let mut log = CommandLog::bootstrapped();
    let max = log.rules().join_tokens_max as u8;
    for token in 0..max {
        log.apply_ok(add_token(token, NOW));
    }
    log.apply_ok(add_token(0, NOW));
    let full = CommandRejection::TooManyJoinTokens { max: max.into() };
    assert_eq!(log.apply(add_token(max, NOW)), CommandReply::Rejected(full));
    log.apply_ok(ControlCommand::RevokeJoinToken(hash(0).id()));
    log.apply_ok(add_token(max, NOW));
    assert_eq!(rejection(&mut log, with_token(0, NOW, 20)), CommandRejection::UnknownJoinToken);
    let later = ControlCommand::AddJoinToken {
        hash: hash(200),
        now: EXPIRES,
        expires: Timestamp(EXPIRES.0 + 1),
    };
    log.apply_ok(later);
    assert_eq!(log.view().join_tokens.len(), 1);
}

#[test]
fn token_that_expires_too_late_or_has_expired_is_rejected() {
    let mut log = CommandLog::bootstrapped();
    let max_ms = log.rules().join_token_validity_max_ms;
    for expires in [NOW, Timestamp(NOW.0 + max_ms + 1), Timestamp(u64::MAX)] {
        let command = ControlCommand::AddJoinToken { hash: hash(1), now: NOW, expires };
        let invalid = CommandRejection::InvalidTokenValidity { max_ms };
        assert_eq!(log.apply(command), CommandReply::Rejected(invalid));
    }
}
