//! Who pays for a request: the key of limits that are counted by caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xxhash_rust::xxh3::Xxh3;

/// The caller to which a limit is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallerKey {
    /// The address, for a caller without a verified token, or whose token has no subject.
    Address(ClientAddress),
    /// The subject of a verified token.
    Subject(SubjectHash),
}

/// The 64-bit hash of a token's issuer and subject. The issuer belongs to it: two issuers may name the same
/// subject. Two subjects with the same hash share a quota, which is all that a collision does; among a million
/// active subjects the odds of one are 1 to 37 million. It identifies nobody: never decide access by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectHash(u64);

/// The address of a client as limits count it: an IPv4 address, or an IPv6 network of 64 bits. A provider gives
/// a customer at least such a network, so a single IPv6 address can be replaced at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// 127.0.0.1.
    pub const LOCALHOST: ClientAddress = ClientAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));

    /// Whether the client is 127.0.0.1 or `::1`. It is exempt from the limits of one address: a reverse proxy on
    /// this host stands for many clients.
    pub fn is_this_host(self) -> bool {
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&self.0)
    }
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> ClientAddress {
        /// The bits of the network.
        const NETWORK: u128 = !0 << 64;
        ClientAddress(match address.to_canonical() {
            IpAddr::V6(address) if address != Ipv6Addr::LOCALHOST => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK))
            }
            address => address,
        })
    }
}

/// A connection that has ended has no address, and is counted as 0.0.0.0: its responses reach nobody.
impl From<Option<IpAddr>> for ClientAddress {
    fn from(address: Option<IpAddr>) -> ClientAddress {
        address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()).into()
    }
}

impl SubjectHash {
    /// The hash of a subject of an issuer, the same on every node.
    pub fn new(issuer: &str, subject: &str) -> SubjectHash {
        let mut hasher = Xxh3::new();
        // The length separates the names: ("ab", "c") is not ("a", "bc").
        hasher.update(&(issuer.len() as u64).to_le_bytes());
        hasher.update(issuer.as_bytes());
        hasher.update(subject.as_bytes());
        SubjectHash(hasher.digest())
    }
}

impl From<IpAddr> for CallerKey {
    fn from(address: IpAddr) -> CallerKey {
        CallerKey::Address(address.into())
    }
}

impl CallerKey {
    /// Whether the limits of one caller do not apply: see [`ClientAddress::is_this_host`]. A subject is one
    /// caller wherever it connects from, so it is never exempt.
    pub fn is_exempt(self) -> bool {
        match self {
            CallerKey::Address(address) => address.is_this_host(),
            CallerKey::Subject(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ClientAddress {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        assert_eq!(address("2001:db8:1:2::3"), address("2001:db8:1:2:ffff::"));
        assert_ne!(address("2001:db8:1:2::3"), address("2001:db8:1:3::3"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn subjects_of_different_issuers_are_different_callers() {
        let hashes = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("c", "ab")]
            .map(|(issuer, subject)| SubjectHash::new(issuer, subject));
        for (nth, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..nth].contains(hash), "{hashes:?}");
            assert!(!CallerKey::Subject(*hash).is_exempt());
        }
        assert_eq!(SubjectHash::new("a", "x"), SubjectHash::new("a", "x"));
    }

    #[test]
    fn only_the_own_host_is_exempt() {
        for (text, exempt) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("::2", false),
            ("10.0.0.1", false),
        ] {
            let key = CallerKey::from(text.parse::<IpAddr>().expect("an address"));
            assert_eq!(key.is_exempt(), exempt, "{text}");
        }
    }
}
