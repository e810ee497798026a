//! A subscriber by the SDK, over QUIC. It leaves out what comes twice and leaves a node that makes a
//! hole; that it had to is written down as the hole that it is.

use pushonce_client::{self as client, Subscriber, Transport};
use pushonce_core::{From, Position, Topic};

use super::{Part, word};
use crate::history::{Begin, Entry, Event, Scribe};

const TRANSPORT: Transport = Transport::Quic;

pub(super) async fn watch(part: Part, topic: String, home: usize) {
    let scribe = part.recorder.scribe(format!("{}{home}/{topic}", word(TRANSPORT)));
    let mut nodes: Vec<usize> = (0..part.nodes.len()).collect();
    nodes.rotate_left(home);
    let servers: Vec<_> = nodes.iter().map(|&i| part.nodes[i].server(TRANSPORT)).collect();
    let name = Topic::new(&topic).expect("a valid topic");
    let builder = Subscriber::builder(servers.clone()).transport(TRANSPORT);
    let builder = builder.trust(part.trust.clone());
    let mut subscriber =
        builder.topic(name, From::Start).connect().expect("the servers fit the transport");
    let mut reached = None;
    loop {
        let event = tokio::select! {
            () = part.until_over() => return,
            event = subscriber.next() => event,
        };
        let Some(event) = event else { return };
        let node = match &event {
            client::Event::Connected { server } => servers.iter().position(|s| s == server),
            _ => None,
        };
        hear(&scribe, &topic, &mut reached, node.map(|at| nodes[at]), event);
    }
}

fn hear(
    scribe: &Scribe,
    topic: &str,
    reached: &mut Option<Position>,
    node: Option<usize>,
    event: client::Event,
) {
    let topic = || topic.into();
    scribe.write(match event {
        client::Event::Connected { .. } => Event::Subscribe {
            topic: topic(),
            node,
            transport: word(TRANSPORT).into(),
            from: reached.map_or(Begin::Start, Begin::After),
        },
        client::Event::Subscribed { position, recovered, .. } => {
            if position == Position::ZERO && reached.is_none() {
                *reached = Some(position);
            }
            Event::Subscribed { topic: topic(), position, recovered }
        }
        client::Event::Message { message, .. } => {
            *reached = (*reached).max(Some(message.position));
            let Entry { position, payload, key } = Entry::of(&message);
            Event::Delivered { topic: topic(), position, payload, key }
        }
        client::Event::Gap { gap, .. } => {
            *reached = (*reached).max(Some(gap.to));
            Event::gap(&topic(), &gap)
        }
        client::Event::Stale { .. } => Event::Stale { topic: topic(), stale: true },
        client::Event::Live { .. } => Event::Stale { topic: topic(), stale: false },
        // Not asked for.
        client::Event::Audience { .. } => return,
        client::Event::Refused { code, .. } => {
            Event::SubscribeRefused { topic: topic(), code: code.as_str().into() }
        }
        client::Event::Disconnected { why, .. } => {
            if why.contains("without a gap") {
                scribe.write(Event::Hole { topic: topic(), why: why.as_str().into() });
            }
            Event::Ended { why: why.into() }
        }
    });
}
