//! The demo: the football World Cup 2026, replayed on a cluster of three nodes in one process.
//!
//! # Overview
//!
//! `tournament` holds the data, `script` derives the events and their messages, and `schedule` their times; `wall` is
//! the state of all matches. All four are pure. [`Demo::run`] starts the nodes and publishes each step at its time
//! (`replay`); `viewers` subscribe, and `report` words the results. [`DemoControl`] stops a node and starts it again
//! while the tournament goes on, as the page asks; `supervisor` carries that out.
//!
//! # Guarantees
//!
//! - Every run publishes the same messages in the same order.
//! - The nodes talk over loopback as nodes on different machines would, and their data is deleted at the end.
//! - At most one node is down at a time, so that a majority stays up.
//!
//! # Non-goals
//!
//! - Nodes: the caller starts them, so this crate depends on the SDK only.
//! - Pages: they are in the crate `console`, and the routes with which they reach a [`DemoControl`] are the caller's.
//!
//! # Data flow
//!
//! | topic | message | published |
//! |---|---|---|
//! | `worldcup/2026/match/N` | the state of match N | at every change, and every 5 minutes of play |
//! | `worldcup/2026/live` | the state of a match without its list of goals | at every change but that of the clock |
//! | `worldcup/2026/wall` | the state of all matches, and the position on `live` that it contains | when a match begins or ends |
//!
//! They are published over gRPC to any of the nodes; three viewers receive them, each from another node over another
//! transport.
//!
//! # Caller contract
//!
//! - The caller starts each node of which it receives a [`NodeSpec`], at most one at a time, and returns a
//!   [`StartedNode`]. The first node creates the cluster, the others join it.
//! - A node ends at once when `crash` of its [`NodeSignals`] is cancelled, and drains when `shutdown` is. One that ends
//!   without either ends the demo.
//! - Only pages of the nodes may reach the [`DemoControl`].

mod control;
mod nodes;
mod replay;
mod report;
mod run;
mod schedule;
mod script;
mod supervisor;
mod tournament;
mod viewers;
mod wall;

use std::time::{SystemTime, UNIX_EPOCH};

pub use control::{ActionRejected, DemoControl, NodeAction, NodeState, NodeStatus};
pub use nodes::{NodePorts, NodeSpec};
pub use run::{Args, Demo};
pub use supervisor::{NodeFuture, NodeSignals, StartedNode};

/// The current time in milliseconds since the Unix epoch, with fractions.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
