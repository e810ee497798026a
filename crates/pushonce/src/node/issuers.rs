//! The issuers of tokens of a node.

use anyhow::Context as _;
use pushonce_auth::Authenticator;
use tokio::sync::watch::Receiver;

/// Loads the issuers of `--issuers`, or none.
///
/// # Errors
/// When a file cannot be read or is malformed; the error names it.
pub(super) fn load(file: Option<&std::path::Path>) -> anyhow::Result<Authenticator> {
    match file {
        Some(file) => Authenticator::load(file)
            .with_context(|| format!("cannot load the issuers of {}", file.display())),
        None => Ok(Authenticator::open()),
    }
}

/// Reads the issuers again whenever `reload` changes. Never returns.
pub(super) async fn reload(authenticator: Authenticator, mut reload: Receiver<()>) {
    while reload.changed().await.is_ok() {
        authenticator.reload();
    }
    std::future::pending().await
}
