//! A node is started with other times of consensus than the cluster's: it must not start, or two nodes
//! would own one shard.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "mixed-consensus-times",
    story: "the owner is killed and started with the times of a wide-area network, which is refused",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(MixedTimes { victim: None }),
};

struct MixedTimes {
    victim: Option<usize>,
}

#[async_trait(?Send)]
impl Fault for MixedTimes {
    fn hold(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let victim = stage.owner().await;
        stage.cluster.kill(victim);
        stage.cluster.restart_with(victim, &["--consensus", "wan"]);
        self.victim = Some(victim);
        Ok(Effect::restart(vec![victim]))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let victim = self.victim.expect("it was injected");
        stage.refused(victim, "the cluster has --consensus lan").await
    }

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some(victim) = self.victim.take() {
            stage.restart(victim);
        }
    }
}
