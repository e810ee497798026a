//! `HOST:PORT` addresses of nodes: one parser for settings, joins and dialling.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address that can be dialled: an IPv4 address, an IPv6 address in brackets or a DNS name, then a port
/// from 1 to 65535.
///
/// Every value is a valid URI authority, so `http://{address}` always parses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Text that is not a [`HostPort`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not HOST:PORT; use a DNS name, an IPv4 address or an IPv6 address in brackets, \
     and a port from 1"
)]
pub struct InvalidHostPort {
    text: String,
}

impl HostPort {
    /// The longest DNS name, in bytes.
    pub const HOST_BYTES_MAX: usize = 253;

    /// The host; an IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, from 1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<HostPort, InvalidHostPort> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let port = if is_number { port.parse().ok() } else { None }.filter(|&port| port > 0)?;
            is_host(host).then(|| HostPort { host: host.to_owned(), port })
        });
        // The quoted text is bounded because it may come from a peer.
        let quoted = || text.chars().take(HostPort::HOST_BYTES_MAX + 6).collect();
        parsed.ok_or_else(|| InvalidHostPort { text: quoted() })
    }
}

fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    // Text of digits and dots looks like an address, and a resolver may interpret it as a different one.
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return text.parse::<Ipv4Addr>().is_ok();
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= HostPort::HOST_BYTES_MAX && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&label.len()) && label.bytes().all(is_allowed) && !label.starts_with('-')
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_accepted_and_printed_as_written() {
        for text in ["127.0.0.1:1", "[::1]:7091", "a:65535", "n-1.eu_west.example.:7091"] {
            assert_eq!(text.parse::<HostPort>().map(|it| it.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn text_that_cannot_be_dialled_is_rejected() {
        let long = format!("{}:1", "a.".repeat(130));
        for text in [
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:2",
            "::1:7091",
            "[::1:7091",
            "[a]:1",
            "a b:1",
            "a/b:1",
            "u@a:1",
            "a%:1",
            "a..b:1",
            "-a:1",
            "1.2.3:1",
            "256.1.1.1:1",
            "http://a:1",
            "a\n:1",
            "ü:1",
            "[]:1",
            &long,
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text:?}");
        }
    }
}
