//! The demo's own viewers: one on each node, each over another transport, so that the summary can
//! say what arrived.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use pushonce_client::{Event, Server, Subscriber, Transport};
use pushonce_core::{From, Message, Topic};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::report::{histogram, percentiles, record};
use super::{LIVE, now_ms};

/// How long the last message may take to arrive everywhere.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// One viewer a node.
#[derive(Default)]
pub(super) struct Viewers {
    seen: Vec<(Transport, Arc<Mutex<Seen>>)>,
    _tasks: JoinSet<()>,
}

/// What a viewer has seen.
struct Seen {
    messages: u64,
    gaps: u64,
    /// Microseconds from publish to here.
    latency: Histogram<u64>,
}

#[derive(Deserialize)]
struct Stamp {
    published_ms: f64,
}

impl Viewers {
    /// `doors` are the HTTP, QUIC and gRPC addresses of all nodes. The first viewer begins with the
    /// first node over WebSocket, the second with the second over QUIC, the third over gRPC.
    pub(super) fn start(doors: &[Vec<Server>; 3]) -> anyhow::Result<Viewers> {
        let mut viewers = Viewers::default();
        let transports = [Transport::Ws, Transport::Quic, Transport::Grpc];
        for (index, (transport, servers)) in transports.into_iter().zip(doors).enumerate() {
            let mut servers = servers.clone();
            servers.rotate_left(index);
            let topic = Topic::new(LIVE)?;
            let subscriber =
                Subscriber::builder(servers).transport(transport).topic(topic, From::Start);
            let seen = Arc::new(Mutex::new(Seen { messages: 0, gaps: 0, latency: histogram() }));
            viewers.seen.push((transport, seen.clone()));
            viewers._tasks.spawn(watch(subscriber.connect()?, seen));
        }
        Ok(viewers)
    }

    /// Waits until each has seen `messages`.
    pub(super) async fn caught_up(&self, messages: u64) -> anyhow::Result<()> {
        let all = async {
            while self.seen.iter().any(|(_, seen)| lock(seen).messages < messages) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(CATCH_UP_MAX, all)
            .await
            .with_context(|| format!("not every viewer saw all messages:\n{}", self.text(messages)))
    }

    /// A line a viewer, beside the `published` messages of the topic.
    pub(super) fn text(&self, published: u64) -> String {
        let line = |(transport, seen): &(Transport, Arc<Mutex<Seen>>)| {
            let seen = lock(seen);
            let name = format!("{transport:?}").to_lowercase();
            format!(
                "seen by {name:<6} {} of {published} live messages, {} gaps, {}\n",
                seen.messages,
                seen.gaps,
                percentiles(&seen.latency)
            )
        };
        self.seen.iter().map(line).collect()
    }
}

async fn watch(mut subscriber: Subscriber, seen: Arc<Mutex<Seen>>) {
    while let Some(event) = subscriber.next().await {
        match event {
            Event::Message { message, .. } => lock(&seen).see(&message),
            Event::Gap { .. } => lock(&seen).gaps += 1,
            _ => {}
        }
    }
}

impl Seen {
    fn see(&mut self, message: &Message) {
        self.messages += 1;
        if let Ok(Stamp { published_ms }) = serde_json::from_slice(&message.payload) {
            let took = (now_ms() - published_ms).max(0.0) / 1000.0;
            record(&mut self.latency, Duration::try_from_secs_f64(took).unwrap_or_default());
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
