//! The logs in the end, as every node gives them over every transport.

use std::time::Duration;

use pushonce_client::{Event as Heard, Subscriber, Transport, Trust};
use pushonce_core::{From, Position, Topic};
use pushonce_proto::client::{self, Encoding};

use super::session::Session;
use super::word;
use crate::history::{Entry, Event, Scribe};
use crate::node::Ports;
use crate::web;

/// What one reading of one log may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Where a topic stands, by the word of a node; `0:0` when it has no message.
pub async fn head(ports: Ports, topic: &str) -> Result<Position, String> {
    let answer = web::get(ports.http, &format!("/topics/{topic}"), &[]).await?;
    match (answer.status, answer.header("pushonce-position")) {
        (200, Some(position)) => position.parse().map_err(|_| format!("{answer:?}")),
        (404, _) => Ok(Position::ZERO),
        _ => Err(answer.body),
    }
}

/// Reads the log of a topic from a node over every transport, and writes it down.
///
/// # Errors
/// When one cannot be read.
pub async fn read(
    scribe: &Scribe,
    node: usize,
    (ports, trust): (Ports, &Trust),
    topic: &str,
) -> Result<(), String> {
    let last = head(ports, topic).await?;
    let told = |transport, log| {
        let (topic, transport) = (topic.into(), transport);
        scribe.write(Event::Log { topic, node, transport, log });
    };
    let limit =
        |what: &'static str| move |_| Err(format!("{topic} at node {node} over {what}: too slow"));
    told("http".into(), http(ports, topic).await?);
    for transport in [Transport::Ws, Transport::Grpc] {
        let log = tokio::time::timeout(LIMIT, bare(ports, transport, topic, last)).await;
        told(word(transport).into(), log.unwrap_or_else(limit(word(transport)))?);
    }
    let log = tokio::time::timeout(LIMIT, quic(ports, trust, topic, last)).await;
    told("quic".into(), log.unwrap_or_else(limit("quic"))?);
    Ok(())
}

async fn http(ports: Ports, topic: &str) -> Result<Vec<Entry>, String> {
    let answer = web::get(ports.http, &format!("/topics/{topic}?last=1000"), &[]).await?;
    if answer.status != 200 {
        return Err(answer.body);
    }
    let frames: Vec<Box<serde_json::value::RawValue>> =
        serde_json::from_str(&answer.body).map_err(|why| format!("{why}: {}", answer.body))?;
    let entry = |frame: Box<serde_json::value::RawValue>| {
        let frame = frame.get().to_owned().into();
        match Encoding::Json.decode_event(&frame) {
            Ok(client::Event::Message { message, .. }) => Ok(Entry::of(&message)),
            other => Err(format!("no message: {other:?}")),
        }
    };
    frames.into_iter().map(entry).collect()
}

async fn bare(
    ports: Ports,
    transport: Transport,
    topic: &str,
    last: Position,
) -> Result<Vec<Entry>, String> {
    let mut session = Session::open(ports, transport, topic, From::Start).await?;
    let mut log: Vec<Entry> = Vec::new();
    while last != Position::ZERO && log.last().is_none_or(|entry| entry.position < last) {
        match session.next().await? {
            client::Event::Message { message, .. } => log.push(Entry::of(&message)),
            client::Event::Error { message, .. } => return Err(message),
            _ => {}
        }
    }
    Ok(log)
}

async fn quic(
    ports: Ports,
    trust: &Trust,
    topic: &str,
    last: Position,
) -> Result<Vec<Entry>, String> {
    let name = Topic::new(topic).expect("a valid topic");
    let servers = [ports.server(Transport::Quic)];
    let builder = Subscriber::builder(servers).transport(Transport::Quic).trust(trust.clone());
    let mut subscriber =
        builder.topic(name, From::Start).connect().expect("the servers fit the transport");
    let mut log: Vec<Entry> = Vec::new();
    while last != Position::ZERO && log.last().is_none_or(|entry| entry.position < last) {
        match subscriber.next().await {
            Some(Heard::Message { message, .. }) => log.push(Entry::of(&message)),
            Some(_) => {}
            None => return Err("the session ended".to_owned()),
        }
    }
    Ok(log)
}
