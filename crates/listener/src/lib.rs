//! TCP listeners that survive a shortage of file descriptors.
//!
//! # Overview
//!
//! Every TCP port of a member accepts through an [`InfallibleListener`]: HTTP and WebSocket, gRPC, and the
//! port between nodes. (The health pages of a node that waits to join do not.) [`DescriptorBudget`]
//! determines the share of the process's descriptors that each kind of connection may use.
//! [`raise_descriptor_limit`] raises the soft limit to the hard limit.
//!
//! # Guarantees
//!
//! - [`InfallibleListener::accept`] never fails and never spins. When the system has no descriptor or memory
//!   left, it waits for a tenth of a second, increments `pushonce_listener_accept_errors_total`, and
//!   logs at most one line in ten seconds for the whole process.
//! - Client connections cannot use the last quarter of the descriptors (8,192 at most), gRPC connections not
//!   the last eighth (4,096 at most). The rest is for peers, health checks, metrics, outgoing connections and files.
//! - A connection of an [`incoming`] stream that does not send the HTTP/2 preface in time is closed.
//!
//! # Non-goals
//!
//! TLS, HTTP, and limits by client address.
//!
//! # Data flow
//!
//! Kernel backlog → [`InfallibleListener::accept`] → [`DescriptorBudget::admits`] → the server of the port. A
//! connection that is not admitted is closed at once.
//!
//! # Caller contract
//!
//! Call [`raise_descriptor_limit`] before the first [`DescriptorBudget::for_process`]: a budget keeps the
//! limit with which it was created. Install the metrics recorder first.
//!
//! ```no_run
//! use pushonce_listener::{
//!     ConnectionPurpose, DescriptorBudget, InfallibleListener, incoming, raise_descriptor_limit,
//! };
//!
//! # async fn example() -> std::io::Result<()> {
//! raise_descriptor_limit();
//! let budget = DescriptorBudget::for_process();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:4001").await?;
//! let listener = InfallibleListener::new("publish", listener);
//! // Pass the stream to `serve_with_incoming` of a tonic server.
//! let _connections = incoming(listener, budget, ConnectionPurpose::Publisher);
//! # Ok(())
//! # }
//! ```

mod budget;
mod connection;
mod incoming;
mod limit;
mod listener;
mod metrics;

pub use budget::{ConnectionPurpose, DescriptorBudget};
pub use connection::GrpcConnection;
pub use incoming::incoming;
pub use limit::raise_descriptor_limit;
pub use listener::InfallibleListener;
pub use metrics::METRICS;
