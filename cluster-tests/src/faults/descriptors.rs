//! Idle connections take all descriptors of a node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;
use tokio::task::JoinSet;
use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Prepared, Row, Stage, secs};
use crate::ground::FewDescriptors;
use crate::{load, web};

pub(super) const ROW: Row = Row {
    name: "descriptors-gone",
    story: "a node of 384 descriptors gets 600 idle connections, at each of its TCP ports a third",
    nodes: 3,
    flags: &[],
    prepare: |_| {
        let fault = Box::new(Gone { node: None, connections: JoinSet::new() });
        Ok(Prepared { ground: Arc::new(FewDescriptors::new(LIMIT)), fault })
    },
};

/// The sessions of the load and the links between nodes take about 60.
const LIMIT: u32 = 384;

const CONNECTIONS_PER_PORT: usize = 200;

struct Gone {
    node: Option<usize>,
    connections: JoinSet<()>,
}

#[async_trait(?Send)]
impl Fault for Gone {
    fn hold(&self) -> Duration {
        secs(5)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let node = stage.cluster.running().choose(&mut stage.rng).ok_or("no node runs")?;
        self.connections = load::flood(stage.cluster.node(node).ports, CONNECTIONS_PER_PORT);
        self.node = Some(node);
        Ok(Effect::on(vec![node]))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let http = stage.cluster.node(self.node.expect("it was injected")).ports.http;
        let begun = Instant::now();
        while begun.elapsed() < secs(15) {
            if let Ok(page) = web::get(http, "/metrics", &[]).await
                && page.body.lines().any(rejects_for_descriptors)
            {
                return Confirmed::Installed;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Confirmed::Indeterminate("no connection was rejected for want of descriptors".to_owned())
    }

    async fn heal(&mut self, _: &mut Stage) {
        self.node = None;
        self.connections.shutdown().await;
    }
}

fn rejects_for_descriptors(line: &str) -> bool {
    line.contains("connections_rejected_total{reason=\"descriptors\"} ") && !line.ends_with(" 0")
}
