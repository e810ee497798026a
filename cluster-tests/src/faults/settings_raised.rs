//! The history of namespaces is raised shortly before every node is killed: no node may restart with the old
//! setting and shorten a history.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, confirm_ports_closed,
    on_loopback, secs,
};
use crate::cli;
use crate::wait::wait_until;

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "history-raised-and-restarted",
    description: "the history is raised from 20 to 1,000 messages, then kill -9 of every node, repeatedly",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(HistoryRaised { killed: Vec::new() }),
};

/// The old limit. Every node has it on disk, and must never apply it again.
const HISTORY_BEFORE: usize = 20;

/// The new limit: as many messages as the checker requires, and as one read over HTTP can return.
const HISTORY_AFTER: usize = 1_000;

struct HistoryRaised {
    killed: Vec<usize>,
}

#[async_trait(?Send)]
impl FaultInjector for HistoryRaised {
    fn duration(&self) -> Duration {
        secs(1)
    }

    /// As far as possible, the control group commits nothing after the second change.
    async fn prepare(&mut self, context: &mut FaultContext) {
        set_history(context, HISTORY_BEFORE).await;
        set_history(context, HISTORY_AFTER).await;
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.killed = context.cluster.running_nodes().collect();
        self.killed.iter().for_each(|&node| context.cluster.kill(node));
        Ok(FaultEffect { has_majority: false, ..FaultEffect::restart(self.killed.clone()) })
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        confirm_ports_closed(context, &self.killed).await
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        self.killed.drain(..).for_each(|node| context.restart_if_stopped(node));
    }
}

/// Changes the history limit of every topic, and waits until every node has the change.
async fn set_history(context: &FaultContext, count: usize) {
    let bound = count.to_string();
    let server = |i: usize| format!("http://{}", context.cluster.node(i).ports.grpc);
    let nodes: Vec<_> = context.cluster.running_nodes().collect();
    let first = server(nodes[0]);
    let set = ["namespace", "set", "--default", "--history-count", &bound, "--server", &first];
    cli::pushonce(set, "").await.expect_success();
    for node in nodes {
        wait_until(&format!("node {node} keeps {count} messages"), secs(20), async || {
            let server = server(node);
            let list = ["namespace", "list", "--json", "--server", &server];
            let output = cli::pushonce(list, "").await.expect_success();
            let namespaces: serde_json::Value =
                serde_json::from_str(&output).map_err(|error| error.to_string())?;
            match namespaces[0]["history"]["count"].as_u64() {
                Some(effective) if effective == count as u64 => Ok(()),
                other => Err(format!("the limit is {other:?}")),
            }
        })
        .await;
    }
}
