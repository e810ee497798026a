//! A node loses its disk and comes back under its name: it must be refused, and a new one takes its
//! place.

use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "wiped-node",
    story: "a node is killed, loses its disk, is refused under its name, and a new one joins",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Wipe(None)),
};

struct Wipe(Option<usize>);

impl Fault for Wipe {
    fn hold(&self) -> Duration {
        secs(3)
    }

    /// A second one would leave no majority that has the data.
    fn rounds(&self) -> usize {
        1
    }

    fn inject<'a>(
        &'a mut self,
        stage: &'a mut Stage,
    ) -> LocalBoxFuture<'a, Result<Effect, String>> {
        async {
            // The first node made the cluster: without its data it would make another one, and only
            // a node that joins can be refused.
            let victim = 1.max(stage.owner().await);
            stage.cluster.kill(victim);
            stage.cluster.node(victim).wipe();
            stage.cluster.restart(victim);
            self.0 = Some(victim);
            Ok(Effect { nodes: vec![victim], majority: true, ..Effect::default() })
        }
        .boxed_local()
    }

    fn confirm<'a>(&'a mut self, stage: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        async {
            let victim = self.0.expect("it was injected");
            let status = stage.cluster.ended(victim).await;
            let log = stage.cluster.node(victim).log();
            match status.code() {
                Some(1) if log.contains("does not let this node join") => Confirmed::Installed,
                code => {
                    Confirmed::Indeterminate(format!("it was not refused but ended by {code:?}"))
                }
            }
        }
        .boxed_local()
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        async {
            stage.cluster.join("");
        }
        .boxed_local()
    }
}
