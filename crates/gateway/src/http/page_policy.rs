//! Which pages may use the node: decided from the headers `Origin` and `Host` alone.
//!
//! A browser sends the requests of any page to any address, also to a node on the loopback address of the
//! visitor, and lets the page read the response only if the server agrees. But a request that publishes has its
//! effect before the page reads anything, and CORS does not apply to WebSockets at all. Therefore a request
//! whose `Origin` is neither the node itself nor listed is rejected, whatever it asks for.
//!
//! A page can also become "the node itself": its DNS name first resolves to the server of the page and then to
//! the loopback address of the visitor (DNS rebinding). Its `Host` is still that name, so a listener on a
//! loopback address accepts only names that belong to this machine or that an operator has named.
//!
//! Programs other than browsers send no `Origin`. For them, tokens decide, which pages of other origins do not
//! have; no cookie is ever read.

use std::net::{IpAddr, SocketAddr};

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue};

use super::authority::Authority;
use super::origin::{AllowedOrigins, default_port};

/// Decides which pages may use the listeners of a node.
#[derive(Clone, Debug)]
pub struct PagePolicy {
    origins: AllowedOrigins,
    /// The names in `Host` that are accepted besides those of the loopback interface; `None` when every name
    /// is.
    hosts: Option<Vec<String>>,
    /// The scheme and the port of other listeners of the node: pages that come from them are its own.
    own_pages: Vec<(&'static str, u16)>,
}

/// Why a request is rejected. The text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PageRejection {
    /// The page has another origin, which is not listed.
    #[error(
        "pages of the origin {origin:?} may not use this node; add the origin to --origins to allow them"
    )]
    Origin {
        /// The header, truncated.
        origin: String,
    },
    /// The listener is on a loopback address and the name is not known.
    #[error(
        "this node is on a loopback address and is not known as {host:?}; use localhost, or name the host with \
         --advertise or its origin with --origins"
    )]
    Host {
        /// The host of the request.
        host: String,
    },
}

/// What an admitted request may do with its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageAccess {
    /// The request is from the node's own page or from no page: no other page may read the response.
    SameOrigin,
    /// The page has this origin and may read the response.
    Listed(HeaderValue),
    /// Any page may read the response.
    Any,
}

impl PagePolicy {
    /// The policy of a listener. `advertise`: the host under which others know the node.
    pub fn new(
        origins: AllowedOrigins,
        listener: SocketAddr,
        advertise: Option<&str>,
    ) -> PagePolicy {
        let hosts = match &origins {
            AllowedOrigins::Listed(listed) if listener.ip().is_loopback() => {
                let of_origins = listed.iter().map(|origin| origin.host());
                Some(of_origins.chain(advertise).map(str::to_owned).collect())
            }
            _ => None,
        };
        PagePolicy { origins, hosts, own_pages: Vec::new() }
    }

