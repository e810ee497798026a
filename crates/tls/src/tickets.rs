//! [`TicketCipher`]: session tickets that every node of a cluster can decrypt.

use std::fmt;

use arc_swap::ArcSwap;
use pushonce_core::{TicketKey, TicketKeys};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::error::Unspecified;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;

/// Identifies the key of a ticket.
const KEY_NAME_BYTES: usize = 16;
const HEADER_BYTES: usize = KEY_NAME_BYTES + NONCE_LEN;

/// Longer than a ticket of this server: a session holds some hundred bytes.
const TICKET_BYTES_MAX: usize = 4 << 10;

/// Encrypts session tickets. A client then resumes its session at any node that has the keys, without a signature
/// of the server, and the server stores nothing.
///
/// A ticket is the name of its key, a random nonce, and the session encrypted with AES-256-GCM. The nonces of a key
/// are distinct with overwhelming probability: a cluster with 100,000 handshakes a second issues 2³² tickets in the
/// twelve hours of a key, for which the probability of a repeated nonce is 2⁻³³.
pub struct TicketCipher {
    keys: ArcSwap<Vec<NamedKey>>,
    random: SystemRandom,
}

/// The cryptography library failed. It says no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encrypt session tickets; check that the system provides random numbers")]
pub struct TicketCipherError;

struct NamedKey {
    name: [u8; KEY_NAME_BYTES],
    key: LessSafeKey,
}

impl TicketCipher {
    /// A cipher with a random key, for the time before the node knows the keys of its cluster.
    ///
    /// # Errors
    /// When the system provides no randomness.
    pub fn new() -> Result<TicketCipher, TicketCipherError> {
        TicketCipher::try_new().map_err(|_| TicketCipherError)
    }

    fn try_new() -> Result<TicketCipher, Unspecified> {
        let random = SystemRandom::new();
        let mut secret = [0; 32];
        random.fill(&mut secret)?;
        let keys = vec![NamedKey::new(&TicketKey(secret))?];
        Ok(TicketCipher { keys: ArcSwap::from_pointee(keys), random })
    }

    /// Replaces the keys. The current one encrypts, both decrypt.
    ///
    /// # Errors
    /// Never with keys of 32 bytes.
    pub fn set_keys(&self, keys: &TicketKeys) -> Result<(), TicketCipherError> {
        let keys = [&keys.current].into_iter().chain(&keys.previous);
        let keys = keys.map(NamedKey::new).collect::<Result<Vec<_>, _>>();
        self.keys.store(keys.map_err(|_| TicketCipherError)?.into());
        Ok(())
    }

    fn try_encrypt(&self, plain: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let keys = self.keys.load();
        let NamedKey { name, key } = keys.first().ok_or(Unspecified)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce)?;
        let mut sealed = plain.to_vec();
        let nonce_value = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_value, Aad::from(name), &mut sealed)?;
        Ok([&name[..], &nonce, &sealed].concat())
    }

    fn try_decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (header, sealed) = ticket.split_at_checked(HEADER_BYTES)?;
        let (name, nonce) = header.split_at_checked(KEY_NAME_BYTES)?;
        let keys = self.keys.load();
        let NamedKey { key, .. } = keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let len = key.open_in_place(nonce, Aad::from(name), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

impl NamedKey {
    fn new(TicketKey(secret): &TicketKey) -> Result<NamedKey, Unspecified> {
        // The name reveals nothing about the key: it is a part of its hash.
        let hash = digest(&SHA256, &[b"pushonce ticket key name", &secret[..]].concat());
        let mut name = [0; KEY_NAME_BYTES];
        name.copy_from_slice(hash.as_ref().get(..KEY_NAME_BYTES).ok_or(Unspecified)?);
        Ok(NamedKey { name, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret)?) })
    }
}

impl ProducesTickets for TicketCipher {
    fn enabled(&self) -> bool {
        true
    }

    /// In seconds.
    fn lifetime(&self) -> u32 {
        u32::try_from(TicketKeys::ROTATION_INTERVAL.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.try_encrypt(plain).ok()
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.try_decrypt(ticket)
    }
}

impl fmt::Debug for TicketCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketCipher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::Timestamp;

    use super::*;

    fn keys(current: u8, previous: Option<u8>) -> TicketKeys {
        let key = |byte| TicketKey([byte; 32]);
        TicketKeys { current: key(current), previous: previous.map(key), rotated_at: Timestamp(0) }
    }

    fn cipher(keys: &TicketKeys) -> TicketCipher {
        let cipher = TicketCipher::new().unwrap();
        cipher.set_keys(keys).unwrap();
        cipher
    }

    #[test]
    fn ticket_is_decrypted_at_every_node_that_has_its_key() {
        let ticket = cipher(&keys(1, None)).encrypt(b"session").unwrap();
        for known in [keys(1, None), keys(2, Some(1))] {
            assert_eq!(cipher(&known).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        }
        for unknown in [keys(2, None), keys(3, Some(2))] {
            assert_eq!(cipher(&unknown).decrypt(&ticket), None);
        }
        assert_eq!(TicketCipher::new().unwrap().decrypt(&ticket), None);
    }

    #[test]
    fn changed_or_cut_ticket_is_rejected() {
        let cipher = cipher(&keys(1, None));
        let ticket = cipher.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(cipher.decrypt(&changed), None, "byte {at}");
            assert_eq!(cipher.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        assert_eq!(cipher.decrypt(&vec![0; TICKET_BYTES_MAX + 1]), None);
    }

    #[test]
    fn equal_sessions_have_different_tickets() {
        let cipher = cipher(&keys(1, None));
        assert_ne!(cipher.encrypt(b"session"), cipher.encrypt(b"session"));
    }

    #[test]
    fn debug_output_contains_no_key() {
        let output = format!("{:?}", cipher(&keys(171, None)));
        assert!(!output.contains("171") && !output.to_lowercase().contains("ab"), "{output}");
    }
}
