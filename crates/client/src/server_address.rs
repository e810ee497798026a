//! Parsing and printing of server addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The address of a server port. In text: `https://HOST:PORT`, `wss://HOST:PORT` or `quic://HOST:PORT`, and
/// `http://` or `ws://` for a port without TLS.
///
/// # Example
///
/// ```
/// use pushonce_client::{Scheme, ServerAddress};
///
/// let server: ServerAddress = "quic://[::1]:7443".parse()?;
/// assert_eq!((server.scheme, server.port), (Scheme::Quic, 7443));
/// assert_eq!(server.to_string(), "quic://[::1]:7443");
///
/// let error = "127.0.0.1:7080".parse::<ServerAddress>().expect_err("no scheme");
/// assert!(error.to_string().contains("write https://HOST:PORT"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// The protocol at the port.
    pub scheme: Scheme,
    /// DNS name or IP address; IPv6 in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The protocol at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// `http://`: HTTP, WebSocket or gRPC without TLS.
    Http,
    /// `https://`: HTTP, WebSocket or gRPC with TLS.
    Https,
    /// `ws://`: WebSocket without TLS.
    Ws,
    /// `wss://`: WebSocket with TLS.
    Wss,
    /// `quic://`: the client protocol over QUIC.
    Quic,
}

/// Text that is not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a server address: {reason}; write https://HOST:PORT, wss://HOST:PORT or quic://HOST:PORT, or \
     http:// or ws:// for a port without TLS"
)]
pub struct InvalidServerAddress {
    text: String,
    reason: &'static str,
}

impl ServerAddress {
    /// `HOST:PORT`, to resolve or to dial.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl FromStr for ServerAddress {
    type Err = InvalidServerAddress;

    fn from_str(text: &str) -> Result<ServerAddress, InvalidServerAddress> {
        let invalid = |reason| InvalidServerAddress { text: text.to_owned(), reason };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "ws" => Scheme::Ws,
            "wss" => Scheme::Wss,
            "quic" => Scheme::Quic,
            _ => return Err(invalid("the scheme is unknown")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| invalid("it has no port"))?;
        let port = port.parse().map_err(|_| invalid("the port is not a number from 0 to 65535"))?;
        if !is_host(host) {
            return Err(invalid("the host is invalid (IPv6 addresses need brackets)"));
        }
        Ok(ServerAddress { scheme, host: host.to_owned(), port })
    }
}

/// Whether `host` is a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !host.is_empty() && host.chars().all(is_allowed)
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
            Scheme::Quic => "quic",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_address_round_trips_through_its_string_form() {
        for text in [
            "http://127.0.0.1:7080",
            "https://127.0.0.1:7090",
            "ws://node-1.example:80",
            "wss://node-1.example:443",
            "quic://[::1]:7443",
        ] {
            assert_eq!(text.parse::<ServerAddress>().map(|s| s.to_string()), Ok(text.to_owned()));
        }
        assert!("http://127.0.0.1:7080/".parse::<ServerAddress>().is_ok());
    }

    #[test]
    fn invalid_address_is_rejected_with_an_explanation() {
        for text in [
            "",
            "127.0.0.1:7080",
            "ftp://a:1",
            "http://a",
            "http://:1",
            "http://a:b",
            "wss://a",
            "http://::1:80",
            "http://[::x]:80",
            "ws://a b:1",
        ] {
            let error = text.parse::<ServerAddress>().expect_err(text).to_string();
            assert!(error.contains("write https://HOST:PORT"), "{error}");
        }
    }
}
