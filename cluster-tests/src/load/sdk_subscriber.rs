//! A subscriber that uses the SDK. It filters duplicates, and leaves a node that skips
//! messages without a gap; such a disconnect is recorded as an unsignalled gap.

use pushonce_client::{self as client, Subscriber, Transport};
use pushonce_core::{Position, StartFrom, Topic};

use super::WorkloadContext;
use crate::history::{HistoryEvent, LoggedMessage, ProcessRecorder, SubscribeStart};

pub(super) async fn run(
    context: WorkloadContext,
    name: String,
    topic: String,
    first_node: usize,
    transport: Transport,
) {
    let process_recorder = context.recorder.for_process(name);
    let mut nodes: Vec<usize> = (0..context.nodes.len()).collect();
    nodes.rotate_left(first_node);
    let servers: Vec<_> = nodes.iter().map(|&i| context.nodes[i].server(transport)).collect();
    let name = Topic::new(&topic).expect("a valid topic");
    let builder = Subscriber::builder(servers.clone()).transport(transport);
    let builder = builder.trust(context.trust.clone());
    let mut subscriber =
        builder.topic(name, StartFrom::Start).connect().expect("the servers fit the transport");
    let mut reached = None;
    loop {
        let event = tokio::select! {
            () = context.wait_over() => return,
            event = subscriber.next() => event,
        };
        let Some(event) = event else { return };
        let node = match &event {
            client::SubscriberEvent::Connected { server } => {
                servers.iter().position(|s| s == server)
            }
            _ => None,
        };
        record_event(
            &process_recorder,
            (&topic, transport),
            &mut reached,
            node.map(|index| nodes[index]),
            event,
        );
    }
}

fn record_event(
    process_recorder: &ProcessRecorder,
    (topic, transport): (&str, Transport),
    reached: &mut Option<Position>,
    node: Option<usize>,
    event: client::SubscriberEvent,
) {
    let topic = || topic.into();
    process_recorder.record(match event {
        client::SubscriberEvent::Connected { .. } => HistoryEvent::Subscribe {
            topic: topic(),
            node,
            transport: transport.as_str().into(),
            from: reached.map_or(SubscribeStart::Start, SubscribeStart::After),
        },
        client::SubscriberEvent::Subscribed { position, recovered, .. } => {
            if position == Position::ZERO && reached.is_none() {
                *reached = Some(position);
            }
            HistoryEvent::Subscribed { topic: topic(), position, recovered }
        }
        client::SubscriberEvent::Message { message, .. } => {
            *reached = (*reached).max(Some(message.position));
            let LoggedMessage { position, payload, key } = LoggedMessage::from_message(&message);
            HistoryEvent::Delivered { topic: topic(), position, payload, key }
        }
        client::SubscriberEvent::Gap { gap, .. } => {
            *reached = (*reached).max(Some(gap.to));
            HistoryEvent::gap(&topic(), &gap)
        }
        client::SubscriberEvent::Stale { .. } => {
            HistoryEvent::Stale { topic: topic(), stale: true }
        }
        client::SubscriberEvent::Live { .. } => {
            HistoryEvent::Stale { topic: topic(), stale: false }
        }
        // The audience is not requested.
        client::SubscriberEvent::Audience { .. } => return,
        client::SubscriberEvent::Rejected { code, .. } => {
            HistoryEvent::SubscribeRejected { topic: topic(), code: code.as_str().into() }
        }
        client::SubscriberEvent::Disconnected { reason, .. } => {
            if reason.contains("without a gap") {
                process_recorder.record(HistoryEvent::UnsignalledGap {
                    topic: topic(),
                    reason: reason.as_str().into(),
                });
            }
            HistoryEvent::SessionEnded { reason: reason.into() }
        }
        other => panic!("the recorder does not know {other:?}"),
    });
}
