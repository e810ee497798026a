//! The cluster changes, and the owner is killed while the shards move.

use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;
use tokio::task::JoinHandle;
use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, closed, loopback, secs};
use crate::EXPELLED;
use crate::tool::Done;

pub(super) const JOIN: Row = Row {
    name: "join-and-kill",
    story: "a fourth and a fifth node join, and the owner is killed while shards move to them",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Change { how: Join, killed: None }),
};

pub(super) const LEAVE: Row = Row {
    name: "leave-and-kill",
    story: "one of four nodes is removed, and the owner is killed while shards move away from it",
    nodes: 4,
    flags: &[],
    prepare: |_| loopback(Change { how: Leave(None), killed: None }),
};

/// A change of the cluster, and a kill in the middle of it.
struct Change<H> {
    how: H,
    killed: Option<usize>,
}

/// How the cluster changes.
#[async_trait(?Send)]
trait How: Send {
    /// How often it can.
    const ROUNDS: usize;

    /// Begins.
    async fn begin(&mut self, stage: &mut Stage, owner: usize) -> Result<(), String>;

    /// Waits until it is done, all nodes running.
    async fn finish(&mut self, stage: &mut Stage);
}

struct Join;

/// Who leaves, and the command that says so.
struct Leave(Option<(usize, JoinHandle<Done>)>);

#[async_trait(?Send)]
impl How for Join {
    const ROUNDS: usize = 2;

    async fn begin(&mut self, stage: &mut Stage, _: usize) -> Result<(), String> {
        stage.cluster.join("");
        Ok(())
    }

    /// Nodes that run are waited for after every fault.
    async fn finish(&mut self, _: &mut Stage) {}
}

#[async_trait(?Send)]
impl How for Leave {
    const ROUNDS: usize = 1;

    async fn begin(&mut self, stage: &mut Stage, owner: usize) -> Result<(), String> {
        let others = stage.cluster.running().filter(|&node| node != owner);
        let leaving = others.choose(&mut stage.rng).ok_or("it is alone")?;
        self.0 = Some((leaving, tokio::spawn(stage.cluster.remove(leaving))));
        Ok(())
    }

    async fn finish(&mut self, stage: &mut Stage) {
        let Some((leaving, asked)) = self.0.take() else { return };
        let done = asked.await.expect("the command does not panic");
        // The node that was asked may be the one that was killed: the command is to be given again.
        if !done.status.success() {
            stage.remove(leaving).await;
        }
        assert_eq!(stage.cluster.ended(leaving).await.code(), Some(EXPELLED));
    }
}

#[async_trait(?Send)]
impl<H: How> Fault for Change<H> {
    fn hold(&self) -> Duration {
        secs(4)
    }

    fn rounds(&self) -> usize {
        H::ROUNDS
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let owner = stage.owner().await;
        self.how.begin(stage, owner).await?;
        let while_it_moves = Duration::from_millis(stage.rng.random_range(100..2_000));
        tokio::time::sleep(while_it_moves).await;
        // It may be another one by now.
        let owner = stage.owner().await;
        stage.cluster.kill(owner);
        self.killed = Some(owner);
        Ok(Effect::restart(vec![owner]))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        closed(stage, self.killed.as_slice()).await
    }

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some(owner) = self.killed.take() {
            stage.restart(owner);
        }
        self.how.finish(stage).await;
    }
}
