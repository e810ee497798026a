//! The TLS settings of the listeners.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig};

use crate::CertificateStore;

/// Session tickets for each handshake. A client that reconnects needs one.
const TICKETS_PER_HANDSHAKE: usize = 1;

/// The cryptography of all connections: `ring`. It is explicit, so that the default of the process, which another
/// crate may set, has no effect.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

/// The settings of a listener for clients: TLS 1.2 and 1.3, no client certificates, no early data. `alpn` are
/// the application protocols, the preferred one first. Sessions are resumed with `tickets`, and not at all
/// without: a cache would be of one node.
///
/// # Errors
/// When the certificates cannot be used with any cipher suite.
pub fn server_config(
    certificates: &CertificateStore,
    alpn: &[&[u8]],
    tickets: Option<Arc<dyn ProducesTickets>>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates.server_resolver());
    restrict(&mut config, alpn);
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    }
    Ok(config)
}

/// Sets the protocols, and turns resumption from memory and early data off. Early data can be replayed.
fn restrict(config: &mut ServerConfig, alpn: &[&[u8]]) {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}
