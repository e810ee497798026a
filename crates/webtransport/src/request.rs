//! The request that opens a session.

use http::{HeaderMap, StatusCode};
use web_transport_proto::{ConnectError, ConnectRequest, Frame, VarInt};

use crate::error::ConnectionError;

/// The longest encoded header fields of a request, and the longest decoded ones (RFC 9114, 4.2.2). The limit of
/// `web-transport-proto`, which the SETTINGS announce.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;

/// A request for a WebTransport session.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// The host and port that the client connected to.
    pub authority: String,
    /// The path.
    pub path: String,
    /// The query, without its `?`.
    pub query: Option<String>,
    /// The header fields. Of a field that occurs twice, the last.
    pub headers: HeaderMap,
    /// The application protocols that the client offers (`WT-Available-Protocols`), best first.
    pub protocols: Vec<String>,
}

/// A request that opens no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRequest {
    /// The status of the response.
    pub status: StatusCode,
    /// What is wrong, for a person.
    pub text: String,
}

/// Decodes the content of a HEADERS frame.
///
/// # Errors
/// [`ConnectionError`] when the header fields cannot be decoded at all. A request that is not for a session is a
/// [`RejectedRequest`] inside the result.
pub(crate) fn decode(
    content: &[u8],
) -> Result<Result<SessionRequest, RejectedRequest>, ConnectionError> {
    let mut frame = Vec::with_capacity(content.len() + VarInt::MAX_SIZE + 1);
    Frame::HEADERS.encode(&mut frame);
    let len = VarInt::try_from(content.len()).map_err(|_| ConnectionError::ExcessiveLoad)?;
    len.encode(&mut frame);
    frame.extend_from_slice(content);
    match ConnectRequest::decode(&mut &frame[..]) {
        Ok(request) => Ok(Ok(SessionRequest {
            authority: request.url.authority().to_owned(),
            path: request.url.path().to_owned(),
            query: request.url.query().map(str::to_owned),
            headers: request.headers,
            protocols: request.protocols,
        })),
        Err(ConnectError::QpackError(_) | ConnectError::UnexpectedEnd) => {
            Err(ConnectionError::QpackDecompression)
        }
        Err(error) => Ok(Err(reject(&error))),
    }
}

fn reject(error: &ConnectError) -> RejectedRequest {
    let (status, text) = match error {
        ConnectError::WrongMethod(_) => (
            StatusCode::METHOD_NOT_ALLOWED,
            "this port serves WebTransport sessions (CONNECT) and raw QUIC; HTTP requests go to the port of HTTP"
                .to_owned(),
        ),
        ConnectError::WrongProtocol(_) => (
            StatusCode::NOT_IMPLEMENTED,
            "the pseudo-header :protocol must be webtransport".to_owned(),
        ),
        ConnectError::FieldSectionTooLarge => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the header fields exceed {REQUEST_BYTES_MAX} bytes"),
        ),
        error => (StatusCode::BAD_REQUEST, error.to_string()),
    };
    RejectedRequest { status, text }
}
