use std::sync::LazyLock;

use pushonce_core::test_util::topic;
use pushonce_core::{Namespace, Namespaces, Timestamp, Topic};

use super::*;
use crate::{Grants, VerifiedToken};

static CHAT: LazyLock<Topic> = LazyLock::new(|| topic("chat/7"));

/// Every action once, on `topic`. The match makes the compiler ask for a row when an action is added.
fn every_action(topic: &Topic) -> Vec<Action<'_>> {
    let all = vec![
        Action::Subscribe(topic),
        Action::ReadHistory(topic),
        Action::ReadSnapshot(topic),
        Action::ReadAudience(topic),
        Action::Publish(topic, PublishDoor::Client),
        Action::Publish(topic, PublishDoor::Backend),
        Action::DescribeTopic(topic),
        Action::ListTopics(Some("chat/")),
        Action::ListTopics(None),
        Action::ReadCluster,
        Action::ChangeCluster,
        Action::ReadMetrics,
    ];
    for action in &all {
        match action {
            Action::Subscribe(_)
            | Action::ReadHistory(_)
            | Action::ReadSnapshot(_)
            | Action::ReadAudience(_)
            | Action::Publish(_, PublishDoor::Client | PublishDoor::Backend)
            | Action::DescribeTopic(_)
            | Action::ListTopics(_)
            | Action::ReadCluster
            | Action::ChangeCluster
            | Action::ReadMetrics => {}
        }
    }
    all
}

const READS: &str = "subscribe read-history read-snapshot read-audience";

fn grants(allow: [&[&str]; 2], deny: [&[&str]; 2], admin: Option<AdminAccess>) -> Grants {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("valid")).collect();
    let [subscribe, publish] =
        [0, 1].map(|set| crate::PatternSet { allow: parse(allow[set]), deny: parse(deny[set]) });
    Grants { subscribe, publish, admin }
}

fn caller(grants: Grants) -> Caller {
    Caller::with_token(VerifiedToken {
        issuer: "https://issuer.example".into(),
        subject: Some("alice".into()),
        token_id: None,
        issued_at: None,
        expires_at: Timestamp(u64::MAX),
        grants,
        key: None,
    })
}

fn namespaces(change: impl FnOnce(&mut Namespace)) -> Namespaces {
    let mut namespaces = Namespaces::default();
    let mut chat = Namespace::default();
    change(&mut chat);
    namespaces.named.insert("chat".to_owned(), chat);
    namespaces
}

/// The actions on `chat/7` that are allowed, in order; a publish with its door, a list with its prefix.
fn allowed(caller: &Caller, namespaces: &Namespaces) -> Vec<String> {
    let allowed = every_action(&CHAT)
        .into_iter()
        .filter(|action| authorize(caller, *action, namespaces).is_ok());
    let name = |action| match action {
        Action::Publish(_, PublishDoor::Client) => "publish(client)".to_owned(),
        Action::Publish(_, PublishDoor::Backend) => "publish(backend)".to_owned(),
        Action::ListTopics(Some(prefix)) => format!("list-topics({prefix})"),
        Action::ListTopics(None) => "list-topics(all)".to_owned(),
        other => other.name().to_owned(),
    };
    allowed.map(name).collect()
}

fn assert_allowed(caller: &Caller, namespaces: &Namespaces, expected: &str) {
    let expected: Vec<_> = expected.split_whitespace().collect();
    assert_eq!(allowed(caller, namespaces), expected, "{caller:?}");
}

