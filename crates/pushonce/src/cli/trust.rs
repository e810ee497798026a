//! The certificates that the commands of clients accept.

use std::path::PathBuf;

use anyhow::Context as _;
use pushonce_client::CertificateTrust;

/// The authority whose certificates are accepted.
#[derive(clap::Args)]
pub(super) struct TrustArgs {
    /// PEM file with the certificate of a private authority, for https://, wss:// and quic:// addresses
    /// [default: the authorities that the system trusts]
    #[arg(long, global = true, env = "PUSHONCE_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl TrustArgs {
    /// Reads the file.
    pub(super) fn load(&self) -> anyhow::Result<CertificateTrust> {
        let Some(path) = &self.ca else { return Ok(CertificateTrust::System) };
        let pem = std::fs::read(path)
            .with_context(|| format!("cannot read the certificate of --ca {}", path.display()))?;
        Ok(CertificateTrust::Roots(pem))
    }
}
