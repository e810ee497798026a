//! The stage for stories of a whole cluster: real processes of the built binary, on this machine.
//!
//! *What is it?* [`Cluster`] starts nodes as an operator would and hands out what a story needs: a
//! publisher, a viewer, the owner of a topic, a kill. One file in `tests` is one story. Beside the
//! stories stands the proof: [`runner`] does one of the [`faults`] after the other to a cluster under
//! [`load`], the [`history`] has what every client saw, and the [`checker`] holds it against the
//! promises. `scripts/faults` runs all of it, `tests/promises.rs` the short tier. Faults of the network,
//! of disks and of clocks take place on a [`rig`], where each node has a machine of its own as far as
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
mod cluster;
pub mod faults;
mod ground;
pub mod history;
pub mod load;
mod node;
mod origin;
pub mod rig;
pub mod runner;
mod socket;
pub mod tool;
mod viewer;
mod wait;
pub mod web;
mod wire;

pub use binary::Build;
pub use cluster::{Builder, Cluster};
pub use ground::{FewDescriptors, Ground, Loopback};
pub use node::{DISK_FAILED, EXPELLED, Node, Ports};
pub use origin::{Load, Sent, text};
pub use socket::Socket;
pub use viewer::{Seen, Viewer};
pub use wait::{secs, until};
pub use wire::Wire;
