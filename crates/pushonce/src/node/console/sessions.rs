//! `GET /console/data/sessions`: the sessions of all nodes that are furthest behind.

use std::cmp::Reverse;

use pushonce_gateway::{SlowSession, SlowSessions};
use pushonce_proto::pb::peer::v1 as pb;
use serde::Serialize;

use super::{ConsoleData, LocalMonitoring};

/// Maximum number of sessions in one answer.
pub(super) const SESSIONS_MAX: u32 = 100;

#[derive(Serialize)]
pub(super) struct SessionsJson {
    /// The furthest behind first.
    sessions: Vec<SessionJson>,
    /// Number of subscriptions that were looked at.
    subscriptions: u64,
    /// The nodes whose sessions are missing, at least in part.
    incomplete: Vec<String>,
}

#[derive(Serialize)]
struct SessionJson {
    node: String,
    id: String,
    transport: String,
    address: String,
    subject: Option<String>,
    topics: u32,
    topic: String,
    messages: u64,
    bytes: u64,
    oldest_ms: u64,
    blocked: bool,
}

/// The `limit` sessions of the cluster that are furthest behind.
pub(super) async fn sessions(data: &ConsoleData, limit: u32) -> SessionsJson {
    let from_peers = data.ask_peers(|mut client| async move {
        client.slow_sessions(pb::SlowSessionsRequest { count_max: limit }).await
    });
    let (local, from_peers) = futures::join!(local_sessions(&data.local, limit), from_peers);
    let local = (data.overview.me, Some(to_response(local)));
    let mut all = SessionsJson { sessions: Vec::new(), subscriptions: 0, incomplete: Vec::new() };
    for (node, response) in from_peers.into_iter().chain([local]) {
        let node = node.to_string();
        if response.as_ref().is_none_or(|response| response.incomplete) {
            all.incomplete.push(node.clone());
        }
        let Some(response) = response else { continue };
        all.subscriptions = all.subscriptions.saturating_add(response.subscriptions);
        all.sessions.extend(response.sessions.into_iter().map(|it| SessionJson::new(&node, it)));
    }
    all.sessions.sort_by_key(|session| Reverse(session.messages));
    all.sessions.truncate(limit as usize);
    all
}

/// The sessions of this node that are furthest behind.
pub(super) async fn local_sessions(local: &LocalMonitoring, count_max: u32) -> SlowSessions {
    match local.inspector.get() {
        Some(inspector) => inspector.slowest(count_max.min(SESSIONS_MAX) as usize).await,
        None => SlowSessions { is_incomplete: true, ..SlowSessions::default() },
    }
}

pub(super) fn to_response(found: SlowSessions) -> pb::SlowSessionsResponse {
    pb::SlowSessionsResponse {
        sessions: found.sessions.into_iter().map(to_wire).collect(),
        subscriptions: found.subscriptions,
        incomplete: found.is_incomplete,
    }
}

fn to_wire(session: SlowSession) -> pb::SlowSession {
    pb::SlowSession {
        id: session.id,
        transport: session.transport.to_owned(),
        address: session.address.map_or_else(String::new, |address| address.to_string()),
        subject: session.subject,
        topics: u32::try_from(session.topics).unwrap_or(u32::MAX),
        topic: session.topic.to_string(),
        messages: session.messages,
        bytes: session.bytes,
        oldest_ms: u64::try_from(session.oldest.as_millis()).unwrap_or(u64::MAX),
        blocked: session.is_blocked,
    }
}

impl SessionJson {
    fn new(node: &str, session: pb::SlowSession) -> SessionJson {
        SessionJson {
            node: node.to_owned(),
            id: session.id,
            transport: session.transport,
            address: session.address,
            subject: session.subject,
            topics: session.topics,
            topic: session.topic,
            messages: session.messages,
            bytes: session.bytes,
            oldest_ms: session.oldest_ms,
            blocked: session.blocked,
        }
    }
}
