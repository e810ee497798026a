//! Which key verified a token.

use ring::{digest, hmac};

use crate::Algorithm;

/// Names a key without revealing it: sessions keep it to end when their issuer removes the key. A key id does not
/// suffice, since a stolen key may be replaced by another with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyFingerprint([u8; KeyFingerprint::BYTES]);

impl KeyFingerprint {
    /// Its length.
    pub const BYTES: usize = 16;

    /// The fingerprint of a public key, which consists of these parts.
    pub(super) fn of_public_key(algorithm: Algorithm, parts: &[&[u8]]) -> KeyFingerprint {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [&[algorithm.as_str().as_bytes()], parts].concat() {
            hash.update(&part.len().to_be_bytes());
            hash.update(part);
        }
        KeyFingerprint::truncate(hash.finish().as_ref())
    }

    /// The fingerprint of a secret: a signature by it, since a hash would help to guess a weak secret from a memory dump.
    pub(super) fn of_secret(key: &hmac::Key) -> KeyFingerprint {
        KeyFingerprint::truncate(hmac::sign(key, b"pushonce key fingerprint").as_ref())
    }

    fn truncate(hash: &[u8]) -> KeyFingerprint {
        let mut bytes = [0; KeyFingerprint::BYTES];
        bytes.iter_mut().zip(hash).for_each(|(byte, hashed)| *byte = *hashed);
        KeyFingerprint(bytes)
    }

    /// Its bytes, for another node of the cluster.
    pub fn to_bytes(self) -> [u8; KeyFingerprint::BYTES] {
        self.0
    }

    /// The fingerprint with these bytes.
    pub fn from_bytes(bytes: [u8; KeyFingerprint::BYTES]) -> KeyFingerprint {
        KeyFingerprint(bytes)
    }
}
