//! Checks that every request passes before it is routed: what HTTP leaves to the server after parsing, and the
//! [`PagePolicy`].

use axum::response::Response;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, StatusCode, Version};
use pushonce_proto::client::ErrorCode;

use super::HttpError;
use super::authority::Authority;
use super::cors;
use super::framing::FramingViolation;
use super::page_policy::{PageAccess, PagePolicy, PageRejection};

/// Why a request is rejected before it is routed. The text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestRejection {
    /// The bytes of the request are ambiguous. The connection cannot continue.
    #[error(transparent)]
    Framing(#[from] FramingViolation),
    /// `Host` is missing, or occurs more than once.
    #[error("send the header Host exactly once")]
    HostCount,
    /// `Host` is no host with an optional port.
    #[error("the header Host must be HOST or HOST:PORT")]
    HostSyntax,
    /// The target of the request is not a path.
    #[error("this server is no proxy; send the path of the URL as the request target")]
    Target,
    /// The path has a `%` without two hexadecimal digits.
    #[error("the path has a '%' that is not followed by two hexadecimal digits; write % as %25")]
    Percent,
    /// The page or the host may not use this node.
    #[error(transparent)]
    Page(#[from] PageRejection),
}

impl RequestRejection {
    /// The label of the metric.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            RequestRejection::Page(PageRejection::Origin { .. }) => "origin",
            RequestRejection::Page(PageRejection::Host { .. }) => "host",
            _ => "malformed",
        }
    }

    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            RequestRejection::Page(_) => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The response, which no page of another origin may read.
    pub(crate) fn into_response(self, policy: &PagePolicy) -> Response {
        let code = match self {
            RequestRejection::Page(_) => ErrorCode::NotAllowed,
            _ => ErrorCode::BadRequest,
        };
        let error = HttpError::new(self.status(), code.as_str(), self.to_string());
        let mut response = error.into_http_response();
        if matches!(self, RequestRejection::Framing(_)) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        cors::add_headers(response, &PageAccess::SameOrigin, policy)
    }
}

/// Checks a parsed request. `is_tls`: it came over TLS.
///
/// # Errors
/// [`RequestRejection`] for the first rule that the request breaks.
pub(crate) fn check<B>(
    request: &Request<B>,
    policy: &PagePolicy,
    is_tls: bool,
) -> Result<PageAccess, RequestRejection> {
    let host = request_host(request)?;
    check_percent_encoding(request.uri().path())?;
    Ok(policy.evaluate(host, request.headers(), is_tls)?)
}

/// The host that the request names; `None` in HTTP/1.0 without `Host`.
fn request_host<B>(request: &Request<B>) -> Result<Option<Authority<'_>>, RequestRejection> {
    let authority = request.uri().authority();
    let is_http_2 = request.version() > Version::HTTP_11;
    if authority.is_some() && !is_http_2 {
        return Err(RequestRejection::Target);
    }
    let mut lines = request.headers().get_all(HOST).iter();
    let header = lines.next();
    if lines.next().is_some() {
        return Err(RequestRejection::HostCount);
    }
    let header =
        header.map(|line| line.to_str().map_err(|_| RequestRejection::HostSyntax)).transpose()?;
    // RFC 9113, 8.3.1: both may be present, and must then agree.
    let text = match (authority.map(|authority| authority.as_str()), header) {
        (Some(authority), Some(header)) if authority != header => {
            return Err(RequestRejection::HostCount);
        }
        (Some(text), _) | (None, Some(text)) => text,
        (None, None) if request.version() < Version::HTTP_11 => return Ok(None),
        (None, None) => return Err(RequestRejection::HostCount),
    };
    Authority::parse(text).map(Some).ok_or(RequestRejection::HostSyntax)
}

fn check_percent_encoding(path: &str) -> Result<(), RequestRejection> {
    let mut parts = path.as_bytes().split(|&byte| byte == b'%');
    parts.next();
    let is_encoded =
        |part: &[u8]| matches!(part, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if parts.all(is_encoded) { Ok(()) } else { Err(RequestRejection::Percent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, target: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn host_is_required_once_and_must_be_an_authority() {
        let host_of = |version, hosts: &[&str]| {
            request_host(&request(version, "/", hosts)).map(|host| host.map(|h| h.host.to_owned()))
        };
        assert_eq!(host_of(Version::HTTP_11, &["a:1"]), Ok(Some("a".to_owned())));
        assert_eq!(host_of(Version::HTTP_10, &[]), Ok(None));
        assert_eq!(host_of(Version::HTTP_11, &[]), Err(RequestRejection::HostCount));
        assert_eq!(host_of(Version::HTTP_10, &["a", "a"]), Err(RequestRejection::HostCount));
        for host in ["", "u@a", "a/b", "a:x", "a,b"] {
            assert_eq!(host_of(Version::HTTP_11, &[host]), Err(RequestRejection::HostSyntax));
        }
    }

    #[test]
    fn absolute_target_is_a_request_to_a_proxy_in_http_1_only() {
        let target = |version, hosts: &[&str]| {
            let request = request(version, "http://a/topics/b", hosts);
            request_host(&request).map(|_| ())
        };
        assert_eq!(target(Version::HTTP_11, &["a"]), Err(RequestRejection::Target));
        assert_eq!(target(Version::HTTP_2, &[]), Ok(()));
        assert_eq!(target(Version::HTTP_2, &["a"]), Ok(()));
        assert_eq!(target(Version::HTTP_2, &["b"]), Err(RequestRejection::HostCount));
    }

    #[test]
    fn malformed_percent_encoding_in_the_path_is_rejected() {
        for path in ["/", "/a%2Fb", "/%ff%25"] {
            assert_eq!(check_percent_encoding(path), Ok(()), "{path}");
        }
        for path in ["/%", "/%4", "/%zz", "/%%41", "/a%2"] {
            assert_eq!(check_percent_encoding(path), Err(RequestRejection::Percent), "{path}");
        }
    }
}
