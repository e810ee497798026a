//! The demo: the football World Cup 2026, replayed on a cluster of three nodes in one process.
//!
//! # Overview
//!
//! `tournament` holds the data, `script` derives the events and their messages, and `schedule` their times:
//! all three are pure. [`run`] starts the nodes and publishes each step at its time; `viewers` subscribe, and
//! `report` words the results.
//!
//! # Guarantees
//!
//! - Every run publishes the same messages in the same order.
//! - The nodes talk over loopback as nodes on different machines would, and their data is deleted at the end.
//!
//! # Non-goals
//!
//! Nodes: the caller starts them, so this crate depends on the SDK only. The scoreboard is in the crate
//! `console`.
//!
//! # Data flow
//!
//! Events become messages on `worldcup/2026/live` and on one topic for each match. They are published over
//! gRPC to any of the nodes; three viewers receive them, each from another node over another transport.
//!
//! # Caller contract
//!
//! - The caller starts each node of which it receives a [`NodeSpec`], at most one at a time, and returns the
//!   future that runs it. The first node creates the cluster, the others join it.
//! - A node that ends before its token is cancelled ends the demo.

mod nodes;
mod report;
mod run;
mod schedule;
mod script;
mod tournament;
mod viewers;

use std::time::{SystemTime, UNIX_EPOCH};

pub use nodes::{NodePorts, NodeSpec};
pub use run::{Args, run};

/// The current time in milliseconds since the Unix epoch, with fractions.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
