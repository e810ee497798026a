//! `HOST` or `HOST:PORT` as in the header `Host` and in an origin.

/// A host with an optional port, as written by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// A DNS name, an IPv4 address, or an IPv6 address in brackets.
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
}

/// The longest accepted text, in bytes: a DNS name and a port.
const BYTES_MAX: usize = 253 + 6;

impl<'a> Authority<'a> {
    /// Parses a text; `None` when it is empty, too long, or has user information or other characters that no
    /// host has.
    pub(crate) fn parse(text: &'a str) -> Option<Authority<'a>> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let (host, port) = match text.rsplit_once(':') {
            // The colons of an IPv6 address are before the bracket.
            Some((host, port)) if !port.ends_with(']') => (host, Some(parse_port(port)?)),
            _ => (text, None),
        };
        is_host(host).then_some(Authority { host, port })
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_separated() {
        for (text, host, port) in [
            ("localhost", "localhost", None),
            ("127.0.0.1:7080", "127.0.0.1", Some(7080)),
            ("[::1]", "[::1]", None),
            ("[::1]:7080", "[::1]", Some(7080)),
            ("a_b.Example", "a_b.Example", None),
        ] {
            assert_eq!(Authority::parse(text), Some(Authority { host, port }));
        }
    }

    #[test]
    fn text_that_is_no_authority_is_rejected() {
        let long = "a".repeat(300);
        for text in [
            "", ":80", "a:", "a:b", "a:+1", "a:65536", "a:1:2", "u@a", "a b", "a/b", "a?b", "[a]",
            "[::1", "::1", "ü", "a\u{0}", &long,
        ] {
            assert_eq!(Authority::parse(text), None, "{text:?}");
        }
    }
}
