//! A node loses its disk and comes back under its name: it must be refused, and a new one takes its
//! place.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "wiped-node",
    story: "a node is killed, loses its disk, is refused under its name, and is replaced",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Wipe { founder: false, victim: None }),
};

pub(super) const FOUNDER: Row = Row {
    name: "wiped-founder",
    story: "the first node is killed, loses its disk, is started by its own command, and is replaced",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Wipe { founder: true, victim: None }),
};

struct Wipe {
    /// Whether the victim is the node that was initialized: its command names no other node.
    founder: bool,
    victim: Option<usize>,
}

#[async_trait(?Send)]
impl Fault for Wipe {
    fn hold(&self) -> Duration {
        secs(3)
    }

    /// A second one would leave no majority that has the data.
    fn rounds(&self) -> usize {
        1
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let victim = if self.founder { 0 } else { 1.max(stage.owner().await) };
        stage.cluster.kill(victim);
        stage.cluster.node(victim).wipe();
        stage.cluster.restart(victim);
        self.victim = Some(victim);
        Ok(Effect::on(vec![victim]))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let victim = self.victim.expect("it was injected");
        let words =
            if self.founder { "belongs to no cluster" } else { "does not let this node join" };
        stage.refused(victim, words).await
    }

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some(victim) = self.victim.take() {
            stage.replace(victim).await;
        }
    }
}