    /// Also admits the pages that other listeners of the node serve, each with its scheme and port: WebTransport has
    /// a port of its own, which serves no pages.
    pub(crate) fn with_own_pages(self, own_pages: Vec<(&'static str, u16)>) -> PagePolicy {
        PagePolicy { own_pages, ..self }
    }

    /// Decides on a request. `host` is its `Host` or `:authority`; `is_tls`: it came over TLS.
    ///
    /// # Errors
    /// [`PageRejection`] for a page of a foreign origin, and for a host name that may be rebound.
    pub(crate) fn evaluate(
        &self,
        host: Option<Authority<'_>>,
        headers: &HeaderMap,
        is_tls: bool,
    ) -> Result<PageAccess, PageRejection> {
        if let (Some(known), Some(Authority { host, .. })) = (&self.hosts, host)
            && !is_loopback_name(host)
            && !known.iter().any(|name| name.eq_ignore_ascii_case(host))
        {
            return Err(PageRejection::Host { host: truncated(host.as_bytes()) });
        }
        if self.origins == AllowedOrigins::Any {
            return Ok(PageAccess::Any);
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(PageAccess::SameOrigin) };
        let text = origin.to_str().ok().filter(|_| origins.next().is_none());
        match text {
            Some(text) if host.is_some_and(|host| self.is_own(text, host, is_tls)) => {
                Ok(PageAccess::SameOrigin)
            }
            Some(text) if self.origins.contains(text) => Ok(PageAccess::Listed(origin.clone())),
            _ => Err(PageRejection::Origin { origin: truncated(origin.as_bytes()) }),
        }
    }

    fn is_own(&self, origin: &str, host: Authority<'_>, is_tls: bool) -> bool {
        let own_pages = || self.own_pages.iter();
        is_same_origin(origin, host, is_tls)
            || own_pages().any(|(scheme, port)| is_page_of(origin, host.host, scheme, *port))
    }

    /// Whether the response depends on the origin of the request, which caches must know.
    pub(crate) fn varies_by_origin(&self) -> bool {
        self.origins != AllowedOrigins::Any
    }
}

/// Whether the page is served under the host of the request. Over TLS the page must be of the scheme `https`;
/// otherwise a proxy in front of the node may have TLS, so both schemes are accepted.
fn is_same_origin(origin: &str, host: Authority<'_>, is_tls: bool) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let Some(page) = Authority::parse(authority) else { return false };
    let is_expected_scheme = scheme == "https" || scheme == "http" && !is_tls;
    let with_default = |port: Option<u16>| port.or(default_port(scheme));
    is_expected_scheme
        && page.host.eq_ignore_ascii_case(host.host)
        && with_default(page.port) == with_default(host.port)
}

/// Whether the page is served by this host with this scheme and port.
fn is_page_of(origin: &str, host: &str, scheme: &str, port: u16) -> bool {
    let Some((page_scheme, authority)) = origin.split_once("://") else { return false };
    let Some(page) = Authority::parse(authority) else { return false };
    page_scheme == scheme
        && page.host.eq_ignore_ascii_case(host)
        && page.port.or(default_port(page_scheme)) == Some(port)
}

/// Whether no DNS server outside of this machine can answer for the name.
fn is_loopback_name(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    // RFC 6761, 6.3: `localhost` and all names below it resolve to loopback addresses.
    let name = host.to_ascii_lowercase();
    address.is_ok_and(|address| address.is_loopback())
        || name == "localhost"
        || name.ends_with(".localhost")
}

/// Bounds a text that an error message repeats.
fn truncated(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(128)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:7080";

    fn policy(origins: &[&str], listener: &str) -> PagePolicy {
        let origins = AllowedOrigins::parse(origins.iter().copied()).unwrap();
        PagePolicy::new(origins, listener.parse().unwrap(), Some("node.example"))
    }

    fn evaluate(
        policy: &PagePolicy,
        host: &str,
        origin: &[&str],
    ) -> Result<PageAccess, PageRejection> {
        let mut headers = HeaderMap::new();
        for text in origin {
            headers.append(ORIGIN, HeaderValue::from_str(text).unwrap());
        }
        policy.evaluate(Some(Authority::parse(host).unwrap()), &headers, false)
    }

    #[test]
    fn pages_of_other_listeners_of_the_node_are_its_own() {
        let own = vec![("http", 7080), ("https", 7443)];
        let policy = policy(&[], "127.0.0.1:7443").with_own_pages(own);
        let evaluate = |origin| evaluate(&policy, "127.0.0.1:7443", &[origin]);
        for own in ["http://127.0.0.1:7080", "https://127.0.0.1:7443"] {
            assert_eq!(evaluate(own), Ok(PageAccess::SameOrigin), "{own}");
        }
        for foreign in ["https://127.0.0.1:7080", "http://127.0.0.1:7081", "http://localhost:7080"]
        {
            assert!(evaluate(foreign).is_err(), "{foreign}");
        }
    }

    #[test]
    fn page_of_another_origin_is_rejected_unless_it_is_listed() {
        let policy = policy(&["https://www.example.com"], LOOPBACK);
        let listed = HeaderValue::from_static("https://www.example.com");
        assert_eq!(evaluate(&policy, LOOPBACK, &[]), Ok(PageAccess::SameOrigin), "no browser");
        assert_eq!(
            evaluate(&policy, LOOPBACK, &["http://127.0.0.1:7080"]),
            Ok(PageAccess::SameOrigin)
        );
        let access = evaluate(&policy, LOOPBACK, &["https://www.example.com"]);
        assert_eq!(access, Ok(PageAccess::Listed(listed)));
        for origin in [
            "http://evil.example",
            "http://127.0.0.1:8080",
            "http://127.0.0.1",
            "http://localhost:7080",
            "https://www.example.com:8443",
            "http://www.example.com",
            "null",
            "",
        ] {
            let rejection = evaluate(&policy, LOOPBACK, &[origin]).unwrap_err();
            assert_eq!(rejection, PageRejection::Origin { origin: origin.to_owned() });
            assert!(rejection.to_string().contains("--origins"));
        }
        let twice = ["https://www.example.com", "http://evil.example"];
        assert!(evaluate(&policy, LOOPBACK, &twice).is_err());
    }

    #[test]
    fn any_origin_is_accepted_if_all_are_allowed() {
        for origin in ["http://evil.example", "null"] {
            let access = evaluate(&policy(&["*"], LOOPBACK), "rebound.example", &[origin]);
            assert_eq!(access, Ok(PageAccess::Any));
        }
    }

    #[test]
    fn loopback_listener_accepts_only_names_that_cannot_be_rebound() {
        let loopback = policy(&["https://www.example.com"], LOOPBACK);
        for host in [
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:7080",
            "localhost",
            "LOCALHOST:7080",
            "a.localhost",
            "node.example",
            "Node.Example:7080",
            "www.example.com",
        ] {
            assert_eq!(evaluate(&loopback, host, &[]), Ok(PageAccess::SameOrigin), "{host}");
        }
        for host in
            ["rebound.example", "10.0.0.1", "localhost.evil.example", "xlocalhost", "[fe80::1]"]
        {
            let rejection = evaluate(&loopback, host, &[]).unwrap_err();
            assert!(rejection.to_string().contains("--advertise"), "{rejection}");
            // A rebound page has the origin of its name.
            assert!(evaluate(&loopback, host, &[&format!("http://{host}")]).is_err());
        }
        assert!(evaluate(&policy(&[], "0.0.0.0:7080"), "any.example", &[]).is_ok());
    }

    #[test]
    fn same_origin_follows_default_ports_and_the_scheme_of_the_connection() {
        let same =
            |origin, host, is_tls| is_same_origin(origin, Authority::parse(host).unwrap(), is_tls);
        for (origin, host) in [
            ("https://a", "a"),
            ("https://a", "a:443"),
            ("https://a", "A"),
            ("https://a:8443", "a:8443"),
        ] {
            assert!(same(origin, host, true) && same(origin, host, false), "{origin} {host}");
        }
        assert!(same("http://a", "a:80", false));
        assert!(!same("http://a:443", "a:443", true), "a page without TLS on a listener with it");
        for (origin, host) in
            [("https://a", "a:80"), ("https://a", "b"), ("ftp://a", "a"), ("a", "a")]
        {
            assert!(!same(origin, host, false), "{origin} {host}");
        }
    }
}
