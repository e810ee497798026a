//! A publisher of single messages with keys, by gRPC and by HTTP, who tries again until the outcome is
//! known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pushonce_client::{Failure, Publisher, Transport};
use pushonce_core::{ContentType, Durability, Key, Placed, Publish, Timestamp, Topic};
use rand::Rng;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::Code;

use super::{Part, UNDER_WAY_MAX, outcome};
use crate::history::{Event, Scribe, hash};
use crate::node::Ports;
use crate::web;

/// What one attempt may take before another node is asked. The SDK alone would ask the one node it
/// knows here for longer.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Attempts at one message: for longer than any fault is held.
const ATTEMPTS: usize = 12;

/// One node after the other, each by a publisher of its own: so the record can say who was asked.
struct Doors {
    nodes: Vec<(Publisher, SocketAddr)>,
    scribe: Scribe,
}

/// A message on its way.
struct Message {
    topic: String,
    key: String,
    payload: Bytes,
    /// Every attempt goes through this door.
    by: Door,
}

#[derive(Clone, Copy)]
enum Door {
    Grpc,
    Http,
}

pub(super) async fn publish(part: Part, home: usize) {
    let name = format!("unary{home}");
    let mut rng = part.plan.rng(&name);
    let doors = |ports: &Ports| (Publisher::new(vec![ports.server(Transport::Grpc)]), ports.http);
    let nodes = part.nodes.iter().map(doors).collect();
    let doors = Arc::new(Doors { nodes, scribe: part.recorder.scribe(name.as_str()) });
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut tick = tokio::time::interval(part.plan.pace);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut attempts = JoinSet::new();
    for number in 0u64.. {
        tick.tick().await;
        if part.over() {
            break;
        }
        while attempts.try_join_next().is_some() {}
        let Ok(permit) = under_way.clone().try_acquire_owned() else { continue };
        let topic = part.plan.draw(&mut rng);
        let payload = format!("{name} {number} {}", "x".repeat(rng.random_range(0..120)));
        let key = format!("{}-{name}-{number}", part.plan.seed);
        let by = if rng.random_bool(0.3) { Door::Http } else { Door::Grpc };
        let message = Message { topic, key, payload: payload.into(), by };
        let (again, other) = (rng.random_bool(0.05), rng.random_bool(0.02));
        let doors = doors.clone();
        attempts.spawn(async move {
            let at = doors.until_known(&message, home).await;
            if let Some(at) = at.filter(|_| again) {
                doors.attempt(&message, (at + 1) % doors.nodes.len()).await.ok();
            }
            if let Some(at) = at.filter(|_| other) {
                // The same key and something else: not to be placed.
                let payload = [&message.payload[..], b" other"].concat().into();
                doors.attempt(&Message { payload, ..message }, at).await.ok();
            }
            drop(permit);
        });
    }
    while attempts.join_next().await.is_some() {}
}

impl Doors {
    /// Tries at one node after the other; the one that acknowledged it, if one did.
    async fn until_known(&self, message: &Message, home: usize) -> Option<usize> {
        for n in 0..ATTEMPTS {
            let node = (home + n) % self.nodes.len();
            match self.attempt(message, node).await {
                Ok(()) => return Some(node),
                Err(true) => tokio::time::sleep(Duration::from_millis(50 << n.min(4))).await,
                Err(false) => return None,
            }
        }
        None
    }

    /// One attempt; `Err` says whether there is sense in another.
    async fn attempt(&self, message: &Message, node: usize) -> Result<(), bool> {
        let op = self.scribe.op();
        self.scribe.write(Event::Publish {
            op,
            topic: message.topic.as_str().into(),
            payload: hash(&message.payload),
            key: Some(message.key.as_str().into()),
            sequence: None,
            node: Some(node),
        });
        let (publisher, http) = &self.nodes[node];
        let asked = async {
            match message.by {
                Door::Grpc => publisher.publish(message.publish()).await,
                Door::Http => post(*http, message).await,
            }
        };
        let answer = tokio::time::timeout(ATTEMPT, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::Unknown("no answer".to_owned())));
        let result = match &answer {
            Ok(_) => Ok(()),
            Err(Failure::Refused { retry, .. }) => Err(*retry),
            Err(Failure::Unknown(_)) => Err(true),
        };
        self.scribe.write(outcome(op, answer));
        result
    }
}

impl Message {
    fn publish(&self) -> Publish {
        Publish {
            topic: Topic::new(&self.topic).expect("a valid topic"),
            content_type: ContentType::Text,
            key: Some(Key::new(&self.key).expect("a valid key")),
            stamp: None,
            payload: self.payload.clone(),
        }
    }
}

fn placed(said: &Value) -> Option<Placed> {
    Some(Placed {
        position: said["position"].as_str()?.parse().ok()?,
        time: Timestamp(said["time"].as_u64()?),
        durability: Durability::parse(said["durability"].as_str()?)?,
    })
}

/// One attempt over HTTP.
async fn post(http: SocketAddr, message: &Message) -> Result<Placed, Failure> {
    let path = format!("/topics/{}", message.topic);
    let headers = ["content-type: text/plain", &format!("idempotency-key: {}", message.key)];
    // An answer that did not come may have been any.
    let answer = web::request(http, "POST", &path, &headers, &message.payload).await;
    let answer = answer.map_err(Failure::Unknown)?;
    let said: Value = serde_json::from_str(&answer.body).map_err(|_| {
        Failure::Unknown(format!("{} without a body that says more", answer.status))
    })?;
    if answer.status == 200 {
        return placed(&said).ok_or(Failure::Unknown(answer.body));
    }
    let error = &said["error"];
    let message = error["message"].as_str().unwrap_or(&answer.body).to_owned();
    match error["code"].as_str() {
        Some("unknown") | None => Err(Failure::Unknown(message)),
        Some(_) => {
            let retry = error["retry"] == true;
            let code = if retry { Code::Unavailable } else { Code::InvalidArgument };
            Err(Failure::Refused { code, message, retry })
        }
    }
}
