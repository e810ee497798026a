//! The origins of pages, and the list of those that may use the node.

use std::fmt;
use std::str::FromStr;

use super::authority::Authority;

/// The origin of a page (RFC 6454), written as browsers write it in the header `Origin`: in lower case, without
/// the default port of the scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Text that is not an [`Origin`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the origin of a page; write SCHEME://HOST or SCHEME://HOST:PORT without a path, as in \
     https://www.example.com, with the host in ASCII (punycode)"
)]
pub struct InvalidOrigin(String);

/// The origins of other hosts whose pages may use the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Pages of every origin, and pages without one, such as local files.
    Any,
    /// Pages of these origins.
    Listed(Vec<Origin>),
}

impl Origin {
    /// The origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, without the port.
    pub(crate) fn host(&self) -> &str {
        let authority = self.0.split_once("://").and_then(|(_, text)| Authority::parse(text));
        authority.map_or("", |authority| authority.host)
    }
}

/// The port that an origin of this scheme has without naming it.
pub(crate) fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Origin, InvalidOrigin> {
        let invalid = || InvalidOrigin(text.chars().take(300).collect());
        let lower = text.to_ascii_lowercase();
        let (scheme, authority) = lower.split_once("://").ok_or_else(invalid)?;
        let is_scheme_byte = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        if !is_scheme || !scheme.bytes().all(is_scheme_byte) {
            return Err(invalid());
        }
        let Authority { host, port } = Authority::parse(authority).ok_or_else(invalid)?;
        Ok(Origin(match port.filter(|&port| Some(port) != default_port(scheme)) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AllowedOrigins {
    /// Parses the items of a list: origins, or `*` for every origin.
    ///
    /// # Errors
    /// [`InvalidOrigin`] for the first item that is neither.
    pub fn parse<'a>(
        items: impl IntoIterator<Item = &'a str>,
    ) -> Result<AllowedOrigins, InvalidOrigin> {
        let mut origins = Vec::new();
        let mut is_any = false;
        for item in items {
            match item {
                "*" => is_any = true,
                item => origins.push(item.parse()?),
            }
        }
        Ok(if is_any { AllowedOrigins::Any } else { AllowedOrigins::Listed(origins) })
    }

    /// Whether pages of this origin may use the node. `origin` is the header of a request.
    pub(crate) fn contains(&self, origin: &str) -> bool {
        match self {
            AllowedOrigins::Any => true,
            AllowedOrigins::Listed(origins) => origins.iter().any(|known| known.0 == origin),
        }
    }
}

impl Default for AllowedOrigins {
    /// No other origin: only the pages of the node itself.
    fn default() -> AllowedOrigins {
        AllowedOrigins::Listed(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_written_as_browsers_write_it() {
        for (text, expected) in [
            ("https://www.example.com", "https://www.example.com"),
            ("HTTPS://Example.com:443", "https://example.com"),
            ("http://a:80", "http://a"),
            ("http://a:8080", "http://a:8080"),
            ("https://a:80", "https://a:80"),
            ("http://[::1]:7080", "http://[::1]:7080"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(
                text.parse::<Origin>().map(|origin| origin.to_string()),
                Ok(expected.to_owned())
            );
        }
        let origin: Origin = "http://[::1]:7080".parse().unwrap();
        assert_eq!(origin.host(), "[::1]");
    }

    #[test]
    fn text_that_no_browser_sends_as_origin_is_rejected() {
        for text in [
            "",
            "null",
            "example.com",
            "https://",
            "https://a/",
            "https://a/b",
            "https://a?b",
            "https://u@a",
            "https://*.example.com",
            "https://köln.example",
            "://a",
            "1://a",
            "https://a b",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_listed_origins_are_allowed_unless_all_are() {
        let listed = AllowedOrigins::parse(["https://a", "http://b:1"]).unwrap();
        for (origin, is_allowed) in [
            ("https://a", true),
            ("http://b:1", true),
            ("http://a", false),
            ("https://a:8443", false),
            ("https://a.evil.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(listed.contains(origin), is_allowed, "{origin}");
            assert!(!AllowedOrigins::default().contains(origin));
        }
        assert!(AllowedOrigins::parse(["https://a", "*"]).unwrap().contains("null"));
        assert!(AllowedOrigins::parse(["a"]).is_err());
    }
}
