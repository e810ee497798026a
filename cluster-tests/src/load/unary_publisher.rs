//! A publisher of single messages with keys, over gRPC and HTTP, that retries until the outcome is known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pushonce_client::{ErrorCode, PublishFailure, Publisher, Transport};
use pushonce_core::{
    Acknowledgement, ContentType, Durability, MessageKey, Publish, Timestamp, Topic,
};
use rand::Rng;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::Code;

use super::{IN_FLIGHT_MAX, WorkloadContext, outcome_event};
use crate::history::{HistoryEvent, ProcessRecorder, hash};
use crate::http_client;
use crate::node::Ports;
use crate::publish_load::publisher_to;

/// The time limit of one attempt before another node is tried. The SDK would wait longer for the only node
/// that it knows here.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum number of attempts for one message: they take longer than any fault is held.
const ATTEMPTS_MAX: usize = 12;

/// One publisher per node, so that the record can name the node.
struct NodeClients {
    nodes: Vec<(Publisher, SocketAddr)>,
    process_recorder: ProcessRecorder,
}

/// A message with its key and its route.
struct KeyedMessage {
    topic: String,
    key: String,
    payload: Bytes,
    /// The protocol of every attempt.
    route: PublishRoute,
}

#[derive(Clone, Copy)]
enum PublishRoute {
    Grpc,
    Http,
}

/// The name of the publisher that begins at a node.
pub(super) fn name(first_node: usize) -> String {
    format!("unary{first_node}")
}

pub(super) async fn run(context: WorkloadContext, first_node: usize) {
    let name = name(first_node);
    let mut rng = context.plan.rng_for(&name);
    let node_clients = |ports: &Ports| (publisher_to([ports.server(Transport::Grpc)]), ports.http);
    let nodes = context.nodes.iter().map(node_clients).collect();
    let clients = Arc::new(NodeClients {
        nodes,
        process_recorder: context.recorder.for_process(name.as_str()),
    });
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut tick = tokio::time::interval(context.plan.publish_interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut attempts = JoinSet::new();
    for number in 0u64.. {
        tick.tick().await;
        if context.is_over() {
            break;
        }
        while attempts.try_join_next().is_some() {}
        let Ok(permit) = in_flight.clone().try_acquire_owned() else { continue };
        let topic = context.plan.pick_topic(&mut rng);
        let payload = format!(
            "{name} {number} {}",
            "x".repeat(rng.random_range(0..context.plan.payload_bytes_max))
        );
        let key = format!("{}-{name}-{number}", context.plan.seed);
        let route = if rng.random_bool(0.3) { PublishRoute::Http } else { PublishRoute::Grpc };
        let message = KeyedMessage { topic, key, payload: payload.into(), route };
        let (retry_elsewhere, reuse_key) = (rng.random_bool(0.05), rng.random_bool(0.02));
        let clients = clients.clone();
        attempts.spawn(async move {
            let acknowledged_by = clients.publish_until_known(&message, first_node).await;
            if let Some(acknowledged_by) = acknowledged_by.filter(|_| retry_elsewhere) {
                clients.attempt(&message, (acknowledged_by + 1) % clients.nodes.len()).await.ok();
            }
            if let Some(acknowledged_by) = acknowledged_by.filter(|_| reuse_key) {
                // The same key with another payload: it must not be published.
                let payload = [&message.payload[..], b" other"].concat().into();
                clients.attempt(&KeyedMessage { payload, ..message }, acknowledged_by).await.ok();
            }
            drop(permit);
        });
    }
    while attempts.join_next().await.is_some() {}
}

impl NodeClients {
    /// Tries one node after the other; returns the node that acknowledged the message, if there was one.
    async fn publish_until_known(
        &self,
        message: &KeyedMessage,
        first_node: usize,
    ) -> Option<usize> {
        for n in 0..ATTEMPTS_MAX {
            let node = (first_node + n) % self.nodes.len();
            match self.attempt(message, node).await {
                Ok(()) => return Some(node),
                Err(true) => tokio::time::sleep(Duration::from_millis(50 << n.min(4))).await,
                Err(false) => return None,
            }
        }
        None
    }

    /// One attempt; `Err` tells whether a retry makes sense.
    async fn attempt(&self, message: &KeyedMessage, node: usize) -> Result<(), bool> {
        let op = self.process_recorder.next_op();
        self.process_recorder.record(HistoryEvent::Publish {
            op,
            topic: message.topic.as_str().into(),
            payload: hash(&message.payload),
            key: Some(message.key.as_str().into()),
            sequence: None,
            node: Some(node),
        });
        let (publisher, http) = &self.nodes[node];
        let attempt = async {
            match message.route {
                PublishRoute::Grpc => publisher.publish(message.publish()).await,
                PublishRoute::Http => publish_http(*http, message).await,
            }
        };
        let answer = tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await;
        let answer = answer.unwrap_or_else(|_| Err(PublishFailure::Unknown("no reply".to_owned())));
        let result = match &answer {
            Ok(_) => Ok(()),
            Err(PublishFailure::Rejected { retry, .. }) => Err(*retry),
            Err(PublishFailure::Unknown(_)) => Err(true),
        };
        self.process_recorder.record(outcome_event(op, answer));
        result
    }
}

impl KeyedMessage {
    fn publish(&self) -> Publish {
        Publish {
            topic: Topic::new(&self.topic).expect("a valid topic"),
            content_type: ContentType::Text,
            key: Some(MessageKey::new(&self.key).expect("a valid key")),
            publish_id: None,
            payload: self.payload.clone(),
        }
    }
}

fn parse_acknowledgement(body: &Value) -> Option<Acknowledgement> {
    Some(Acknowledgement {
        position: body["position"].as_str()?.parse().ok()?,
        time: Timestamp(body["time"].as_u64()?),
        durability: Durability::parse(body["durability"].as_str()?)?,
    })
}

/// One attempt over HTTP.
async fn publish_http(
    http: SocketAddr,
    message: &KeyedMessage,
) -> Result<Acknowledgement, PublishFailure> {
    let path = format!("/topics/{}", message.topic);
    let headers = ["content-type: text/plain", &format!("idempotency-key: {}", message.key)];
    // A missing response leaves the outcome unknown.
    let answer = http_client::request(http, "POST", &path, &headers, &message.payload).await;
    let answer = answer.map_err(PublishFailure::Unknown)?;
    let body: Value = serde_json::from_str(&answer.body).map_err(|_| {
        PublishFailure::Unknown(format!("status {} without a JSON body", answer.status))
    })?;
    if answer.status == 200 {
        return parse_acknowledgement(&body).ok_or(PublishFailure::Unknown(answer.body));
    }
    let error = &body["error"];
    let message = error["message"].as_str().unwrap_or(&answer.body).to_owned();
    match error["code"].as_str() {
        Some("unknown") | None => Err(PublishFailure::Unknown(message)),
        Some(_) => {
            let retry = error["retry"] == true;
            let (code, reason) = match retry {
                true => (Code::Unavailable, ErrorCode::Unavailable),
                false => (Code::InvalidArgument, ErrorCode::BadRequest),
            };
            Err(PublishFailure::Rejected { code, reason, message, retry })
        }
    }
}
