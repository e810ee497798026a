//! A voter loses its log and its identity, and keeps the file by which the cluster knows its directory:
//! it must be refused, or it would vote again in terms in which it has voted.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, STORE, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "deleted-log",
    story: "a voter is killed, loses its log, is refused by what the cluster knows of it, and is replaced",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(DeletedLog { victim: None }),
};

struct DeletedLog {
    victim: Option<usize>,
}

#[async_trait(?Send)]
impl Fault for DeletedLog {
    fn hold(&self) -> Duration {
        secs(3)
    }

    /// A second one would leave no majority that has the data.
    fn rounds(&self) -> usize {
        1
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        // The first node names no other to join, so it would not even ask.
        let victim = 1.max(stage.owner().await);
        stage.cluster.kill(victim);
        let data = stage.cluster.node(victim).data();
        for file in [STORE, "identity.json"] {
            std::fs::remove_file(data.join(file)).map_err(|why| format!("{file}: {why}"))?;
        }
        stage.cluster.restart(victim);
        self.victim = Some(victim);
        Ok(Effect::on(vec![victim]))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let victim = self.victim.expect("it was injected");
        stage.refused(victim, "is not the one it had").await
    }

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some(victim) = self.victim.take() {
            stage.replace(victim).await;
        }
    }
}
