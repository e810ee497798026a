//! The request that opens a WebTransport session: its options, and the reasons to refuse it.

use http::StatusCode;
use pushonce_proto::client::Encoding;
use pushonce_webtransport::{RejectedRequest, SessionRequest};

use crate::http::HttpError;
use crate::http::authenticate::Credential;
use crate::http::page_gate::PageGate;
use crate::query;

/// The one path with sessions.
pub(super) const PATH: &str = "/webtransport";

/// A valid request.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) encoding: Encoding,
    /// The protocol that the response names: one of those that the request offers.
    pub(super) protocol: Option<&'static str>,
    pub(super) credential: Credential,
}

impl Opening {
    /// Checks a request.
    ///
    /// # Errors
    /// [`RejectedRequest`] for a path without sessions, a page that may not use the node, and an invalid query.
    pub(super) fn from_request(
        request: &SessionRequest,
        pages: &PageGate,
    ) -> Result<Opening, RejectedRequest> {
        if request.path != PATH {
            let text = format!("no such path; sessions are at {PATH}");
            return Err(RejectedRequest { status: StatusCode::NOT_FOUND, text });
        }
        pages.check(&request.authority, &request.headers).map_err(|rejection| RejectedRequest {
            status: rejection.status(),
            text: rejection.to_string(),
        })?;
        let query = request.query.as_deref();
        let credential = Credential::from_request(&request.headers, query).map_err(rejected)?;
        let encoding = query_encoding(query.unwrap_or_default())?;
        let offered = || request.protocols.iter().find_map(|name| Encoding::from_subprotocol(name));
        // Without a choice the frames are those of raw QUIC.
        let chosen = encoding.or_else(offered).unwrap_or(Encoding::Proto);
        let name = chosen.subprotocol();
        let protocol = request.protocols.iter().any(|offered| offered == name).then_some(name);
        Ok(Opening { encoding: chosen, protocol, credential })
    }
}

/// The response to a request whose credential is refused.
pub(super) fn rejected(error: HttpError) -> RejectedRequest {
    let (status, text) = error.into_status_and_text();
    RejectedRequest { status, text }
}

/// The encoding that the parameter `protocol` names. The credential was read before.
fn query_encoding(query: &str) -> Result<Option<Encoding>, RejectedRequest> {
    let bad_request = |text| RejectedRequest { status: StatusCode::BAD_REQUEST, text };
    let pairs = query::pairs(query).map_err(|error| bad_request(error.to_string()))?;
    let mut encoding = None;
    for (name, value) in pairs {
        match name.as_str() {
            "ticket" => {}
            "protocol" if encoding.is_some() => {
                return Err(bad_request("protocol occurs twice; send it once".to_owned()));
            }
            "protocol" => {
                encoding = Encoding::from_subprotocol(&value);
                if encoding.is_none() {
                    let [json, proto] = Encoding::ALL.map(Encoding::subprotocol);
                    let text = format!("unknown protocol; use {json} or {proto}");
                    return Err(bad_request(text));
                }
            }
            name => {
                let text = format!("unknown parameter {name:?}; use protocol and ticket");
                return Err(bad_request(text));
            }
        }
    }
    Ok(encoding)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::{AllowedOrigins, PagePolicy};

    fn request(path: &str, query: &str, protocols: &[&str]) -> SessionRequest {
        SessionRequest {
            authority: "localhost:7443".to_owned(),
            path: path.to_owned(),
            query: (!query.is_empty()).then(|| query.to_owned()),
            headers: HeaderMap::new(),
            protocols: protocols.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn open(request: &SessionRequest) -> Result<Opening, u16> {
        let listener = ([127, 0, 0, 1], 7443).into();
        let pages = PageGate::new(PagePolicy::new(AllowedOrigins::default(), listener, None));
        Opening::from_request(request, &pages).map_err(|rejected| rejected.status.as_u16())
    }

    #[test]
    fn encoding_follows_the_query_then_the_offer_and_is_protobuf_without_either() {
        let json = "pushonce.v1.json";
        for (query, protocols, encoding, protocol) in [
            ("", &[][..], Encoding::Proto, None),
            ("protocol=pushonce.v1.json", &[], Encoding::Json, None),
            ("", &["other", json], Encoding::Json, Some(json)),
            ("", &["other"], Encoding::Proto, None),
            ("protocol=pushonce.v1.proto", &[json], Encoding::Proto, None),
        ] {
            let opening = open(&request(PATH, query, protocols)).unwrap();
            assert_eq!((opening.encoding, opening.protocol), (encoding, protocol), "{query}");
        }
    }

    #[test]
    fn other_paths_and_invalid_queries_have_a_status() {
        let status = |path, query| open(&request(path, query, &[])).unwrap_err();
        assert_eq!(status("/", ""), 404);
        assert_eq!(status("/webtransport/", ""), 404);
        for query in [
            "protocol=json",
            "protocol=pushonce.v1.json&protocol=pushonce.v1.json",
            "topic=a",
            "token=a",
            "ticket=%",
            "protocol=%",
        ] {
            assert_eq!(status(PATH, query), 400, "{query}");
        }
    }

    #[test]
    fn foreign_pages_and_hosts_are_forbidden() {
        let mut foreign = request(PATH, "", &[]);
        foreign.headers.insert(http::header::ORIGIN, "https://evil.example".parse().unwrap());
        assert_eq!(open(&foreign).unwrap_err(), 403);
        let rebound =
            SessionRequest { authority: "evil.example".to_owned(), ..request(PATH, "", &[]) };
        assert_eq!(open(&rebound).unwrap_err(), 403);
    }
}
