//! Starts the nodes, and stops and starts them again as the page commands.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::NodeAction;
use crate::control::{NodeCommand, NodeState, NodeStatus, decide};
use crate::nodes::NodeSpec;

/// A future of a node that any thread may run.
pub type NodeFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A node that was started.
pub struct StartedNode {
    /// Resolves when the node has ended, and its ports and its data directory can be used again.
    pub ended: NodeFuture<anyhow::Result<()>>,
    /// Resolves when the node serves. Dropped when the node ends before.
    pub ready: NodeFuture<()>,
}

/// How a node is ended.
#[derive(Clone, Debug, Default)]
pub struct NodeSignals {
    /// Cancelled at the end of the demo: the node drains.
    pub shutdown: CancellationToken,
    /// Cancelled when the page stops the node: it ends at once, as a crash does.
    pub crash: CancellationToken,
}

/// The running nodes.
pub(crate) struct Supervisor<F> {
    start_node: F,
    specs: Vec<NodeSpec>,
    signals: Vec<NodeSignals>,
    commands: mpsc::Receiver<NodeCommand>,
    statuses: watch::Sender<Arc<[NodeStatus]>>,
    /// The end of each running node, with its index.
    ends: JoinSet<(usize, anyhow::Result<()>)>,
    /// The readiness of each node that starts, with its index.
    readiness: JoinSet<usize>,
}

impl<F: AsyncFn(NodeSpec, NodeSignals) -> anyhow::Result<StartedNode>> Supervisor<F> {
    /// Starts the nodes, one after the other: each but the first joins through the first, which must be up
    /// before.
    ///
    /// # Errors
    /// When a node cannot be started; the error says what to change.
    pub(crate) async fn start(
        start_node: F,
        specs: Vec<NodeSpec>,
        commands: mpsc::Receiver<NodeCommand>,
        statuses: watch::Sender<Arc<[NodeStatus]>>,
    ) -> anyhow::Result<Supervisor<F>> {
        let mut supervisor = Supervisor {
            start_node,
            signals: specs.iter().map(|_| NodeSignals::default()).collect(),
            specs,
            commands,
            statuses,
            ends: JoinSet::new(),
            readiness: JoinSet::new(),
        };
        for index in 0..supervisor.specs.len() {
            let context = "or run the demo on other ports, with --offset 1000";
            supervisor
                .start_one(index)
                .await
                .with_context(|| format!("node {}; {context}", index + 1))?;
        }
        Ok(supervisor)
    }

    /// Carries out commands until a node ends that was not to end. Returns the reason.
    pub(crate) async fn run(&mut self) -> anyhow::Error {
        loop {
            tokio::select! {
                Some(command) = self.commands.recv() => self.on_command(command).await,
                Some(ready) = self.readiness.join_next() => {
                    if let Ok(index) = ready {
                        self.on_ready(index);
                    }
                }
                Some(ended) = self.ends.join_next() => {
                    if let Err(error) = self.on_ended(ended) {
                        return error;
                    }
                }
            }
        }
    }

    /// Drains all nodes, at the same time.
    ///
    /// # Errors
    /// The first error of a node.
    pub(crate) async fn shut_down(mut self) -> anyhow::Result<()> {
        self.signals.iter().for_each(|signals| signals.shutdown.cancel());
        let mut result = Ok(());
        while let Some(ended) = self.ends.join_next().await {
            let ended = ended.map_err(anyhow::Error::from).and_then(|(_, ended)| ended);
            result = result.and(ended.context("a node failed"));
        }
        result
    }

    async fn start_one(&mut self, index: usize) -> anyhow::Result<()> {
        let signals = NodeSignals::default();
        let StartedNode { ended, ready } =
            (self.start_node)(self.specs[index].clone(), signals.clone()).await?;
        // Its data directory now belongs to the cluster.
        self.specs[index].is_new = false;
        let crash = signals.crash.clone();
        self.signals[index] = signals;
        self.ends.spawn(async move { (index, ended.await) });
        self.readiness.spawn(async move {
            crash.run_until_cancelled(ready).await;
            index
        });
        Ok(())
    }

