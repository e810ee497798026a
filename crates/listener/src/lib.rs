//! TCP listeners that survive a shortage of file descriptors, and the limits that all doors of a node share.
//!
//! # Overview
//!
//! Every TCP port of a member accepts through an [`InfallibleListener`]: HTTP and WebSocket, gRPC, and the
//! port between nodes. (The health pages of a node that waits to join do not.) [`DescriptorBudget`]
//! determines the share of the process's descriptors that each kind of connection may use.
//! [`raise_descriptor_limit`] raises the soft limit to the hard limit.
//!
//! The limits of what a client may cost a node before and while it is served are here as well, because all
//! doors share them: [`AddressLimits`] of connections, [`ReceiveBudget`] of half-received messages,
//! [`KeyedRates`] of requests, [`NamespaceRates`] of publishes, [`CallerRates`] of subscriptions and new topics,
//! and [`FailedAttempts`] of authentications.
//!
//! # Guarantees
//!
//! - [`InfallibleListener::accept`] never fails and never spins. When the system has no descriptor or memory
//!   left, it waits for a tenth of a second, increments `pushonce_listener_accept_errors_total`, and
//!   logs at most one line in ten seconds for the whole process.
//! - Client connections cannot use the last quarter of the descriptors (8,192 at most), gRPC connections not
//!   the last eighth (4,096 at most). The rest is for peers, health checks, metrics, outgoing connections and files.
//! - A connection of an [`incoming`] stream that does not send the HTTP/2 preface in time is closed.
//! - One address has at most a quarter of the connections between nodes
//!   ([`DescriptorBudget::address_connections_max`]).
//! - No client address has more connections than [`AddressLimits`] allows. The tables of addresses and callers are
//!   bounded, and a client with many addresses cannot make a limit ineffective.
//! - All half-received messages together stay within [`ReceiveBudget`]; the caller that holds the most loses its
//!   largest one.
//!
//! # Non-goals
//!
//! TLS and HTTP.
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
//! let _connections = incoming(listener, budget, ConnectionPurpose::Publisher, None);
//! # Ok(())
//! # }
//! ```

mod address_limits;
mod budget;
mod caller_rates;
mod connection;
mod failed_attempts;
mod incoming;
mod keyed_rates;
mod limit;
mod listener;
mod metrics;
mod namespace_rates;
mod receive_budget;

pub use address_limits::{AddressLimits, AddressPermit, AddressRefusal};
pub use budget::{ConnectionPurpose, DescriptorBudget};
pub use caller_rates::{CallerRates, NEW_TOPIC_BURST_SECONDS, SUBSCRIBE_BURST_SECONDS};
pub use connection::GrpcConnection;
pub use failed_attempts::FailedAttempts;
pub use incoming::incoming;
pub use keyed_rates::KeyedRates;
pub use limit::raise_descriptor_limit;
pub use listener::InfallibleListener;
pub use metrics::METRICS;
pub use namespace_rates::{NamespaceRates, PUBLISH_BURST_SECONDS};
pub use receive_budget::{
    Holding, MESSAGE_TIMEOUT, ReceiveBudget, ReceiveBudgetExceeded, UNCOUNTED_BYTES,
};
