use pushonce_core::test_util::topic;

use super::*;
use crate::{AdminAccess, PatternSet};

const NOW: Timestamp = Timestamp(1_000_000);
const ME: NodeId = NodeId(3);

pub(super) fn caller(subject: &str) -> Caller {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Caller::with_token(VerifiedToken {
        issuer: "issuer".into(),
        subject: Some(subject.into()),
        token_id: None,
        issued_at: None,
        expires_at: Timestamp(2_000_000),
        grants: Grants {
            subscribe: PatternSet { allow: patterns(&["chat/**"]), deny: patterns(&["chat/x"]) },
            publish: PatternSet { allow: patterns(&["chat/7"]), deny: Vec::new() },
            admin: Some(AdminAccess::Write),
        },
    })
}

fn tickets() -> Tickets {
    Tickets::new(ME, Arc::new(NoPeers))
}

fn issue(tickets: &Tickets, id: u64, topics: Option<&[Topic]>) -> Ticket {
    tickets.issue(&caller("alice"), topics, (id, [7; 32]), NOW).unwrap().0
}

#[test]
fn ticket_is_redeemed_once_and_grants_no_administration() {
    let tickets = tickets();
    let ticket = issue(&tickets, 1, None);
    let redeemed = tickets.redeem_own(&ticket, NOW).unwrap();
    assert_eq!(redeemed.subject(), Some("alice"));
    assert_eq!(redeemed.grants().admin, None);
    assert_eq!(redeemed.grants().subscribe, caller("alice").grants().subscribe);
    assert_eq!(tickets.redeem_own(&ticket, NOW), Err(InvalidTicket::Unknown));
}

#[test]
fn ticket_expires_after_thirty_seconds() {
    let tickets = tickets();
    let ticket = issue(&tickets, 1, None);
    let late = Timestamp(NOW.0 + 30_000);
    assert_eq!(tickets.redeem_own(&ticket, late), Err(InvalidTicket::Unknown));
    assert!(tickets.redeem_own(&ticket, Timestamp(late.0 - 1)).is_ok());
}

#[test]
fn ticket_of_named_topics_grants_only_those_that_the_token_grants() {
    let tickets = tickets();
    let ticket = issue(&tickets, 1, Some(&[topic("chat/7"), topic("chat/x"), topic("news")]));
    let grants = tickets.redeem_own(&ticket, NOW).unwrap().grants().clone();
    for (name, subscribe, publish) in [
        ("chat/7", true, true),
        ("chat/x", false, false),
        ("news", false, false),
        ("chat/8", false, false),
    ] {
        let topic = topic(name);
        let granted = (grants.subscribe.contains(&topic), grants.publish.contains(&topic));
        assert_eq!(granted, (subscribe, publish), "{name}");
    }
}

#[test]
fn wrong_secret_is_refused_and_does_not_use_the_ticket_up() {
    let tickets = tickets();
    let ticket = issue(&tickets, 1, None);
    for wrong in [Ticket { secret: [8; 32], ..ticket.clone() }, Ticket { id: 2, ..ticket.clone() }]
    {
        assert_eq!(tickets.redeem_own(&wrong, NOW), Err(InvalidTicket::Unknown));
    }
    assert!(tickets.redeem_own(&ticket, NOW).is_ok());
}

#[tokio::test]
async fn ticket_of_another_node_is_redeemed_there() {
    let ticket = Ticket { node: NodeId(4), ..issue(&tickets(), 1, None) };
    let unavailable = InvalidTicket::Unavailable { node: NodeId(4) };
    assert_eq!(tickets().redeem(&ticket, NOW).await, Err(unavailable));
}

#[test]
fn one_subject_cannot_use_up_the_tickets_of_others() {
    let tickets = tickets();
    for id in 0..TICKETS_PER_SUBJECT_MAX as u64 {
        issue(&tickets, id, None);
    }
    let more =
        |subject, id, now| tickets.issue(&caller(subject), None, (id, [7; 32]), now).map(drop);
    assert_eq!(more("alice", 1_000, NOW), Err(InvalidTicket::TooMany));
    assert_eq!(more("bob", 1_001, NOW), Ok(()));
    assert_eq!(more("alice", 1_002, Timestamp(NOW.0 + 30_000)), Ok(()), "the old ones expired");
}

#[test]
fn text_of_a_ticket_round_trips_and_debug_output_hides_it() {
    let ticket = issue(&tickets(), 0xfeed, None);
    let text = ticket.secret_text();
    assert_eq!(text.parse(), Ok(ticket.clone()));
    assert!(!format!("{ticket:?}").contains("0707"));
    for text in ["", "3", "3.1", "x.1.00", "3.1.00", &format!("{text}00"), &format!("{text}.1")] {
        assert_eq!(text.parse::<Ticket>(), Err(InvalidTicket::Malformed), "{text}");
    }
}
