//! Authentication and grants of a session.

use pushonce_auth::{Denied, Grants, PatternSet, VerifiedToken};
use pushonce_core::test_util::{self, topic};

use super::*;

const LIMITS: SessionLimits = SessionLimits { publishes_max: 3, publish_bytes_max: 100 };

/// A node with issuers: the topic `public` is for everyone, all others for callers with a token.
struct ClosedGate;

impl AccessGate for ClosedGate {
    fn is_open(&self) -> bool {
        false
    }

    fn authorize(&self, caller: Option<&Caller>, action: Action<'_>) -> Result<(), AccessError> {
        let namespaces = pushonce_core::Namespaces::default();
        match (caller, action) {
            (None, Action::Subscribe(topic)) if topic.as_str() == "public" => Ok(()),
            (None, action) => Err(Denied::TokenRequired { action: action.to_string() }.into()),
            (Some(caller), action) => Ok(pushonce_auth::authorize(caller, action, &namespaces)?),
        }
    }

    fn expires_at(&self, caller: &Caller) -> Timestamp {
        caller.expires_at().unwrap_or_default()
    }
}

fn caller(subject: &str, patterns: &[&str]) -> Caller {
    let allow: Vec<_> = patterns.iter().map(|text| text.parse().unwrap()).collect();
    let set = PatternSet { allow, deny: Vec::new() };
    Caller::with_token(VerifiedToken {
        issuer: "issuer".into(),
        subject: Some(subject.into()),
        token_id: None,
        issued_at: None,
        expires_at: Timestamp(7),
        grants: Grants { subscribe: set.clone(), publish: set, admin: None },
        key: None,
    })
}

fn request(id: u64, command: ClientCommand) -> SessionInput {
    SessionInput::Request(Ok(ClientRequest { id: Some(id), command }))
}

fn authenticate(id: u64) -> SessionInput {
    request(id, ClientCommand::Authenticate { token: AccessToken::new("secret") })
}

fn subscribe(id: u64, name: &str) -> SessionInput {
    let options = SubscribeOptions::default();
    request(id, ClientCommand::Subscribe { topic: topic(name), from: StartFrom::Now, options })
}

fn publish(id: u64, name: &str, payload: Vec<u8>) -> SessionInput {
    request(id, ClientCommand::Publish(test_util::publish(name, payload)))
}

fn authenticated(caller: Caller) -> SessionInput {
    SessionInput::Authenticated(Ok(caller))
}

fn run(session: &mut Session, inputs: impl IntoIterator<Item = SessionInput>) -> Vec<String> {
    let effects = inputs.into_iter().flat_map(|input| session.on_input(input, &ClosedGate));
    effects.map(summarize).collect()
}

fn summarize(effect: SessionEffect) -> String {
    let id = |id: Option<u64>| id.map_or("-".to_owned(), |id| id.to_string());
    match effect {
        SessionEffect::Reply(ServerEvent::Error { id: request, code, .. }) => {
            format!("{} {code}", id(request))
        }
        SessionEffect::Reply(ServerEvent::Authenticated { id: request, expires }) => {
            format!("{} authenticated until {}", id(request), expires.0)
        }
        SessionEffect::Subscribe { topic, .. } => format!("subscribe {topic}"),
        SessionEffect::Publish(publish) => format!("publish {}", publish.topic),
        SessionEffect::Authenticate(_) => "verify".to_owned(),
        SessionEffect::CallerChanged(caller) => format!("caller {:?}", caller.subject()),
        SessionEffect::Refused(_) => "audit".to_owned(),
        SessionEffect::Close(close, _) => format!("close {}", close.code),
        other => format!("{other:?}"),
    }
}

fn session() -> Session {
    Session::new(Rc::new(LIMITS))
}

#[test]
fn session_without_a_token_reads_public_topics_only() {
    let inputs = [subscribe(1, "public"), subscribe(2, "chat"), publish(3, "public", vec![])];
    let expected =
        ["subscribe public", "2 not_authenticated", "audit", "3 not_authenticated", "audit"];
    assert_eq!(run(&mut session(), inputs), expected);
}

#[test]
fn requests_wait_for_the_verification_and_follow_in_order() {
    let mut session = session();
    let inputs = [authenticate(1), subscribe(2, "chat"), publish(3, "chat", vec![])];
    assert_eq!(run(&mut session, inputs), ["verify"]);
    assert_eq!(
        run(&mut session, [authenticated(caller("alice", &["chat"]))]),
        ["caller Some(\"alice\")", "1 authenticated until 7", "subscribe chat", "publish chat"]
    );
}

#[test]
fn invalid_token_ends_the_session_and_drops_what_waited() {
    let mut session = session();
    run(&mut session, [authenticate(1), subscribe(2, "public")]);
    let result = SessionInput::Authenticated(Err(AccessError::Revoked));
    assert_eq!(run(&mut session, [result]), ["1 not_authenticated", "audit", "close 4401"]);
    assert!(run(&mut session, [subscribe(3, "public")]).is_empty());
}

#[test]
fn renewal_replaces_the_grants_and_keeps_the_subject() {
    let mut session = session();
    run(&mut session, [authenticate(1), authenticated(caller("alice", &["a"]))]);
    run(&mut session, [authenticate(2), authenticated(caller("alice", &["b"]))]);
    assert_eq!(
        run(&mut session, [subscribe(3, "a"), subscribe(4, "b")]),
        ["3 not_allowed", "audit", "subscribe b"]
    );
    run(&mut session, [authenticate(5)]);
    assert_eq!(
        run(&mut session, [authenticated(caller("bob", &["a"])), subscribe(6, "a")]),
        ["5 not_allowed", "6 not_allowed", "audit"]
    );
    assert_eq!(session.caller().and_then(Caller::subject), Some("alice"));
}

