//! What the page of the demo does with the nodes: it sees their states, stops a node and starts it again.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its process part starts, or catches up with the other nodes.
    Starting,
    /// It serves.
    Up,
    /// It ends at once.
    Stopping,
    /// It was stopped.
    Down,
}

/// A node with its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its number, from 1.
    pub number: usize,
    /// `node-1`.
    pub name: String,
    /// The port of HTTP and WebSocket on 127.0.0.1.
    pub http: u16,
    /// The port of QUIC and WebTransport on 127.0.0.1.
    pub quic: u16,
    /// Its state.
    pub state: NodeState,
}

/// What to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAction {
    /// End it as a crash does.
    Stop,
    /// Start it again, on the same data and ports.
    Start,
}

/// Why a node was neither stopped nor started. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionRejected {
    /// There is no node with the number.
    #[error("there is no node {0}")]
    UnknownNode(usize),
    /// A second node would take the majority with it, and no shard could accept a publish.
    #[error("{0} is not up: two of three nodes must be up, so stop one at a time")]
    OtherNodeNotUp(String),
    /// The node is not in the state for the action.
    #[error("{name} is {state:?}")]
    WrongState {
        /// The node.
        name: String,
        /// Its state.
        state: NodeState,
    },
    /// The demo ends.
    #[error("the demo ends")]
    DemoEnded,
}

/// A request of the page, and where the decision goes.
pub(crate) struct NodeCommand {
    pub(crate) number: usize,
    pub(crate) action: NodeAction,
    pub(crate) reply: oneshot::Sender<Result<(), ActionRejected>>,
}

/// Controls the nodes of the running demo. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DemoControl {
    commands: mpsc::Sender<NodeCommand>,
    statuses: watch::Receiver<Arc<[NodeStatus]>>,
}

/// Requests that wait while a node is being started. More callers wait in `apply`.
const COMMANDS_MAX: usize = 4;

impl DemoControl {
    /// A control, and the receiver of its commands.
    pub(crate) fn new(
        statuses: watch::Receiver<Arc<[NodeStatus]>>,
    ) -> (DemoControl, mpsc::Receiver<NodeCommand>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        (DemoControl { commands, statuses }, receiver)
    }

    /// The nodes, in the order of their numbers.
    pub fn nodes(&self) -> Arc<[NodeStatus]> {
        self.statuses.borrow().clone()
    }

    /// Stops a node or starts it again. Returns when the action has begun.
    ///
    /// # Errors
    /// [`ActionRejected`] when a rule forbids it.
    pub async fn apply(&self, number: usize, action: NodeAction) -> Result<(), ActionRejected> {
        let (reply, decision) = oneshot::channel();
        let command = NodeCommand { number, action, reply };
        self.commands.send(command).await.map_err(|_| ActionRejected::DemoEnded)?;
        decision.await.unwrap_or(Err(ActionRejected::DemoEnded))
    }
}

/// Decides on an action: a node is stopped only while all are up, and started only when it is down. Returns
/// the index of the node.
///
/// # Errors
/// [`ActionRejected`] for the rule that forbids it.
pub(crate) fn decide(
    nodes: &[NodeStatus],
    number: usize,
    action: NodeAction,
) -> Result<usize, ActionRejected> {
    let index = nodes.iter().position(|node| node.number == number);
    let index = index.ok_or(ActionRejected::UnknownNode(number))?;
    let node = &nodes[index];
    let needed = match action {
        NodeAction::Stop => NodeState::Up,
        NodeAction::Start => NodeState::Down,
    };
    if node.state != needed {
        return Err(ActionRejected::WrongState { name: node.name.clone(), state: node.state });
    }
    match nodes.iter().find(|other| other.number != number && other.state != NodeState::Up) {
        Some(other) if action == NodeAction::Stop => {
            Err(ActionRejected::OtherNodeNotUp(other.name.clone()))
        }
        _ => Ok(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(states: [NodeState; 3]) -> Vec<NodeStatus> {
        let node = |(number, state)| NodeStatus {
            number,
            name: format!("node-{number}"),
            http: 7_080,
            quic: 7_443,
            state,
        };
        (1..).zip(states).map(node).collect()
    }

    #[test]
    fn one_node_is_stopped_at_a_time_and_started_again() {
        use NodeState::{Down, Starting, Stopping, Up};
        assert_eq!(decide(&nodes([Up, Up, Up]), 2, NodeAction::Stop), Ok(1));
        assert_eq!(decide(&nodes([Up, Down, Up]), 2, NodeAction::Start), Ok(1));
        for other in [Starting, Stopping, Down] {
            let rejected = decide(&nodes([Up, other, Up]), 1, NodeAction::Stop);
            assert_eq!(rejected, Err(ActionRejected::OtherNodeNotUp("node-2".to_owned())));
        }
        for (state, action) in
            [(Down, NodeAction::Stop), (Starting, NodeAction::Stop), (Up, NodeAction::Start)]
        {
            let rejected = decide(&nodes([state, Up, Up]), 1, action);
            assert_eq!(
                rejected,
                Err(ActionRejected::WrongState { name: "node-1".to_owned(), state })
            );
        }
        assert_eq!(
            decide(&nodes([Up, Up, Up]), 4, NodeAction::Stop),
            Err(ActionRejected::UnknownNode(4))
        );
    }
}
