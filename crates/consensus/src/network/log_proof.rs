//! Proves that a node itself reported a number of commits.
//!
//! A node signs each counter that it sends with a key that only its own store holds, and its peers return the counter
//! with the signature. So no peer can claim that this node has forgotten commits that it never made. A copy of the
//! store has the key as well: an older copy recognises what later states of the store reported.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use ring::hmac;

/// Length of a secret and of a proof, in bytes.
const BYTES: usize = 32;

/// The key of a node's store. No `Debug`.
#[derive(Clone)]
pub(crate) struct LogKey(Arc<hmac::Key>);

/// The signature of a counter: HMAC-SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WritesProof([u8; BYTES]);

impl LogKey {
    /// A secret for a new store.
    pub(crate) fn draw_secret() -> [u8; BYTES] {
        rand::random()
    }

    pub(crate) fn new(secret: &[u8]) -> LogKey {
        LogKey(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Signs the counter of a process.
    pub(super) fn sign(&self, instance_id: u64, writes: u64) -> WritesProof {
        let tag = hmac::sign(&self.0, &signed_bytes(instance_id, writes));
        let mut proof = [0; BYTES];
        proof.copy_from_slice(tag.as_ref());
        WritesProof(proof)
    }

    /// Whether this key signed the counter of a process.
    pub(super) fn verify(&self, instance_id: u64, writes: u64, proof: WritesProof) -> bool {
        hmac::verify(&self.0, &signed_bytes(instance_id, writes), &proof.0).is_ok()
    }
}

fn signed_bytes(instance_id: u64, writes: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&instance_id.to_be_bytes());
    bytes[8..].copy_from_slice(&writes.to_be_bytes());
    bytes
}

impl WritesProof {
    /// The form in a frame. A frame of a peer without a key has none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<WritesProof> {
        bytes.try_into().ok().map(WritesProof)
    }

    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

/// The form in the metadata.
impl fmt::Display for WritesProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for WritesProof {
    type Err = ();

    fn from_str(text: &str) -> Result<WritesProof, ()> {
        if text.len() != 2 * BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        let mut proof = [0; BYTES];
        for (index, byte) in proof.iter_mut().enumerate() {
            let digits = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ())?;
        }
        Ok(WritesProof(proof))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_counter_of_the_signing_key_is_verified() {
        let (key, other) = (LogKey::new(&[1; 32]), LogKey::new(&[2; 32]));
        let proof = key.sign(7, 50);
        assert!(key.verify(7, 50, proof));
        assert!(!key.verify(7, 51, proof) && !key.verify(8, 50, proof));
        assert!(!other.verify(7, 50, proof));
    }

    #[test]
    fn proof_round_trips() {
        let proof = LogKey::new(&[1; 32]).sign(7, 50);
        assert_eq!(proof.to_string().parse(), Ok(proof));
        assert_eq!(WritesProof::from_bytes(&proof.into_bytes()), Some(proof));
        for bad in ["", "00", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(bad.parse::<WritesProof>(), Err(()), "{bad:?}");
        }
        assert_eq!(WritesProof::from_bytes(&[0; 31]), None);
    }
}
