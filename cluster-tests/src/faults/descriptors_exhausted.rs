//! Idle connections use up all descriptors of a node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;
use tokio::task::JoinSet;
use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, PreparedScenario, secs,
};
use crate::environment::LimitedDescriptors;
use crate::{http_client, load};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "descriptor-exhaustion",
    description: "a node with a limit of 384 descriptors receives 600 idle connections, a third at each TCP port",
    nodes: 3,
    flags: &[],
    prepare: |_| {
        let fault = Box::new(DescriptorsExhausted { node: None, connections: JoinSet::new() });
        Ok(PreparedScenario {
            environment: Arc::new(LimitedDescriptors::new(DESCRIPTORS_MAX)),
            fault,
        })
    },
};

/// Descriptors per node. The sessions of the load and the links between nodes use about 60.
const DESCRIPTORS_MAX: u32 = 384;

const CONNECTIONS_PER_PORT: usize = 200;

struct DescriptorsExhausted {
    node: Option<usize>,
    connections: JoinSet<()>,
}

#[async_trait(?Send)]
impl FaultInjector for DescriptorsExhausted {
    fn duration(&self) -> Duration {
        secs(5)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let node =
            context.cluster.running_nodes().choose(&mut context.rng).ok_or("no node runs")?;
        self.connections =
            load::open_idle_connections(context.cluster.node(node).ports, CONNECTIONS_PER_PORT);
        self.node = Some(node);
        Ok(FaultEffect::on_nodes(vec![node]))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let http = context.cluster.node(self.node.expect("the fault was injected")).ports.http;
        let begun = Instant::now();
        while begun.elapsed() < secs(15) {
            if let Ok(page) = http_client::get(http, "/metrics", &[]).await
                && page.body.lines().any(is_nonzero_descriptor_rejections)
            {
                return FaultState::Active;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        FaultState::Indeterminate("no connection was rejected for lack of descriptors".to_owned())
    }

    async fn heal(&mut self, _: &mut FaultContext) {
        self.node = None;
        self.connections.shutdown().await;
    }
}

fn is_nonzero_descriptor_rejections(line: &str) -> bool {
    line.contains("connections_rejected_total{reason=\"descriptors\"} ") && !line.ends_with(" 0")
}
