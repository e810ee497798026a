//! The certificate that all nodes of a rig show: off loopback a client takes only one that it knows,
//! and a subscriber that turns from node to node knows one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use pushonce_client::Trust;
use pushonce_gateway::certificate::{FILE, load_or_make};

/// A development certificate with its key.
pub(super) struct Certificate {
    pem: String,
    sha256: [u8; 32],
}

impl Certificate {
    /// Makes one, in a directory of its own.
    pub(super) fn new(home: &Path) -> Result<Certificate, String> {
        let made = load_or_make(home, SystemTime::now()).map_err(|why| why.to_string())?;
        let pem = fs::read_to_string(home.join(FILE)).map_err(|why| format!("{FILE}: {why}"))?;
        let hex = made.fingerprint().sha256;
        let mut sha256 = [0; 32];
        for (i, byte) in sha256.iter_mut().enumerate() {
            let digits = hex.get(2 * i..2 * i + 2).ok_or("a fingerprint is 64 digits")?;
            *byte = u8::from_str_radix(digits, 16).map_err(|why| why.to_string())?;
        }
        Ok(Certificate { pem, sha256 })
    }

    /// What a client is to trust.
    pub(super) fn trust(&self) -> Trust {
        Trust::Fingerprint(self.sha256)
    }

    /// Gives it to a node, so that it is there after a power cut as well.
    pub(super) fn put(&self, data: &Path) -> io::Result<()> {
        let path = data.join(FILE);
        if fs::read_to_string(&path).is_ok_and(|there| there == self.pem) {
            return Ok(());
        }
        fs::create_dir_all(data)?;
        let mut file = File::create(path)?;
        file.write_all(self.pem.as_bytes())?;
        file.sync_all()?;
        File::open(data)?.sync_all()
    }
}