#[test]
fn failures_of_others_at_the_address_end_only_a_session_without_a_valid_token() {
    let refused = || {
        let retry_after = std::time::Duration::from_secs(6);
        let error = AccessError::TooManyFailures { retry_after };
        SessionInput::Authenticated(Err(error))
    };
    let mut session = session();
    run(&mut session, [authenticate(1), authenticated(caller("alice", &["chat"]))]);
    assert_eq!(
        run(&mut session, [authenticate(2), refused(), subscribe(3, "chat")]),
        ["verify", "2 overloaded", "audit", "subscribe chat"]
    );
    let mut session = self::session();
    assert_eq!(
        run(&mut session, [authenticate(1), refused()]),
        ["verify", "1 overloaded", "audit", "close 4429"]
    );
}

#[test]
fn second_authentication_lets_the_requests_behind_it_wait_again() {
    let mut session = session();
    run(&mut session, [authenticate(1), subscribe(2, "a"), authenticate(3), subscribe(4, "b")]);
    let first = run(&mut session, [authenticated(caller("alice", &["a"]))]);
    assert_eq!(first[2..], ["subscribe a", "verify"]);
    let second = run(&mut session, [authenticated(caller("alice", &["b"]))]);
    assert_eq!(second[2..], ["subscribe b"]);
}

#[test]
fn little_is_held_for_a_client_whose_token_is_not_verified_yet() {
    let mut session = session();
    let large = publish(2, "a", vec![0; 9 << 10]);
    assert_eq!(run(&mut session, [authenticate(1), large]), ["verify", "2 overloaded"]);
    let many = (10..100).map(|id| subscribe(id, "a"));
    let rejected = run(&mut session, many);
    assert_eq!((rejected.len(), rejected[0].as_str()), (26, "74 overloaded"));
}

#[test]
fn caller_of_the_opening_request_needs_no_frame() {
    let opened_by = SessionInput::Caller(caller("alice", &["a"]));
    assert_eq!(
        run(&mut session(), [opened_by, subscribe(1, "a")]),
        ["caller Some(\"alice\")", "subscribe a"]
    );
}

/// A node without issuers.
struct OpenGate;

impl AccessGate for OpenGate {
    fn is_open(&self) -> bool {
        true
    }

    fn authorize(&self, _: Option<&Caller>, _: Action<'_>) -> Result<(), AccessError> {
        Ok(())
    }

    fn expires_at(&self, _: &Caller) -> Timestamp {
        Timestamp(0)
    }
}

fn unavailable() -> SessionInput {
    let error = pushonce_auth::AuthenticationError::KeysUnavailable;
    SessionInput::Authenticated(Err(error.into()))
}

#[test]
fn frames_are_small_until_a_credential_was_verified_and_wait_while_one_is() {
    let mut session = session();
    let mut state_after = |inputs: Vec<SessionInput>| {
        run(&mut session, inputs);
        session.receive_state(&ClosedGate)
    };
    assert_eq!(state_after(vec![subscribe(1, "public")]), ReceiveState::Restricted);
    assert_eq!(state_after(vec![authenticate(2)]), ReceiveState::Waiting);
    assert_eq!(state_after(vec![unavailable()]), ReceiveState::Restricted);
    assert_eq!(state_after(vec![authenticate(3)]), ReceiveState::Waiting);
    let alice = || authenticated(caller("alice", &["a"]));
    assert_eq!(state_after(vec![alice()]), ReceiveState::Open);
    assert_eq!(state_after(vec![authenticate(4)]), ReceiveState::Waiting, "a renewal");
    assert_eq!(state_after(vec![unavailable()]), ReceiveState::Open, "its token is still valid");
    assert_eq!(state_after(vec![authenticate(5), alice()]), ReceiveState::Open);
}

#[test]
fn credential_of_the_opening_request_and_a_node_without_issuers_restrict_nothing() {
    let mut session = session();
    assert_eq!(session.receive_state(&OpenGate), ReceiveState::Open);
    assert_eq!(session.receive_state(&ClosedGate), ReceiveState::Restricted);
    run(&mut session, [SessionInput::Caller(caller("alice", &["a"]))]);
    assert_eq!(session.receive_state(&ClosedGate), ReceiveState::Open);
}

#[test]
fn bound_of_a_frame_is_never_above_that_of_the_namespaces() {
    for (state, expected) in [
        (ReceiveState::Open, [1_000, 1 << 20]),
        (ReceiveState::Restricted, [1_000, 16 << 10]),
        (ReceiveState::Waiting, [1_000, 16 << 10]),
    ] {
        assert_eq!([1_000, 1 << 20].map(|open| state.frame_bytes_max(open)), expected, "{state:?}");
    }
}

#[test]
fn session_with_a_frame_that_is_too_large_learns_whether_a_token_helps() {
    let mut session = session();
    let close = |session: &Session| {
        let (close, reason) = session.too_large(&ClosedGate, "too long");
        (close.code, reason)
    };
    let (code, reason) = close(&session);
    assert!(code == close::TOO_BIG.code && reason.contains("authenticate first"), "{reason}");
    run(&mut session, [authenticate(1), unavailable()]);
    let (code, reason) = close(&session);
    assert!(code == close::OVER_LIMIT.code && reason.contains("retry later"), "{reason}");
    run(&mut session, [authenticate(2), authenticated(caller("alice", &["a"]))]);
    assert_eq!(close(&session), (close::TOO_BIG.code, "too long".to_owned()));
    assert!(reason.len() <= 123, "a close frame has no more room");
}
