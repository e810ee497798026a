//! The stage for stories of a whole cluster: real processes of the built binary, on this machine.
//!
//! *What is it?* [`ProcessCluster`] starts nodes as an operator would and hands out what a story needs: a
//! publisher, a viewer, the owner of a topic, a kill. One file in `tests` is one story. Beside the
//! stories stands the proof: [`runner`] does one of the [`faults`] after the other to a cluster under
//! [`load`], the [`history`] has what every client saw, and the [`checker`] holds it against the
//! promises. `scripts/faults` runs all of it, `tests/promises.rs` the short tier. Faults of the network,
//! of disks and of clocks take place on a [`testbed`], where each node has a machine of its own as far as
//! it can tell.
//!
//! *What does it promise?* A cluster of its own for each story: addresses that no other story uses,
//! data in a directory that goes when the story ends well and stays, with the logs, when it does not.
//! No process outlives its story.
//!
//! *What does it refuse?* Shortcuts into a node: everything goes through its doors.
//!
//! *How does data move?* As for users: gRPC in, WebSocket, QUIC and gRPC out.
//!
//! *What must a caller not do?* Sleep and hope: wait for what must become true, with a limit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod binary;
pub mod checker;
pub mod cli;
mod cluster;
mod environment;
pub mod faults;
pub mod history;
pub mod http_client;
pub mod load;
mod node;
mod publish_load;
pub mod runner;
mod subscriber;
mod tcp_proxy;
pub mod testbed;
mod wait;
mod websocket;

pub use binary::BinaryBuild;
pub use cluster::{Builder, ProcessCluster};
pub use environment::{LimitedDescriptors, Loopback, NodeEnvironment};
pub use node::{ClusterNode, EXIT_DISK_FAILED, EXIT_REMOVED, Ports};
pub use publish_load::{PublishLoad, SentMessage, text_message};
pub use subscriber::{ReceivedMessage, TestSubscriber};
pub use tcp_proxy::TcpProxy;
pub use wait::{secs, wait_until};
pub use websocket::WebSocketClient;
