//! TCP listeners that survive a shortage of file descriptors.
//!
//! # Overview
//!
//! Every TCP port of a member accepts through a [`InfallibleListener`]: HTTP and WebSocket, gRPC, and the port
//! between nodes. (The health pages of a node that waits to join do not.) [`DescriptorBudget`] says which connections may use which share of the process's
//! descriptors. [`raise_descriptor_limit`] raises the soft limit to the hard one.
//!
//! # Guarantees
//!
//! - [`InfallibleListener::accept`] never fails and never spins. When the system has no descriptor or memory
//!   left, it pauses for a tenth of a second, increments `pushonce_listener_accept_errors_total`, and
//!   logs at most one line in ten seconds for the whole process.
//! - Client connections cannot use the last quarter of the descriptors (8,192 at most), gRPC connections not
//!   the last eighth (4,096 at most). The rest is for peers, health checks, metrics, outgoing connections and files.
//! - A connection of an [`incoming`] stream that does not send the HTTP/2 preface in time is closed.
//!
//! # Non-goals
//!
//! TLS, HTTP, and limits by client address.
//!
//! # Caller contract
//!
//! Call [`raise_descriptor_limit`] before the first [`DescriptorBudget::for_process`]: a budget keeps
//! the limit that it was made with. Install the metrics recorder first.

mod budget;
mod connection;
mod incoming;
mod limit;
mod listener;
mod metrics;
#[cfg(feature = "planted-bugs")]
mod planted;

pub use budget::{ConnectionPurpose, DescriptorBudget};
pub use connection::GrpcConnection;
pub use incoming::incoming;
pub use limit::raise_descriptor_limit;
pub use listener::InfallibleListener;
pub use metrics::METRICS;
