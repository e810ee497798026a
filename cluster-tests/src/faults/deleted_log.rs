//! A voter loses its log and its identity, and keeps the file by which the cluster knows its directory. It
//! must be refused, or it could vote again in terms in which it has already voted.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, LOG_FILE, on_loopback,
    secs,
};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "deleted-log",
    description: "a killed voter loses its log and its identity, is refused by the cluster, and is replaced",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(DeletedLog { victim: None }),
};

struct DeletedLog {
    victim: Option<usize>,
}

#[async_trait(?Send)]
impl FaultInjector for DeletedLog {
    fn duration(&self) -> Duration {
        secs(3)
    }

    /// After a second replacement, no majority would have the data.
    fn rounds_max(&self) -> usize {
        1
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        // The first node has no `--join` flag, so it would not contact the cluster.
        let victim = 1.max(context.hot_topic_owner().await);
        context.cluster.kill(victim);
        let data = context.cluster.node(victim).data_dir();
        for file in [LOG_FILE, "identity.json"] {
            std::fs::remove_file(data.join(file)).map_err(|error| format!("{file}: {error}"))?;
        }
        context.cluster.restart(victim);
        self.victim = Some(victim);
        Ok(FaultEffect::on_nodes(vec![victim]))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let victim = self.victim.expect("the fault was injected");
        context.confirm_start_refused(victim, "is not the one it had").await
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some(victim) = self.victim.take() {
            context.replace_node(victim).await;
        }
    }
}
