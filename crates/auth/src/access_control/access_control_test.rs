use std::sync::atomic::{AtomicU64, Ordering};

use pushonce_core::test_util::topic;
use pushonce_core::{ClusterId, RevokedTokens};

use serde_json::json;

use super::*;
use crate::testing::{self, Stage, claims, key_pair, sign};
use crate::{Algorithm, Grants, NewTicket, PatternSet, VerifiedToken};

/// The time of the tests of this file, which change it: one test each.
static NOW: AtomicU64 = AtomicU64::new(0);

fn token(subject: &str) -> Caller {
    let subscribe = PatternSet { allow: vec!["chat/**".parse().unwrap()], deny: Vec::new() };
    Caller::with_token(VerifiedToken {
        issuer: "issuer".into(),
        subject: Some(subject.into()),
        token_id: None,
        issued_at: Some(Timestamp(1_000)),
        expires_at: Timestamp(100_000),
        grants: Grants { subscribe, ..Grants::default() },
        key: None,
    })
}

fn access(grace: Duration, clock: Clock) -> (AccessControl, watch::Sender<Arc<ClusterView>>) {
    let (sender, view) = watch::channel(Arc::new(ClusterView::unknown(ClusterId(1))));
    let tickets = Tickets::new(NodeId(1), Arc::new(NoPeers));
    (AccessControl::with_clock(Authenticator::open(), view, grace, tickets, clock), sender)
}

#[test]
fn token_is_accepted_until_its_expiry_and_the_grace() {
    let (access, _sender) =
        access(Duration::from_secs(10), || Timestamp(NOW.load(Ordering::Relaxed)));
    let (caller, topic) = (token("alice"), topic("chat/7"));
    assert_eq!(access.valid_until(&caller), Some(Timestamp(110_000)));
    NOW.store(109_999, Ordering::Relaxed);
    assert_eq!(access.authorize(&caller, Action::Subscribe(&topic)), Ok(()));
    NOW.store(110_000, Ordering::Relaxed);
    assert_eq!(access.authorize(&caller, Action::Subscribe(&topic)), Err(AccessError::Expired));
    assert_eq!(access.valid_until(&Caller::anonymous()), None);
}

#[test]
fn grace_is_at_most_a_heartbeat() {
    let (access, _sender) = access(Duration::from_secs(3_600), || Timestamp(0));
    assert_eq!(access.valid_until(&token("alice")), Some(Timestamp(125_000)));
}

#[tokio::test]
async fn revocation_ends_the_wait_of_the_revoked_subject_only() {
    let (access, sender) = access(Duration::ZERO, || Timestamp(0));
    let (alice, bob) = (token("alice"), token("bob"));
    let mut wait_of_bob = Box::pin(access.wait_until_invalid(&bob));
    sender.send_modify(|view| {
        let revoked = RevokedTokens::OfSubject { subject: "alice".to_owned(), issued_before: None };
        let revocations = Arc::make_mut(&mut Arc::make_mut(view).revocations);
        revocations.revoke(revoked, Timestamp(200_000)).unwrap();
    });
    assert_eq!(access.wait_until_invalid(&alice).await, AccessError::Revoked);
    assert_eq!(access.check_valid(&bob), Ok(()));
    assert!(futures::poll!(&mut wait_of_bob).is_pending());
    sender.send_modify(|view| {
        let everyone = RevokedTokens::IssuedBefore(Timestamp(1_001));
        let revocations = Arc::make_mut(&mut Arc::make_mut(view).revocations);
        revocations.revoke(everyone, Timestamp(200_000)).unwrap();
    });
    assert_eq!(wait_of_bob.await, AccessError::Revoked);
}

/// NTP corrects a clock that was behind, or a virtual machine continues after a pause.
#[tokio::test(start_paused = true)]
async fn clock_that_steps_past_the_expiry_ends_the_wait_within_seconds() {
    static CLOCK_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || Timestamp(CLOCK_MS.load(Ordering::Relaxed));
    let (access, _sender) = access(Duration::ZERO, clock);
    let alice = token("alice");
    let mut wait = Box::pin(access.wait_until_invalid(&alice));
    assert!(futures::poll!(&mut wait).is_pending());
    let stepped_at = tokio::time::Instant::now();
    CLOCK_MS.store(3_600_000, Ordering::Relaxed);
    assert_eq!(wait.await, AccessError::Expired);
    // By the timers of the runtime the token would be valid for 100 seconds more.
    assert!(stepped_at.elapsed() <= Duration::from_secs(5), "{:?}", stepped_at.elapsed());
}

