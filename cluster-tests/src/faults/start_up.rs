//! Every node is killed and started again at once, while publishers ask all the time: what is
//! acknowledged from the first moment of a start is readable.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "start-up-traffic",
    story: "64 shards; kill -9 of every node, which starts again in the same moment, under load",
    nodes: 3,
    flags: &["--shards", "64"],
    prepare: |_| loopback(StartUp { pids: Vec::new() }),
};

struct StartUp {
    /// The processes before.
    pids: Vec<(usize, Option<rustix::process::Pid>)>,
}

#[async_trait(?Send)]
impl Fault for StartUp {
    fn hold(&self) -> Duration {
        secs(5)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let nodes: Vec<_> = stage.cluster.running().collect();
        self.pids = nodes.iter().map(|&node| (node, stage.cluster.node(node).pid())).collect();
        nodes.iter().for_each(|&node| stage.cluster.kill(node));
        nodes.iter().for_each(|&node| stage.cluster.restart(node));
        Ok(Effect { majority: false, ..Effect::on(nodes) })
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let same = |&&(node, pid): &&(usize, Option<rustix::process::Pid>)| {
            stage.cluster.node(node).pid() == pid
        };
        match self.pids.iter().find(same) {
            Some((node, _)) => Confirmed::Indeterminate(format!("node {node} is the same process")),
            None => Confirmed::Installed,
        }
    }

    async fn heal(&mut self, stage: &mut Stage) {
        self.pids.drain(..).for_each(|(node, _)| stage.restart(node));
    }
}
