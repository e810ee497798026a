//! More publishes than the cluster can bear, as many as are taken, on topics of their own in every
//! shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pushonce_client::Publisher;
use tokio::task::JoinSet;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};
use crate::origin::text;

pub(super) const ROW: Row = Row {
    name: "flood",
    story: "two streams a node publish as fast as they are let, beside the usual load",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Flood::default()),
};

#[derive(Default)]
struct Flood {
    streams: JoinSet<()>,
    sent: Arc<AtomicU64>,
}

impl Fault for Flood {
    fn hold(&self) -> Duration {
        secs(6)
    }

    fn inject<'a>(
        &'a mut self,
        stage: &'a mut Stage,
    ) -> LocalBoxFuture<'a, Result<Effect, String>> {
        async {
            for node in stage.cluster.running() {
                for _ in 0..2 {
                    let publisher = stage.cluster.publisher(node);
                    self.streams.spawn(pour(publisher, self.sent.clone()));
                }
            }
            Ok(Effect { flood: true, majority: true, ..Effect::default() })
        }
        .boxed_local()
    }

    fn confirm<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        async {
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
        .boxed_local()
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        async { self.streams.shutdown().await }.boxed_local()
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
            let message = text(&format!("flood/{}", n % 64), &payload);
            if stream.send(message).await.is_err() {
                break;
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
