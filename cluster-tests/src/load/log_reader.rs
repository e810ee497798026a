//! Reads the logs at the end of a run, from every node.

use std::time::Duration;

use pushonce_client::{CertificateTrust, Subscriber, SubscriberEvent, Transport};
use pushonce_core::{Position, StartFrom, Topic};
use pushonce_proto::client::{self, Encoding};

use super::raw_session::Session;
use crate::history::{HistoryEvent, LoggedMessage, ProcessRecorder};
use crate::http_client;
use crate::node::Ports;

/// The time limit for reading one log on a busy machine.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// The newest position of a topic as a node reports it; `0:0` if the topic has no message.
pub async fn topic_head(ports: Ports, topic: &str) -> Result<Position, String> {
    let answer = http_client::get(ports.http, &format!("/topics/{topic}"), &[]).await?;
    match (answer.status, answer.header("pushonce-position")) {
        (200, Some(position)) => position.parse().map_err(|_| format!("{answer:?}")),
        (404, _) => Ok(Position::ZERO),
        _ => Err(answer.body),
    }
}

/// Reads the log of a topic from a node over HTTP and over `transports`, and records it.
///
/// # Errors
/// If a log cannot be read.
pub async fn read_logs(
    process_recorder: &ProcessRecorder,
    node: usize,
    (ports, trust): (Ports, &CertificateTrust),
    transports: &[Transport],
    topic: &str,
) -> Result<(), String> {
    let last = topic_head(ports, topic).await?;
    let record_log = |transport, log| {
        let (topic, transport) = (topic.into(), transport);
        process_recorder.record(HistoryEvent::Log { topic, node, transport, log });
    };
    let timeout_error = |transport: &'static str| {
        move |_| {
            Err(format!(
                "{topic} at node {node} over {transport}: not read within {READ_TIMEOUT:?}"
            ))
        }
    };
    record_log("http".into(), read_http(ports, topic).await?);
    for &transport in transports {
        let name = transport.as_str();
        let read = async {
            match transport {
                Transport::Quic => read_quic(ports, trust, topic, last).await,
                _ => read_raw(ports, transport, topic, last).await,
            }
        };
        let log = tokio::time::timeout(READ_TIMEOUT, read).await;
        record_log(name.into(), log.unwrap_or_else(timeout_error(name))?);
    }
    Ok(())
}

async fn read_http(ports: Ports, topic: &str) -> Result<Vec<LoggedMessage>, String> {
    let answer = http_client::get(ports.http, &format!("/topics/{topic}?last=1000"), &[]).await?;
    if answer.status != 200 {
        return Err(answer.body);
    }
    let frames: Vec<Box<serde_json::value::RawValue>> =
        serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {}", answer.body))?;
    let entry = |frame: Box<serde_json::value::RawValue>| {
        let frame = frame.get().to_owned().into();
        match Encoding::Json.decode_event(&frame) {
            Ok(client::ServerEvent::Message { message, .. }) => {
                Ok(LoggedMessage::from_message(&message))
            }
            other => Err(format!("not a message: {other:?}")),
        }
    };
    frames.into_iter().map(entry).collect()
}

async fn read_raw(
    ports: Ports,
    transport: Transport,
    topic: &str,
    last: Position,
) -> Result<Vec<LoggedMessage>, String> {
    let mut session = Session::open(ports, transport, topic, StartFrom::Start).await?;
    let mut log: Vec<LoggedMessage> = Vec::new();
    while last != Position::ZERO && log.last().is_none_or(|entry| entry.position < last) {
        match session.next().await? {
            client::ServerEvent::Message { message, .. } => {
                log.push(LoggedMessage::from_message(&message))
            }
            client::ServerEvent::Error { message, .. } => return Err(message),
            _ => {}
        }
    }
    Ok(log)
}

async fn read_quic(
    ports: Ports,
    trust: &CertificateTrust,
    topic: &str,
    last: Position,
) -> Result<Vec<LoggedMessage>, String> {
    let name = Topic::new(topic).expect("a valid topic");
    let servers = [ports.server(Transport::Quic)];
    let builder = Subscriber::builder(servers).transport(Transport::Quic).trust(trust.clone());
    let mut subscriber =
        builder.topic(name, StartFrom::Start).connect().expect("the servers fit the transport");
    let mut log: Vec<LoggedMessage> = Vec::new();
    while last != Position::ZERO && log.last().is_none_or(|entry| entry.position < last) {
        match subscriber.next().await {
            Some(SubscriberEvent::Message { message, .. }) => {
                log.push(LoggedMessage::from_message(&message))
            }
            Some(_) => {}
            None => return Err("the session ended".to_owned()),
        }
    }
    Ok(log)
}