#[tokio::test]
async fn closed_namespace_ends_the_wait_of_callers_that_it_was_open_to_only() {
    let (access, sender) = access(Duration::ZERO, || Timestamp(0));
    let set_open = |is_open: bool| {
        sender.send_modify(|view| {
            Arc::make_mut(view).namespaces.default.access.anonymous_read = is_open;
        });
    };
    set_open(true);
    let (alice, stranger, topic) = (token("alice"), Caller::anonymous(), topic("chat/7"));
    let action = Action::Subscribe(&topic);
    let mut wait_of_alice = Box::pin(access.wait_until_refused(&alice, action));
    let mut wait_of_stranger = Box::pin(access.wait_until_refused(&stranger, action));
    assert!(futures::poll!(&mut wait_of_stranger).is_pending());
    set_open(false);
    assert_eq!(wait_of_stranger.await.kind(), RefusalKind::TokenRequired);
    assert!(futures::poll!(&mut wait_of_alice).is_pending());
}

#[test]
fn refused_callers_are_told_what_to_do() {
    let denied = |caller: &Caller| {
        authorize(caller, Action::ReadCluster, &Default::default()).map_err(AccessError::from)
    };
    let kind = |result: Result<(), AccessError>| result.unwrap_err().kind();
    assert_eq!(kind(denied(&Caller::anonymous())), RefusalKind::TokenRequired);
    assert_eq!(kind(denied(&token("alice"))), RefusalKind::NotAllowed);
    assert_eq!(kind(Err(AccessError::Expired)), RefusalKind::Expired);
    assert_eq!(kind(Err(AccessError::Revoked)), RefusalKind::InvalidToken);
    assert_eq!(kind(Err(AuthenticationError::KeysUnavailable.into())), RefusalKind::Unavailable);
    assert_eq!(kind(Err(AuthenticationError::Expired.into())), RefusalKind::Expired);
    assert_eq!(kind(Err(InvalidTicket::Unknown.into())), RefusalKind::InvalidToken);
}

#[tokio::test]
async fn address_with_too_many_invalid_tickets_waits_and_others_do_not() {
    let (access, _sender) = access(Duration::ZERO, || Timestamp(0));
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap().into();
    // Of this node, which issued none.
    let alice = token("alice");
    let payer = alice.key(ClientAddress::LOCALHOST);
    let new = NewTicket { caller: &alice, topics: None, payer, random: (7, [7; 32]) };
    let other_store = Tickets::new(NodeId(1), Arc::new(NoPeers));
    let (ticket, _) = other_store.issue(new, Timestamp(0)).unwrap();
    let refused = loop {
        let error = access.redeem(&ticket, address("192.0.2.1")).await.unwrap_err();
        if error != AccessError::Ticket(InvalidTicket::Unknown) {
            break error;
        }
    };
    assert!(refused.retry_after().is_some_and(|wait| !wait.is_zero()), "{refused:?}");
    assert_eq!(refused.kind(), RefusalKind::TooManyFailures);
    for other in ["192.0.2.2", "127.0.0.1"] {
        let error = access.redeem(&ticket, address(other)).await.unwrap_err();
        assert_eq!(error, AccessError::Ticket(InvalidTicket::Unknown), "{other}");
    }
}

/// An address of many clients.
const SHARED: &str = "192.0.2.1";

fn shared_address() -> ClientAddress {
    SHARED.parse::<std::net::IpAddr>().unwrap().into()
}

fn access_of(authenticator: Authenticator) -> (AccessControl, watch::Sender<Arc<ClusterView>>) {
    let (sender, view) = watch::channel(Arc::new(ClusterView::unknown(ClusterId(1))));
    let tickets = Tickets::new(NodeId(1), Arc::new(NoPeers));
    let clock = || Timestamp(testing::NOW * 1_000);
    let grace = Duration::ZERO;
    (AccessControl::with_clock(authenticator, view, grace, tickets, clock), sender)
}