    async fn on_command(&mut self, NodeCommand { number, action, reply }: NodeCommand) {
        let decision = decide(&self.statuses.borrow(), number, action);
        let index = decision.as_ref().ok().copied();
        // The page may be gone. The action is carried out all the same.
        let _ = reply.send(decision.map(|_| ()));
        let Some(index) = index else { return };
        match action {
            NodeAction::Stop => {
                self.set_state(index, NodeState::Stopping);
                self.signals[index].crash.cancel();
            }
            NodeAction::Start => {
                self.set_state(index, NodeState::Starting);
                if let Err(error) = self.start_one(index).await {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        number,
                        "cannot start the node again"
                    );
                    self.set_state(index, NodeState::Down);
                }
            }
        }
    }

    fn on_ready(&mut self, index: usize) {
        if self.state(index) == NodeState::Starting {
            self.set_state(index, NodeState::Up);
        }
    }

    /// # Errors
    /// When the node was not to end.
    fn on_ended(
        &mut self,
        ended: Result<(usize, anyhow::Result<()>), JoinError>,
    ) -> anyhow::Result<()> {
        let (index, result) = ended.context("a node failed")?;
        result?;
        anyhow::ensure!(
            self.signals[index].crash.is_cancelled(),
            "{} ended unexpectedly",
            self.specs[index].name
        );
        self.set_state(index, NodeState::Down);
        Ok(())
    }

    fn state(&self, index: usize) -> NodeState {
        self.statuses.borrow()[index].state
    }

    fn set_state(&self, index: usize, state: NodeState) {
        let mut nodes = self.statuses.borrow().to_vec();
        nodes[index].state = state;
        self.statuses.send_replace(nodes.into());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::control::{ActionRejected, DemoControl};
    use crate::nodes::{NodePorts, specs, starting};

    /// A node that runs until a signal and is ready at once.
    async fn start_node(_: NodeSpec, signals: NodeSignals) -> anyhow::Result<StartedNode> {
        let ended = async move {
            tokio::select! {
                () = signals.shutdown.cancelled() => {}
                () = signals.crash.cancelled() => {}
            }
            Ok(())
        };
        Ok(StartedNode { ended: Box::pin(ended), ready: Box::pin(async {}) })
    }

    async fn wait_for(control: &mut watch::Receiver<Arc<[NodeStatus]>>, states: [NodeState; 3]) {
        let reached = control
            .wait_for(|nodes| nodes.iter().map(|node| node.state).eq(states.iter().copied()));
        tokio::time::timeout(std::time::Duration::from_secs(60), reached)
            .await
            .unwrap_or_else(|_| panic!("timed out waiting for {states:?}"))
            .expect("the supervisor runs");
    }

    #[tokio::test]
    async fn stopped_node_is_down_until_it_is_started_again() {
        use NodeState::{Down, Up};
        let ports = NodePorts::for_all_nodes(0).expect("valid ports");
        let (sender, mut statuses) = watch::channel(starting(&ports));
        let (control, commands) = DemoControl::new(statuses.clone());
        let specs = specs(&ports, Path::new("/data"));
        let mut supervisor =
            Supervisor::start(start_node, specs, commands, sender).await.expect("started");
        let commands = async {
            wait_for(&mut statuses, [Up; 3]).await;
            assert_eq!(control.apply(2, NodeAction::Stop).await, Ok(()));
            wait_for(&mut statuses, [Up, Down, Up]).await;
            let rejected = control.apply(1, NodeAction::Stop).await;
            assert_eq!(rejected, Err(ActionRejected::OtherNodeNotUp("node-2".to_owned())));
            assert_eq!(control.apply(2, NodeAction::Start).await, Ok(()));
            wait_for(&mut statuses, [Up; 3]).await;
        };
        tokio::select! {
            () = commands => {}
            error = supervisor.run() => panic!("{error:#}"),
        }
        supervisor.shut_down().await.expect("every node ended");
        assert_eq!(control.apply(1, NodeAction::Stop).await, Err(ActionRejected::DemoEnded));
    }

    #[tokio::test]
    async fn node_that_ends_by_itself_ends_the_demo() {
        let ports = NodePorts::for_all_nodes(0).expect("valid ports");
        let (sender, statuses) = watch::channel(starting(&ports));
        let (_control, commands) = DemoControl::new(statuses);
        let start_node = async |_: NodeSpec, _: NodeSignals| {
            let ended: NodeFuture<anyhow::Result<()>> = Box::pin(async { Ok(()) });
            anyhow::Ok(StartedNode { ended, ready: Box::pin(std::future::pending()) })
        };
        let specs = specs(&ports, Path::new("/data"));
        let mut supervisor =
            Supervisor::start(start_node, specs, commands, sender).await.expect("started");
        let error = supervisor.run().await;
        assert!(error.to_string().contains("ended unexpectedly"), "{error}");
    }
}
