//! More publishes than the cluster can bear, as many as are taken, on topics of their own in every
//! shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pushonce_client::Publisher;
use tokio::task::JoinSet;
use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};
use crate::Socket;
use crate::origin::text;

pub(super) const ROW: Row = Row {
    name: "flood",
    story: "two streams a node publish as fast as they are let, beside the usual load",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Flood::default()),
};

pub(super) const STOPPED: Row = Row {
    name: "stopped-readers",
    story: "a hundred viewers a node subscribe to the flooded topics, read nothing and stay connected",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Flood { stopped: 100, ..Flood::default() }),
};

#[derive(Default)]
struct Flood {
    /// Viewers a node that stop reading.
    stopped: usize,
    viewers: Vec<Socket>,
    streams: JoinSet<()>,
    sent: Arc<AtomicU64>,
}

/// Topics that are flooded.
const TOPICS: usize = 64;

#[async_trait(?Send)]
impl Fault for Flood {
    fn hold(&self) -> Duration {
        secs(6)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        for node in stage.cluster.running() {
            for n in 0..self.stopped {
                let mut viewer = Socket::open(stage.cluster.ports(node).http, "").await;
                viewer.subscribe(&format!("flood/{}", n % TOPICS)).await;
                self.viewers.push(viewer);
            }
            for _ in 0..2 {
                let publisher = stage.cluster.publisher(node);
                self.streams.spawn(pour(publisher, self.sent.clone()));
            }
        }
        Ok(Effect { flood: true, ..Effect::on(Vec::new()) })
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        let before = self.sent.load(Ordering::Relaxed);
        tokio::time::sleep(secs(1)).await;
        let sent = self.sent.load(Ordering::Relaxed) - before;
        // The usual load is some 240 a second.
        if sent > 2_000 {
            Confirmed::Installed
        } else {
            Confirmed::Indeterminate(format!("only {sent} publishes a second were sent"))
        }
    }

    async fn heal(&mut self, _: &mut Stage) {
        self.viewers.clear();
        self.streams.shutdown().await
    }
}

/// As fast as the stream takes them.
async fn pour(publisher: Publisher, sent: Arc<AtomicU64>) {
    let payload = "z".repeat(1_000);
    loop {
        let Ok(mut stream) = publisher.stream().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        for n in 0u64.. {
            let message = text(&format!("flood/{}", n % TOPICS as u64), &payload);
            if stream.send(message).await.is_err() {
                break;
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
