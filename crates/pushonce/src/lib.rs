//! The node and its command line: every engine, wired, in one binary.
//!
//! *What is it?* [`Node`] builds the engines out of a [`Config`], plugs their ports into each other
//! and runs them; [`cli`] is what a person types. The folder `node` holds the wiring: who the node is
//! (`load_identity`), how a cluster is created (`init`), how a node joins (`join` asks, `verdict` decides what an
//! answer means, `membership` answers), how members find each other at new addresses (`discovery`), how two
//! clusters at one address are noticed (`conflict`), which shards live on it (`replica_supervisor`), which port goes
//! where (`node_ports`), and whether it can do its work (`health_sender` decides, `watch` looks).
//!
//! *What does it promise?* `serve` never creates a cluster. What a stranger answers never ends a node: only
//! the control group's committed decision does. Settings are checked before anything is opened. A part that ends ends
//! the node. A shutdown closes the doors first, then the links, and leaves the groups last.
//!
//! *What does it refuse?* Decisions: they are in the engines. Here is only who talks to whom.
//!
//! *How does data move?* A publish: `publish` or `gateway`, to `shard`, to `relay`, to `fanout`, to
//! `gateway`. The view of the cluster: from `control` to everybody, by a watch.
//!
//! *What must a caller not do?* Reach around a port into an engine.

pub mod cli;
pub mod config;
pub mod demo;
pub mod instruments;
pub mod metrics;
mod node;
pub mod output;

pub use config::Config;
pub use node::{InitError, Initialized, Node, init};
