//! The membership changes, and the owner is killed while shards move.

use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;
use tokio::task::JoinHandle;
use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, confirm_ports_closed,
    on_loopback, secs,
};
use crate::EXIT_REMOVED;
use crate::cli::CommandOutput;

pub(super) const JOIN_AND_KILL: FaultScenario = FaultScenario {
    name: "join-and-kill",
    description: "a fourth and a fifth node join, and the owner is killed while shards move to them",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(MembershipChange { kind: NodeJoin, killed: None }),
};

pub(super) const LEAVE_AND_KILL: FaultScenario = FaultScenario {
    name: "leave-and-kill",
    description: "one of four nodes is removed, and the owner is killed while shards move away from it",
    nodes: 4,
    flags: &[],
    prepare: |_| on_loopback(MembershipChange { kind: NodeLeave(None), killed: None }),
};

/// A change of the membership with a kill of the owner during it.
struct MembershipChange<H> {
    kind: H,
    killed: Option<usize>,
}

/// The kind of a membership change.
#[async_trait(?Send)]
trait MembershipChangeKind: Send {
    /// How often the change can be repeated in one cluster.
    const ROUNDS_MAX: usize;

    /// Begins the change.
    async fn begin(&mut self, context: &mut FaultContext, owner: usize) -> Result<(), String>;

    /// Waits until the change is complete. All nodes run.
    async fn finish(&mut self, context: &mut FaultContext);
}

struct NodeJoin;

/// The node that leaves, and the command that removes it.
struct NodeLeave(Option<(usize, JoinHandle<CommandOutput>)>);

#[async_trait(?Send)]
impl MembershipChangeKind for NodeJoin {
    const ROUNDS_MAX: usize = 2;

    async fn begin(&mut self, context: &mut FaultContext, _: usize) -> Result<(), String> {
        context.cluster.join("");
        Ok(())
    }

    /// Nothing to wait for: the runner waits for all running nodes after every fault.
    async fn finish(&mut self, _: &mut FaultContext) {}
}

#[async_trait(?Send)]
impl MembershipChangeKind for NodeLeave {
    const ROUNDS_MAX: usize = 1;

    async fn begin(&mut self, context: &mut FaultContext, owner: usize) -> Result<(), String> {
        let others = context.cluster.running_nodes().filter(|&node| node != owner);
        let leaving = others.choose(&mut context.rng).ok_or("no other node runs")?;
        self.0 = Some((leaving, tokio::spawn(context.cluster.remove(leaving))));
        Ok(())
    }

    async fn finish(&mut self, context: &mut FaultContext) {
        let Some((leaving, command)) = self.0.take() else { return };
        let done = command.await.expect("the command does not panic");
        // The node that received the command may be the killed one: repeat the command.
        if !done.status.success() {
            context.remove_node(leaving).await;
        }
        assert_eq!(context.cluster.wait_exit(leaving).await.code(), Some(EXIT_REMOVED));
    }
}

#[async_trait(?Send)]
impl<H: MembershipChangeKind> FaultInjector for MembershipChange<H> {
    fn duration(&self) -> Duration {
        secs(4)
    }

    fn rounds_max(&self) -> usize {
        H::ROUNDS_MAX
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let owner = context.hot_topic_owner().await;
        self.kind.begin(context, owner).await?;
        let delay = Duration::from_millis(context.rng.random_range(100..2_000));
        tokio::time::sleep(delay).await;
        // The owner may have changed meanwhile.
        let owner = context.hot_topic_owner().await;
        context.cluster.kill(owner);
        self.killed = Some(owner);
        Ok(FaultEffect::restart(vec![owner]))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        confirm_ports_closed(context, self.killed.as_slice()).await
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some(owner) = self.killed.take() {
            context.restart_if_stopped(owner);
        }
        self.kind.finish(context).await;
    }
}
