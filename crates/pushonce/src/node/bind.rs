//! Binds a listener.

use anyhow::Context as _;
use tokio::net::TcpListener;

/// Binds `address`, which `flag` sets.
///
/// # Errors
/// When another process uses the address; the error names the flag.
pub(super) async fn bind(address: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}: stop the process that uses it, or choose another with {flag}"
        )
    })
}
