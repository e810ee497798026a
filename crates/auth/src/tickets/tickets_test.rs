use std::net::IpAddr;

use pushonce_core::ClientAddress;
use pushonce_core::test_util::topic;

use super::issued::{CALLER_MAX, TOTAL_MAX};
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
        key: None,
    })
}

fn tickets() -> Tickets {
    Tickets::new(ME, Arc::new(NoPeers))
}

fn try_issue(
    tickets: &Tickets,
    caller: &Caller,
    topics: Option<&[Topic]>,
    id: u64,
    now: Timestamp,
) -> Result<Ticket, InvalidTicket> {
    let payer = caller.key(ClientAddress::LOCALHOST);
    let new = NewTicket { caller, topics, payer, random: (id, [7; 32]) };
    tickets.issue(new, now).map(|(ticket, _)| ticket)
}

fn issue(tickets: &Tickets, id: u64, topics: Option<&[Topic]>) -> Ticket {
    try_issue(tickets, &caller("alice"), topics, id, NOW).unwrap()
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
fn clock_that_is_set_back_does_not_lengthen_the_life_of_a_ticket() {
    let tickets = tickets();
    let ticket = issue(&tickets, 1, None);
    let earlier = Timestamp(NOW.0 - 600_000);
    assert_eq!(tickets.redeem_own(&ticket, earlier), Err(InvalidTicket::Unknown));
    try_issue(&tickets, &caller("alice"), None, 2, earlier).unwrap();
    assert_eq!(tickets.issued().total().count, 1, "the other one is forgotten");
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
    for id in 0..CALLER_MAX.count as u64 {
        issue(&tickets, id, None);
    }
    let more = |subject, id, now| try_issue(&tickets, &caller(subject), None, id, now).map(drop);
    assert_eq!(more("alice", 1_000, NOW), Err(InvalidTicket::TooMany));
    assert_eq!(more("bob", 1_001, NOW), Ok(()));
    assert_eq!(more("alice", 1_002, Timestamp(NOW.0 + 30_000)), Ok(()), "the old ones expired");
}

/// Tokens without a subject have the same issuer and the same subject, none: their callers are addresses.
#[test]
fn one_address_cannot_use_up_the_tickets_of_others_without_a_subject() {
    let tickets = tickets();
    let token = caller("alice").token().cloned().unwrap();
    let nameless = Caller::with_token(VerifiedToken { subject: None, ..token });
    let issue = |address: &str, id| {
        let payer = nameless.key(address.parse::<IpAddr>().unwrap().into());
        let new = NewTicket { caller: &nameless, topics: None, payer, random: (id, [7; 32]) };
        tickets.issue(new, NOW).map(drop)
    };
    for id in 0..CALLER_MAX.count as u64 {
        issue("192.0.2.1", id).unwrap();
    }
    assert_eq!(issue("192.0.2.1", 1_000), Err(InvalidTicket::TooMany));
    assert_eq!(issue("192.0.2.2", 1_001), Ok(()));
}

#[test]
fn tickets_with_many_long_topics_hold_a_bounded_memory() {
    let tickets = tickets();
    let everything = PatternSet { allow: vec!["**".parse().unwrap()], deny: Vec::new() };
    let grants = Grants { subscribe: everything.clone(), publish: everything, ..Grants::default() };
    let topics: Vec<_> = (0..TICKET_TOPICS_MAX)
        .map(|number| topic(&format!("{number:02}/{}", "x".repeat(252))))
        .collect();
    let issue = |subject: u64, id| {
        let token = caller(&subject.to_string()).token().cloned().unwrap();
        let caller = Caller::with_token(VerifiedToken { grants: grants.clone(), ..token });
        try_issue(&tickets, &caller, Some(&topics), id, NOW).is_ok()
    };
    let of_one = (0..CALLER_MAX.count as u64).take_while(|&id| issue(0, id)).count();
    assert!((20..30).contains(&of_one), "{of_one} tickets of one caller");
    let of_others = (1_000..).take_while(|&id| issue(id, id)).count();
    let load = tickets.issued().total();
    assert!(load.bytes <= TOTAL_MAX.bytes && load.count == of_one + of_others, "{load:?}");
    assert!(of_others > 400, "{of_others} tickets of others");
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
