//! A client that subscribes with positions that never existed.

use std::time::Duration;

use pushonce_client::Transport;
use pushonce_core::{Epoch, Offset, Position, StartFrom};
use pushonce_proto::client;
use rand::Rng;

use super::raw_session::Session;
use super::{HOT_TOPIC, WorkloadContext};
use crate::history::{HistoryEvent, HistoryRecord, LoggedMessage, SubscribeStart};
use crate::node::Ports;

const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(context: WorkloadContext) {
    let mut rng = context.plan.rng_for("forger");
    for n in 0u32.. {
        tokio::select! {
            () = context.wait_over() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let Some(newest) = context.recorder.with_records(newest_hot_position) else { continue };
        let forged_position = match rng.random_range(0..3) {
            0 => Position { offset: Offset(newest.offset.0 + 1_000_000), ..newest },
            1 => Position { epoch: Epoch(newest.epoch.0 + 1_000_000), ..newest },
            // An epoch that the topic never had: it must be treated as an earlier one.
            _ => Position { epoch: Epoch(newest.epoch.0 - 1), ..newest },
        };
        let transport = if rng.random() { Transport::Ws } else { Transport::Grpc };
        let node = rng.random_range(0..context.nodes.len());
        let subscription = subscribe_at(context.nodes[node], transport, forged_position);
        let answer = tokio::time::timeout(Duration::from_secs(3), subscription).await;
        // No node can tell the position of the topic at this moment.
        let Ok(Ok(answers)) = answer else { continue };
        let process_recorder = context.recorder.for_process(format!("forger{n}"));
        let (topic, transport) = (HOT_TOPIC.into(), transport.as_str().into());
        let from = SubscribeStart::After(forged_position);
        process_recorder.record(HistoryEvent::Subscribe {
            topic,
            node: Some(node),
            transport,
            from,
        });
        answers.into_iter().for_each(|answer| process_recorder.record(answer));
    }
}

/// The events up to the first message, gap or rejection.
async fn subscribe_at(
    ports: Ports,
    transport: Transport,
    position: Position,
) -> Result<Vec<HistoryEvent>, String> {
    let mut session =
        Session::open(ports, transport, HOT_TOPIC, StartFrom::Position(position)).await?;
    let topic = || HOT_TOPIC.into();
    let mut events = Vec::new();
    loop {
        let last = match session.next().await? {
            client::ServerEvent::Subscribed { position, recovered, .. } => {
                events.push(HistoryEvent::Subscribed { topic: topic(), position, recovered });
                continue;
            }
            client::ServerEvent::Error { retry: true, message, .. } => return Err(message),
            client::ServerEvent::Error { code, .. } => {
                HistoryEvent::SubscribeRejected { topic: topic(), code: code.as_str().into() }
            }
            client::ServerEvent::Message { message, .. } => {
                let LoggedMessage { position, payload, key } =
                    LoggedMessage::from_message(&message);
                HistoryEvent::Delivered { topic: topic(), position, payload, key }
            }
            client::ServerEvent::Gap { gap, .. } => HistoryEvent::gap(&topic(), &gap),
            _ => continue,
        };
        events.extend([last, HistoryEvent::Unsubscribed { topic: topic() }]);
        return Ok(events);
    }
}

/// The newest delivered position of the hot topic.
fn newest_hot_position(records: &[HistoryRecord]) -> Option<Position> {
    records.iter().rev().find_map(|record| match &record.event {
        HistoryEvent::Delivered { topic, position, .. } if &**topic == HOT_TOPIC => Some(*position),
        _ => None,
    })
}