#[test]
fn each_kind_of_caller_may_do_what_it_is_granted_and_nothing_else() {
    let defaults = Namespaces::default();
    let lists = "describe-topic list-topics(chat/)";
    let publishes = "publish(client) publish(backend)";
    let token = |allow, deny, admin| caller(grants(allow, deny, admin));
    let none: [&[&str]; 2] = [&[], &[]];
    for (caller, expected) in [
        (Caller::anonymous(), String::new()),
        (token(none, none, None), String::new()),
        (token([&["news/**"], &["news/**"]], none, None), String::new()),
        (token([&["chat/7"], &[]], none, None), format!("{READS} describe-topic")),
        (token([&["chat/**"], &[]], none, None), format!("{READS} {lists}")),
        (token([&["**"], &[]], none, None), format!("{READS} {lists} list-topics(all)")),
        (token([&[], &["chat/*"]], none, None), publishes.to_owned()),
        (token([&["**"], &["**"]], [&["chat/7"], &[]], None), publishes.to_owned()),
        (token([&["chat/**"], &["**"]], [&[], &["chat/*"]], None), format!("{READS} {lists}")),
        (
            token(none, none, Some(AdminAccess::Read)),
            format!("{lists} list-topics(all) read-cluster read-metrics"),
        ),
        (
            token(none, none, Some(AdminAccess::Write)),
            format!("{lists} list-topics(all) read-cluster change-cluster read-metrics"),
        ),
    ] {
        assert_allowed(&caller, &defaults, &expected);
    }
    let unrestricted = allowed(&Caller::unrestricted(), &defaults);
    assert_eq!(unrestricted.len(), every_action(&CHAT).len());
}

#[test]
fn anonymous_read_opens_the_messages_of_its_namespace_to_everyone_but_explicit_denies() {
    let open = namespaces(|chat| chat.access.anonymous_read = true);
    assert_allowed(&Caller::anonymous(), &open, READS);
    assert_allowed(&caller(Grants::default()), &open, READS);
    assert_allowed(&caller(grants([&[], &[]], [&["chat/*"], &[]], None)), &open, "");
    let news = topic("news/1");
    assert!(authorize(&Caller::anonymous(), Action::Subscribe(&news), &open).is_err());
}

#[test]
fn namespace_without_client_publish_accepts_messages_over_grpc_only() {
    let closed = namespaces(|chat| chat.access.client_publish = false);
    let publisher = caller(grants([&[], &["**"]], [&[], &[]], None));
    assert_allowed(&publisher, &closed, "publish(backend)");
    let client = Action::Publish(&CHAT, PublishDoor::Client);
    let denied = Denied::ClientPublishDisabled { namespace: "chat".to_owned() };
    assert_eq!(authorize(&Caller::unrestricted(), client, &closed), Err(denied.clone()));
    assert_eq!(authorize(&publisher, client, &closed), Err(denied));
    let elsewhere = topic("news/1");
    let client = Action::Publish(&elsewhere, PublishDoor::Client);
    assert_eq!(authorize(&publisher, client, &closed), Ok(()));
}

#[test]
fn caller_that_may_not_publish_does_not_learn_whether_the_namespace_accepts_clients() {
    let [open, closed] =
        [true, false].map(|is_on| namespaces(|chat| chat.access.client_publish = is_on));
    let reader = caller(grants([&["**"], &[]], [&[], &[]], Some(AdminAccess::Write)));
    let denied_publisher = caller(grants([&[], &["**"]], [&[], &["chat/*"]], None));
    for stranger in [Caller::anonymous(), reader, denied_publisher] {
        for action in every_action(&CHAT) {
            let [open, closed] = [&open, &closed].map(|all| authorize(&stranger, action, all));
            assert_eq!(open, closed, "{stranger:?} {action}");
        }
    }
}

#[test]
fn denial_says_what_to_change() {
    let defaults = Namespaces::default();
    let subscribe = Action::Subscribe(&CHAT);
    let message = |caller: &Caller, action| {
        authorize(caller, action, &defaults).expect_err("denied").to_string()
    };
    let anonymous = message(&Caller::anonymous(), subscribe);
    assert_eq!(anonymous, "subscribe on chat/7 needs a token; send one that grants it");
    let nothing = caller(Grants::default());
    assert!(message(&nothing, subscribe).contains("matching pattern in `subscribe`"));
    let denied = caller(grants([&["**"], &[]], [&["chat/*"], &[]], None));
    assert!(message(&denied, subscribe).ends_with("by the pattern chat/*"));
    assert!(message(&nothing, Action::ChangeCluster).ends_with("the grant `admin`: \"write\""));
}

#[test]
fn only_a_caller_without_token_is_asked_for_one() {
    for action in every_action(&CHAT) {
        let denied = |caller: Caller| authorize(&caller, action, &Namespaces::default());
        assert!(denied(Caller::anonymous()).is_err_and(|denied| denied.is_token_required()));
        let with_token = denied(caller(Grants::default()));
        assert!(with_token.is_err_and(|denied| !denied.is_token_required()), "{action}");
    }
}
