//! The certificate that all nodes of a rig show: off loopback a client takes only one that it knows,
//! and a subscriber that turns from node to node knows one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use pushonce_client::CertificateTrust;
use pushonce_quic::certificate::{FILE_NAME, load_or_generate};

/// A development certificate with its key.
pub(super) struct TestCertificate {
    pem: String,
    sha256: [u8; 32],
}

impl TestCertificate {
    /// Makes one, in a directory of its own.
    pub(super) fn new(dir: &Path) -> Result<TestCertificate, String> {
        let certificate =
            load_or_generate(dir, SystemTime::now()).map_err(|error| error.to_string())?;
        let pem = fs::read_to_string(dir.join(FILE_NAME))
            .map_err(|error| format!("{FILE_NAME}: {error}"))?;
        let hex = certificate.fingerprint().sha256;
        let mut sha256 = [0; 32];
        for (i, byte) in sha256.iter_mut().enumerate() {
            let digits = hex.get(2 * i..2 * i + 2).ok_or("a fingerprint is 64 digits")?;
            *byte = u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
        }
        Ok(TestCertificate { pem, sha256 })
    }

    /// What a client is to trust.
    pub(super) fn trust(&self) -> CertificateTrust {
        CertificateTrust::Fingerprint(self.sha256)
    }

    /// Gives it to a node, so that it is there after a power cut as well.
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
