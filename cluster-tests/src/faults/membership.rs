//! A node joins, and the owner is killed while the shards move to it.

use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use rand::Rng;

use super::{Confirmed, Effect, Fault, Row, Stage, closed, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "join-and-kill",
    story: "a fourth and a fifth node join, and the owner is killed while shards move to them",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Join(None)),
};

struct Join(Option<usize>);

impl Fault for Join {
    fn hold(&self) -> Duration {
        secs(4)
    }

    fn rounds(&self) -> usize {
        2
    }

    fn inject<'a>(
        &'a mut self,
        stage: &'a mut Stage,
    ) -> LocalBoxFuture<'a, Result<Effect, String>> {
        async {
            stage.cluster.join("");
            let while_it_moves = Duration::from_millis(stage.rng.random_range(100..2_000));
            tokio::time::sleep(while_it_moves).await;
            let owner = stage.owner().await;
            stage.cluster.kill(owner);
            self.0 = Some(owner);
            Ok(Effect { nodes: vec![owner], majority: true, ..Effect::default() })
        }
        .boxed_local()
    }

    fn confirm<'a>(&'a mut self, stage: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        async { closed(stage, self.0.as_slice()).await }.boxed_local()
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        async {
            if let Some(owner) = self.0.take() {
                stage.restart(owner);
            }
        }
        .boxed_local()
    }
}
