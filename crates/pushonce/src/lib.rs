//! The Pushonce node and its command line: all engines, wired together in one binary.
//!
//! # Overview
//!
//! [`Node`] builds the engines from a [`Config`], connects their ports and runs them; [`cli`] is the command
//! line. The folder `node` holds the wiring: the identity of the node (`identity`), the creation of a cluster
//! (`init`, `bootstrap`), the join (`join` sends requests, `join_outcome` evaluates the responses,
//! `membership` answers them), members at new addresses (`discovery`), two clusters at one address
//! (`address_conflict`), the shards on this node (`replica_supervisor`), the adapters between the engines
//! (`ports`), and readiness (`health` evaluates, `health_check` gathers the facts). The subcommands `bench` and
//! `demo` run the crates `loadgen` and `demo`, which use a cluster like any client.
//!
//! # Guarantees
//!
//! - `serve` never creates a cluster.
//! - A response from another cluster or program never ends a node: only a committed decision of the control
//!   group does.
//! - Settings are checked before anything is opened.
//! - When a part of the node ends, the node ends.
//! - A shutdown first closes the listeners for clients, then the links, and last the groups.
//!
//! # Non-goals
//!
//! Decisions about messages, shards and membership: the engines make them. This crate only connects them.
//!
//! # Data flow
//!
//! A publish passes from `publish` or `gateway` to `shard`, `relay`, `fanout`, and back to `gateway`. The
//! view of the cluster passes from `control` to every engine through a watch channel.
//!
//! # Caller contract
//!
//! Use an engine only through its ports.

pub mod cli;
pub mod config;
pub mod metrics;
mod node;
pub mod output;

pub use config::Config;
pub use node::{InitError, Initialized, Node, NodeReader, init};
pub use pushonce_gateway::{PageAccess, Pages};
