//! The health pages of a node that is not a member yet: it may wait for a cluster to take it in for as
//! long as it takes, and whoever started it asks meanwhile whether it lives.

use std::net::SocketAddr;

use tokio::task::JoinHandle;

use super::{bind, web};

/// The pages, until the gateway takes their port.
pub(super) struct WaitingPages(JoinHandle<()>);

impl WaitingPages {
    /// Serves them at the address of the HTTP port.
    ///
    /// # Errors
    /// When the port cannot be had; says which flag changes it.
    pub(super) async fn open(http: SocketAddr) -> anyhow::Result<WaitingPages> {
        let listener = bind(http, "--http").await?;
        Ok(WaitingPages(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, web::waiting_router()).await {
                tracing::warn!(%error, "the health pages ended before the node joined");
            }
        })))
    }

    /// Gives the port back.
    pub(super) async fn close(self) {
        self.0.abort();
        // Cancelled, or ended by the error that is in the log.
        let _ = self.0.await;
    }
}
