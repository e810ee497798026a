//! The certificate shared by all nodes of a testbed. Off loopback, a client trusts only a configured
//! certificate, and a subscriber that reconnects to another node has only one configured.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use pushonce_client::CertificateTrust;
use pushonce_quic::certificate::{FILE_NAME, load_or_generate};

/// A development certificate with its key, in PEM, and its fingerprint.
pub(super) struct TestCertificate {
    pem: String,
    sha256: [u8; 32],
}

impl TestCertificate {
    /// Creates a certificate in the given directory.
    pub(super) fn new(dir: &Path) -> Result<TestCertificate, String> {
        let certificate =
            load_or_generate(dir, SystemTime::now()).map_err(|error| error.to_string())?;
        let pem = fs::read_to_string(dir.join(FILE_NAME))
            .map_err(|error| format!("{FILE_NAME}: {error}"))?;
        let mut sha256 = [0; 32];
        hex::decode_to_slice(certificate.fingerprint().sha256, &mut sha256)
            .map_err(|error| error.to_string())?;
        Ok(TestCertificate { pem, sha256 })
    }

    /// The trust that clients need.
    pub(super) fn trust(&self) -> CertificateTrust {
        CertificateTrust::Fingerprint(self.sha256)
    }

    /// Installs the certificate in a node's data directory, durably, so that it survives a power cut.
    pub(super) fn install(&self, data: &Path) -> io::Result<()> {
        let path = data.join(FILE_NAME);
        if fs::read_to_string(&path).is_ok_and(|current| current == self.pem) {
            return Ok(());
        }
        fs::create_dir_all(data)?;
        let mut file = File::create(path)?;
        file.write_all(self.pem.as_bytes())?;
        file.sync_all()?;
        File::open(data)?.sync_all()
    }
}