#[tokio::test]
async fn refused_tokens_with_a_valid_signature_do_not_delay_others_at_the_address() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let (access, sender) = access_of(authenticator);
    sender.send_modify(|view| {
        let revoked = RevokedTokens::WithId("revoked".to_owned());
        let revocations = Arc::make_mut(&mut Arc::make_mut(view).revocations);
        revocations.revoke(revoked, Timestamp(u64::MAX)).unwrap();
    });
    let signed = |changes| AccessToken::new(sign(&pair, None, &claims(changes)));
    let valid = signed(json!({}));
    for (refused, error) in [
        (json!({ "exp": 1 }), AuthenticationError::Expired.into()),
        (json!({ "nbf": testing::NOW + 3_600 }), AuthenticationError::NotYetValid.into()),
        (
            json!({ "aud": "others" }),
            AuthenticationError::OtherAudience { expected: "pushonce".to_owned() }.into(),
        ),
        (json!({ "jti": "revoked" }), AccessError::Revoked),
    ] {
        let token = signed(refused);
        for _ in 0..100 {
            let result = access.authenticate(&token, shared_address()).await;
            assert_eq!(result, Err::<Caller, AccessError>(AccessError::clone(&error)));
        }
        assert!(access.authenticate(&valid, shared_address()).await.is_ok(), "{error}");
    }
}

#[tokio::test]
async fn valid_token_is_accepted_soon_after_a_flood_of_forged_ones_from_its_address() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let (access, _sender) = access_of(authenticator);
    let forged = [
        sign(&key_pair(Algorithm::EdDsa), None, &claims(json!({}))),
        sign(&pair, None, &claims(json!({ "iss": "unknown" }))),
        "malformed".to_owned(),
    ]
    .map(AccessToken::new);
    let valid = AccessToken::new(sign(&pair, None, &claims(json!({}))));
    let mut unread = None;
    for token in forged.iter().cycle().take(1_000) {
        let error = access.authenticate(token, shared_address()).await.unwrap_err();
        unread = unread.or(error.retry_after());
    }
    let wait = unread.expect("tokens beyond the limit are not read");
    assert!(wait <= Duration::from_millis(100), "{wait:?}");
    // A later failure may have begun the wait again.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(access.authenticate(&valid, shared_address()).await.is_ok());
}

#[tokio::test]
async fn removed_key_ends_the_wait_of_its_tokens_only() {
    let [removed, kept] = [Algorithm::EdDsa; 2].map(key_pair);
    let stage = Stage::new();
    stage.write_keys(&[("removed", &removed), ("kept", &kept)]);
    let authenticator = stage.load().unwrap();
    let (access, _view) = access_of(authenticator.clone());
    let caller = async |pair, id| {
        let token = AccessToken::new(sign(pair, Some(id), &claims(json!({}))));
        access.authenticate(&token, shared_address()).await.unwrap()
    };
    let (alice, bob) = (caller(&removed, "removed").await, caller(&kept, "kept").await);
    let mut wait_of_alice = Box::pin(access.wait_until_invalid(&alice));
    let mut wait_of_bob = Box::pin(access.wait_until_invalid(&bob));
    assert!(futures::poll!(&mut wait_of_alice).is_pending());
    assert!(futures::poll!(&mut wait_of_bob).is_pending());
    stage.write_keys(&[("kept", &kept)]);
    let run = tokio::spawn(authenticator.clone().run());
    authenticator.reload();
    let ended = tokio::time::timeout(Duration::from_secs(60), wait_of_alice).await;
    assert_eq!(ended.expect("the reload ends the wait"), AccessError::KeyRemoved);
    assert_eq!(AccessError::KeyRemoved.kind(), RefusalKind::InvalidToken);
    assert!(futures::poll!(&mut wait_of_bob).is_pending());
    let topic = topic("chat/7");
    let refused = access.authorize(&alice, Action::Subscribe(&topic));
    assert_eq!(refused, Err(AccessError::KeyRemoved));
    run.abort();
}
