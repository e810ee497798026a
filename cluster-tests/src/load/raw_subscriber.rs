//! A subscriber without an SDK: it reconnects to the next node, resumes, and records every event.

use std::time::Duration;

use pushonce_client::Transport;
use pushonce_core::{Position, StartFrom};
use pushonce_proto::client;
use rand::Rng;

use super::WorkloadContext;
use super::raw_session::Session;
use crate::history::{HistoryEvent, LoggedMessage, ProcessRecorder, SubscribeStart};

/// The duration of a session of a subscriber that reconnects regularly.
const SESSION_MS: std::ops::Range<u64> = 1_500..6_000;

/// The pause between two sessions, so that a restarted node is not overloaded.
const PAUSE_MS: std::ops::Range<u64> = 20..400;

struct RawSubscriber {
    topic: String,
    reached: Option<Position>,
    process_recorder: ProcessRecorder,
}

pub(super) async fn run(
    context: WorkloadContext,
    name: String,
    topic: String,
    first_node: usize,
    transport: Transport,
) {
    let mut rng = context.plan.rng_for(&name);
    let reconnects = rng.random_bool(0.4);
    let process_recorder = context.recorder.for_process(name);
    let mut subscriber = RawSubscriber { topic, reached: None, process_recorder };
    for n in 0.. {
        let node = (first_node + n) % context.nodes.len();
        let session_time = reconnects.then(|| Duration::from_millis(rng.random_range(SESSION_MS)));
        let session_timer = async {
            match session_time {
                Some(session_time) => tokio::time::sleep(session_time).await,
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            () = context.wait_over() => return,
            () = session_timer => "the client disconnected".to_owned(),
            reason = subscriber.session(&context, node, transport) => reason,
        };
        subscriber.process_recorder.record(HistoryEvent::SessionEnded { reason: reason.into() });
        let pause = Duration::from_millis(rng.random_range(PAUSE_MS));
        tokio::select! {
            () = context.wait_over() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl RawSubscriber {
    /// Runs one session; returns the reason why it ended.
    async fn session(
        &mut self,
        context: &WorkloadContext,
        node: usize,
        transport: Transport,
    ) -> String {
        let from = self.reached.map_or(StartFrom::Start, StartFrom::Position);
        let session = Session::open(context.nodes[node], transport, &self.topic, from).await;
        let mut session = match session {
            Ok(session) => session,
            Err(error) => return error,
        };
        self.process_recorder.record(HistoryEvent::Subscribe {
            topic: self.topic.as_str().into(),
            node: Some(node),
            transport: transport.as_str().into(),
            from: self.reached.map_or(SubscribeStart::Start, SubscribeStart::After),
        });
        loop {
            match session.next().await {
                Ok(event) => {
                    if let Some(end) = self.on_event(event) {
                        return end;
                    }
                }
                Err(error) => return error,
            }
        }
    }

    /// Records an event; returns the reason to end the session, if there is one.
    fn on_event(&mut self, event: client::ServerEvent) -> Option<String> {
        let topic = || self.topic.as_str().into();
        let event = match event {
            client::ServerEvent::Subscribed { position, recovered, .. } => {
                // Every message after 0:0 must be delivered.
                if position == Position::ZERO && self.reached.is_none() {
                    self.reached = Some(position);
                }
                HistoryEvent::Subscribed { topic: topic(), position, recovered }
            }
            client::ServerEvent::Message { message, .. } => {
                self.reached = self.reached.max(Some(message.position));
                let LoggedMessage { position, payload, key } =
                    LoggedMessage::from_message(&message);
                HistoryEvent::Delivered { topic: topic(), position, payload, key }
            }
            client::ServerEvent::Gap { gap, .. } => {
                self.reached = self.reached.max(Some(gap.to));
                HistoryEvent::gap(&topic(), &gap)
            }
            client::ServerEvent::Heartbeat { positions } => {
                let entry = positions.iter().find(|(name, _)| name.as_str() == self.topic);
                let position = entry.map(|(_, position)| *position)?;
                HistoryEvent::Heartbeat { topic: topic(), position }
            }
            // Stale and live notices name a position like a heartbeat.
            client::ServerEvent::Stale { since: position, .. } => {
                self.process_recorder.record(HistoryEvent::Stale { topic: topic(), stale: true });
                HistoryEvent::Heartbeat { topic: topic(), position }
            }
            client::ServerEvent::Live { position, .. } => {
                self.process_recorder.record(HistoryEvent::Stale { topic: topic(), stale: false });
                HistoryEvent::Heartbeat { topic: topic(), position }
            }
            client::ServerEvent::Error { retry: true, message, .. } => return Some(message),
            client::ServerEvent::Error { code, .. } => {
                self.process_recorder.record(HistoryEvent::SubscribeRejected {
                    topic: topic(),
                    code: code.as_str().into(),
                });
                return Some("rejected".to_owned());
            }
            client::ServerEvent::Goaway { reason, .. } => return Some(reason),
            _ => return None,
        };
        self.process_recorder.record(event);
        None
    }
}
