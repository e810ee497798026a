//! Settings of namespaces that were raised shortly before every node is killed: no node may come
//! back and shorten a history by those that it had before.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, closed, loopback, secs};
use crate::tool;
use crate::wait::until;

pub(super) const RAISED: Row = Row {
    name: "settings-raised-and-restarted",
    story: "the history is raised from 20 to 1,000 messages, then kill -9 of every node, again and again",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Raised { killed: Vec::new() }),
};

/// The bound that every node has on its disk, and that must never be acted on again.
const BEFORE: usize = 20;

/// The bound that holds: as many as the checker asks for, and as a reader over HTTP can get.
const AFTER: usize = 1_000;

struct Raised {
    killed: Vec<usize>,
}

#[async_trait(?Send)]
impl Fault for Raised {
    fn hold(&self) -> Duration {
        secs(1)
    }

    /// Nothing is committed by the control group after the second change, as far as this can be had.
    async fn prepare(&mut self, stage: &mut Stage) {
        set_history(stage, BEFORE).await;
        set_history(stage, AFTER).await;
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.killed = stage.cluster.running().collect();
        self.killed.iter().for_each(|&node| stage.cluster.kill(node));
        Ok(Effect { majority: false, ..Effect::restart(self.killed.clone()) })
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        closed(stage, &self.killed).await
    }

    async fn heal(&mut self, stage: &mut Stage) {
        self.killed.drain(..).for_each(|node| stage.restart(node));
    }
}

/// Changes the bound of every topic, and waits until every node has the change.
async fn set_history(stage: &Stage, count: usize) {
    let bound = count.to_string();
    let server = |i: usize| format!("http://{}", stage.cluster.node(i).ports.grpc);
    let nodes: Vec<_> = stage.cluster.running().collect();
    let first = server(nodes[0]);
    let set = ["namespace", "set", "--default", "--history-count", &bound, "--server", &first];
    tool::pushonce(set, "").await.ok();
    for node in nodes {
        until(&format!("node {node} keeps {count} messages"), secs(20), async || {
            let server = server(node);
            let list = ["namespace", "list", "--json", "--server", &server];
            let said = tool::pushonce(list, "").await.ok();
            let known: serde_json::Value =
                serde_json::from_str(&said).map_err(|why| why.to_string())?;
            match known[0]["history"]["count"].as_u64() {
                Some(known) if known == count as u64 => Ok(()),
                other => Err(format!("it keeps {other:?}")),
            }
        })
        .await;
    }
}
