//! End-to-end tests of a whole cluster: real processes of the built binary, on this machine.
//!
//! # Overview
//!
//! [`ProcessCluster`] starts nodes as an operator does, and provides what a test needs: publishers,
//! subscribers, the owner of a topic, kills and restarts. Each file in `tests` covers one behaviour. In
//! addition, the fault matrix checks the published invariants: [`runner`] injects one of the [`faults`] after
//! the other into a cluster under [`load`], the [`history`] records what every client observed, and the
//! [`checker`] checks it. `scripts/faults` runs the full matrix, `tests/fault_matrix_short.rs` the short
//! tier. Faults of the network, of disks and of clocks run on a [`testbed`], which gives each node a network
//! namespace, a volume and a clock.
//!
//! # Guarantees
//!
//! Each test has a cluster of its own, with addresses that no other test uses. Its data directory is removed
//! when the test passes, and kept with the logs when it fails. No process outlives its test.
//!
//! # Non-goals
//!
//! There are no shortcuts into a node: tests use only its public listeners.
//!
//! # Data flow
//!
//! As in production: publishes arrive by gRPC, HTTP and WebSocket; deliveries leave by WebSocket, QUIC and
//! gRPC.
//!
//! # Caller contract
//!
//! Wait for a condition with a time limit ([`wait_until`]); never sleep for a fixed time instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod binary;
pub mod checker;
pub mod cli;
mod cluster;
mod environment;
mod event_stream;
pub mod faults;
pub mod history;
pub mod hostile;
pub mod hosts;
pub mod http_client;
pub mod issuer;
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
pub use event_stream::{EventStreamClient, StreamEvent};
pub use node::{ClusterNode, EXIT_DISK_FAILED, EXIT_REMOVED, Ports};
pub use publish_load::{PublishLoad, SentMessage, text_message};
pub use subscriber::{ReceivedMessage, TestSubscriber};
pub use tcp_proxy::TcpProxy;
pub use wait::{secs, wait_until};
pub use websocket::WebSocketClient;
