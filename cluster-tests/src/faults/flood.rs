//! More publishes than the cluster can process, sent as fast as they are accepted, on separate topics in
//! every shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pushonce_client::Publisher;
use tokio::task::JoinSet;
use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};
use crate::WebSocketClient;
use crate::publish_load::text_message;

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "publish-flood",
    description: "two streams per node publish as fast as they are accepted, in addition to the usual load",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(Flood::default()),
};

pub(super) const STOPPED_READERS: FaultScenario = FaultScenario {
    name: "stopped-readers",
    description: "a hundred subscribers per node subscribe to the flooded topics, read nothing and stay connected",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(Flood { stopped_per_node: 100, ..Flood::default() }),
};

#[derive(Default)]
struct Flood {
    /// Subscribers per node that stop reading.
    stopped_per_node: usize,
    viewers: Vec<WebSocketClient>,
    streams: JoinSet<()>,
    sent: Arc<AtomicU64>,
}

/// Number of flooded topics.
const FLOODED_TOPICS: usize = 64;

#[async_trait(?Send)]
impl FaultInjector for Flood {
    fn duration(&self) -> Duration {
        secs(6)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        for node in context.cluster.running_nodes() {
            for n in 0..self.stopped_per_node {
                let mut viewer = WebSocketClient::open(context.cluster.ports(node).http, "").await;
                viewer.subscribe(&format!("flood/{}", n % FLOODED_TOPICS)).await;
                self.viewers.push(viewer);
            }
            for _ in 0..2 {
                let publisher = context.cluster.publisher(node);
                self.streams.spawn(publish_continuously(publisher, self.sent.clone()));
            }
        }
        Ok(FaultEffect { flood: true, ..FaultEffect::on_nodes(Vec::new()) })
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        let before = self.sent.load(Ordering::Relaxed);
        tokio::time::sleep(secs(1)).await;
        let sent = self.sent.load(Ordering::Relaxed) - before;
        // The usual load is about 240 publishes per second.
        if sent > 2_000 {
            FaultState::Active
        } else {
            FaultState::Indeterminate(format!("only {sent} publishes were sent within a second"))
        }
    }

    async fn heal(&mut self, _: &mut FaultContext) {
        self.viewers.clear();
        self.streams.shutdown().await
    }
}

/// Publishes as fast as the stream accepts messages.
async fn publish_continuously(publisher: Publisher, sent: Arc<AtomicU64>) {
    let payload = "z".repeat(1_000);
    loop {
        let Ok(mut stream) = publisher.stream().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        for n in 0u64.. {
            let message = text_message(&format!("flood/{}", n % FLOODED_TOPICS as u64), &payload);
            if stream.send(message).await.is_err() {
                break;
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
