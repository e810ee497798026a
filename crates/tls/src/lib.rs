//! TLS for servers: certificates that are reloaded, session tickets that nodes share, handshakes of TCP connections.
//!
//! # Overview
//!
//! A [`CertificateStore`] holds a certificate chain with its key. It is read from PEM files, and again when the
//! files change. [`server_config`] are the settings of a listener for clients. [`accept`] performs the handshakes
//! of a gRPC port. [`Handshakes`] bounds those of any port. A [`TlsSession`] is a connection without I/O, for the
//! lanes. The certificates of connections between nodes belong to the crate `peer`.
//!
//! # Guarantees
//!
//! - A certificate is used only if its key belongs to it and it is valid at the time when it is loaded.
//! - Files that cannot be read or used are refused, logged once and counted. What was loaded before stays in use.
//! - A replaced certificate applies to new handshakes. Open connections keep theirs.
//! - Files are compared by content, through symlinks, every 30 seconds and on request.
//! - A certificate that expires within 14 days is reported in the log once a day.
//! - A client that does not finish its handshake is disconnected after ten seconds. It delays no other client.
//! - There is no early data.
//! - An idle [`TlsSession`] holds no buffers. One that is not read holds one record.
//! - No error, log line, metric or `Debug` output contains a key.
//!
//! # Non-goals
//!
//! Issuing certificates, revocation lists, several certificates for a listener, identities in the certificates of
//! clients.
//!
//! # Data flow
//!
//! Files → [`CertificateStore`] → resolver in the settings of each listener → handshake. TCP connections of
//! `pushonce_listener::incoming` → [`accept`] → tonic.
//!
//! # Caller contract
//!
//! Run each store with [`CertificateStore::run`], and send on the `watch` channel when the
//! process receives SIGHUP. Install the metrics recorder before a store is loaded.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::SystemTime;
//!
//! use pushonce_listener::{ConnectionPurpose, DescriptorBudget, InfallibleListener, incoming};
//! use pushonce_tls::{CertificateFiles, CertificateStore, accept, server_config};
//! use tokio::sync::watch;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let files = CertificateFiles { chain: "tls.crt".into(), key: "tls.key".into() };
//! let certificates = CertificateStore::load("tls-cert", files, SystemTime::now())?;
//! let config = server_config(&certificates, &[b"h2"], None)?;
//! let (_reload, requests) = watch::channel(());
//! tokio::spawn(certificates.run(requests));
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7090").await?;
//! let listener = InfallibleListener::new("grpc", listener);
//! let budget = DescriptorBudget::for_process();
//! let connections = incoming(listener, budget, ConnectionPurpose::Publisher, None);
//! // Pass the stream to `serve_with_incoming` of a tonic server.
//! let _connections = accept(connections, Arc::new(config), "grpc");
//! # Ok(())
//! # }
//! ```

mod accept;
mod config;
mod error;
mod file;
mod handshakes;
mod metrics;
mod pem;
mod session;
mod store;
#[cfg(feature = "test-util")]
pub mod test_util;
mod tickets;

pub use accept::{HANDSHAKE_TIMEOUT, TlsConnection, accept};
pub use config::{provider, server_config};
pub use error::CertificateError;
pub use handshakes::{Evicted, Handshakes};
pub use metrics::METRICS;
pub use rustls::ServerConfig;
pub use session::{TlsBuffers, TlsSession};
pub use store::{CertificateFiles, CertificateStore};
pub use tickets::{TicketCipher, TicketCipherError};
