//! Every node is killed and started again at once, while publishers ask all the time: what is
//! acknowledged from the first moment of a start is readable.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Processes, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "start-up-traffic",
    story: "64 shards; kill -9 of every node, which starts again in the same moment, under load",
    nodes: 3,
    flags: &["--shards", "64"],
    prepare: |_| loopback(StartUp { before: Processes::default() }),
};

struct StartUp {
    before: Processes,
}

#[async_trait(?Send)]
impl Fault for StartUp {
    fn hold(&self) -> Duration {
        secs(5)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.before = stage.processes();
        let nodes = self.before.nodes();
        nodes.iter().for_each(|&node| stage.cluster.kill(node));
        nodes.iter().for_each(|&node| stage.cluster.restart(node));
        Ok(Effect { majority: false, ..Effect::restart(nodes) })
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        self.before.replaced(stage)
    }

    async fn heal(&mut self, stage: &mut Stage) {
        self.before.nodes().into_iter().for_each(|node| stage.restart(node));
    }
}
