//! The demo's own viewers: one per node, each over a different transport, so that the summary shows what
//! arrived.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use pushonce_client::{ServerAddress, Subscriber, SubscriberEvent, Transport};
use pushonce_core::{Message, StartFrom, Topic};
use pushonce_instruments::LatencyHistogram;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::nodes::NodePorts;
use crate::now_ms;
use crate::report::percentiles_text;
use crate::tournament::LIVE;

/// Maximum time until the last message has arrived everywhere.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// One viewer per node.
#[derive(Default)]
pub(crate) struct DemoViewers {
    stats: Vec<(Transport, Arc<Mutex<ViewerStats>>)>,
    _tasks: JoinSet<()>,
}

/// What a viewer has received.
#[derive(Default)]
struct ViewerStats {
    messages: u64,
    gaps: u64,
    /// From publish to receipt.
    latency: LatencyHistogram,
}

#[derive(Deserialize)]
struct PublishTime {
    published_ms: f64,
}

impl DemoViewers {
    /// Starts the viewers of the nodes with these ports. The first viewer uses the first node over WebSocket,
    /// the second the second node over QUIC, the third the third node over gRPC.
    pub(crate) fn start(ports: &[NodePorts]) -> anyhow::Result<DemoViewers> {
        let mut viewers = DemoViewers::default();
        type ServerOfNode = fn(NodePorts) -> anyhow::Result<ServerAddress>;
        let transports: [(Transport, ServerOfNode); 3] = [
            (Transport::Ws, NodePorts::websocket_server),
            (Transport::Quic, NodePorts::quic_server),
            (Transport::Grpc, NodePorts::grpc_server),
        ];
        for (index, (transport, server)) in transports.into_iter().enumerate() {
            let mut servers = ports.iter().map(|&p| server(p)).collect::<Result<Vec<_>, _>>()?;
            servers.rotate_left(index);
            let topic = Topic::new(LIVE)?;
            let subscriber =
                Subscriber::builder(servers).transport(transport).topic(topic, StartFrom::Start);
            let stats = Arc::<Mutex<ViewerStats>>::default();
            viewers.stats.push((transport, stats.clone()));
            viewers._tasks.spawn(count_events(subscriber.connect()?, stats));
        }
        Ok(viewers)
    }

    /// Waits until each viewer has received `messages` messages.
    pub(crate) async fn wait_until_caught_up(&self, messages: u64) -> anyhow::Result<()> {
        let all_caught_up = async {
            while self.stats.iter().any(|(_, seen)| lock(seen).messages < messages) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(CATCH_UP_TIMEOUT, all_caught_up)
            .await
            .with_context(|| format!("not every viewer saw all messages:\n{}", self.text(messages)))
    }

    /// One line per viewer; `published` is the number of messages on the topic.
    pub(crate) fn text(&self, published: u64) -> String {
        let line = |(transport, stats): &(Transport, Arc<Mutex<ViewerStats>>)| {
            let stats = lock(stats);
            let name = format!("{transport:?}").to_lowercase();
            format!(
                "seen by {name:<6} {} of {published} live messages, {} gaps, {}\n",
                stats.messages,
                stats.gaps,
                percentiles_text(&stats.latency)
            )
        };
        self.stats.iter().map(line).collect()
    }
}

async fn count_events(mut subscriber: Subscriber, stats: Arc<Mutex<ViewerStats>>) {
    while let Some(event) = subscriber.next().await {
        match event {
            SubscriberEvent::Message { message, .. } => lock(&stats).on_message(&message),
            SubscriberEvent::Gap { .. } => lock(&stats).gaps += 1,
            _ => {}
        }
    }
}

impl ViewerStats {
    fn on_message(&mut self, message: &Message) {
        self.messages += 1;
        if let Ok(PublishTime { published_ms }) = serde_json::from_slice(&message.payload) {
            let latency_secs = (now_ms() - published_ms).max(0.0) / 1000.0;
            self.latency.record(Duration::try_from_secs_f64(latency_secs).unwrap_or_default());
        }
    }
}

fn lock(stats: &Mutex<ViewerStats>) -> std::sync::MutexGuard<'_, ViewerStats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}
