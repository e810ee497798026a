//! `GET /ws`: the handshake, and the subscription that the request asks for.

use axum::body::Body;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, Request, Response};
use pushonce_auth::{AccessControl, AccessError, Caller};
use pushonce_core::{AccessToken, InvalidDelivery, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client::{self, ClientCommand, Encoding, ErrorCode, InvalidFrame};
use pushonce_websocket::{Handshake, HandshakeError, HandshakeOptions};

use crate::http::HttpError;
use crate::http::authenticate::{Credential, RemoteIp, is_token_parameter};
use crate::query;

/// The prefix of a subprotocol that carries a token: browsers can send no header with a WebSocket. The server
/// never selects it, so that the token is in no response.
const TOKEN_SUBPROTOCOL: &str = "pushonce.token.";

/// A valid request.
#[derive(Debug)]
pub(crate) struct UpgradeRequest {
    handshake: Handshake,
    /// From the header or the query.
    credential: Credential,
    /// The caller, once the credential was verified.
    pub(super) caller: Option<Caller>,
    /// Why the ticket of the query was refused. As an invalid query, it is rejected in the session.
    pub(super) refused_ticket: Option<AccessError>,
    /// From a subprotocol: the session verifies it before its first request.
    pub(super) token: Option<AccessToken>,
    /// `?topic=…&from=…`: subscribes at once. `from` is `now` (default), `start`, `last:N`, or a
    /// position. An invalid query is rejected in the session: a browser hides the response of a failed
    /// handshake from its page, and the page would reconnect forever.
    pub(super) subscribe: Result<Option<client::ClientRequest>, InvalidFrame>,
    /// The session returns every message instead of interpreting it.
    #[cfg(feature = "echo")]
    pub(super) is_echo: bool,
}

impl UpgradeRequest {
    /// Checks a request to `/ws`. `compression`: whether permessage-deflate may be negotiated.
    ///
    /// # Errors
    /// The response to an invalid handshake.
    pub(crate) fn from_request<B>(
        request: &Request<B>,
        compression: bool,
    ) -> Result<UpgradeRequest, Box<Response<Body>>> {
        let subprotocols = Encoding::ALL.map(Encoding::subprotocol);
        let options =
            HandshakeOptions { subprotocols: &subprotocols, permessage_deflate: compression };
        let handshake = Handshake::from_request(request, options);
        let handshake = handshake.map_err(|error| Box::new(error_response(&error)))?;
        let query = request.uri().query().unwrap_or_default();
        let token = token_subprotocol(request.headers());
        // A token in the query is refused as any other unknown parameter, in the session.
        let has_query_token = query.split('&').any(is_token_parameter);
        let known_query = if has_query_token { None } else { request.uri().query() };
        let credential = Credential::from_request(request.headers(), known_query)
            .and_then(|credential| match (&credential, &token) {
                (Credential::None, _) | (_, None) => Ok(credential),
                _ => Err(HttpError::from_code(
                    ErrorCode::BadRequest,
                    "send one token: in the header, as a subprotocol, or as a ticket".to_owned(),
                )),
            })
            .map_err(|error| Box::new(error.into_http_response()))?;
        let subscribe = query::pairs(query)
            .map_err(|error| (ErrorCode::BadRequest, error.to_string()))
            .and_then(|pairs| parse_subscription(&pairs))
            .map_err(|(code, text)| InvalidFrame::new(code, text));
        Ok(UpgradeRequest {
            handshake,
            credential,
            caller: None,
            refused_ticket: None,
            token,
            subscribe,
            #[cfg(feature = "echo")]
            is_echo: request.uri().path() == super::echo::PATH,
        })
    }

    /// Whether [`UpgradeRequest::authenticate`] has something to verify.
    pub(crate) fn has_credential(&self) -> bool {
        !matches!(self.credential, Credential::None)
    }

    /// Verifies the credential.
    ///
    /// # Errors
    /// [`AccessError`] for a token in the header: its client reads the response, which a browser, the client of
    /// a ticket, does not.
    pub(crate) async fn authenticate(
        mut self,
        access: &AccessControl,
        address: RemoteIp,
    ) -> Result<UpgradeRequest, AccessError> {
        let credential = std::mem::replace(&mut self.credential, Credential::None);
        let is_ticket = matches!(credential, Credential::Ticket(_));
        match credential.authenticate(access, address).await {
            Ok(caller) => self.caller = caller.token().is_some().then_some(caller),
            Err(error) if is_ticket => self.refused_ticket = Some(error),
            Err(error) => return Err(error),
        }
        Ok(self)
    }

    pub(crate) fn response(&self) -> Response<Body> {
        self.handshake.response().map(|()| Body::empty())
    }

    /// JSON unless the client asked for another encoding.
    pub(super) fn encoding(&self) -> Encoding {
        let subprotocol = self.handshake.subprotocol();
        subprotocol.and_then(Encoding::from_subprotocol).unwrap_or(Encoding::Json)
    }

    /// Whether messages may be compressed.
    pub(super) fn has_deflate(&self) -> bool {
        self.handshake.permessage_deflate()
    }
}

fn error_response(error: &HandshakeError) -> Response<Body> {
    let code = ErrorCode::BadRequest.as_str();
    let mut response = HttpError::new(error.status(), code, error.to_string()).into_http_response();
    if let Some((name, value)) = error.required_header() {
        response.headers_mut().insert(name, value);
    }
    response
}

/// The token of `Sec-WebSocket-Protocol: pushonce.token.TOKEN, pushonce.v1.json`.
fn token_subprotocol(headers: &HeaderMap) -> Option<AccessToken> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let names = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    let token = names.filter_map(|name| name.trim().strip_prefix(TOKEN_SUBPROTOCOL)).next()?;
    Some(AccessToken::new(token))
}

type QueryRejection = (ErrorCode, String);

fn parse_subscription(
    pairs: &[(String, String)],
) -> Result<Option<client::ClientRequest>, QueryRejection> {
    let (mut topic, mut from, mut delivery, mut ticket) = (None, None, None, None);
    for (name, value) in pairs {
        let slot = match name.as_str() {
            "topic" => &mut topic,
            "from" => &mut from,
            "delivery" => &mut delivery,
            "ticket" => &mut ticket,
            _ if is_token_parameter(name) => {
                let text = "a token in the query ends up in logs; send it as the subprotocol \
                            pushonce.token.TOKEN, in the first frame, or get a ticket with POST /tickets";
                return Err((ErrorCode::BadRequest, text.to_owned()));
            }
            _ => {
                let text = format!("unknown parameter {name:?}; use topic, from and delivery");
                return Err((ErrorCode::UnknownField, text));
            }
        };
        if slot.replace(value.as_str()).is_some() {
            let text =
                format!("{name} occurs twice; send a subscribe frame for each further topic");
            return Err((ErrorCode::BadRequest, text));
        }
    }
    let from = from.map(parse_from).transpose()?.unwrap_or_default();
    let delivery = delivery.map(str::parse).transpose();
    let delivery = delivery.map_err(|error| delivery_rejection(&error))?;
    let topic = topic.map(Topic::new).transpose();
    let topic = topic.map_err(|invalid| (ErrorCode::BadTopic, invalid.to_string()))?;
    Ok(topic.map(|topic| {
        let options = SubscribeOptions { delivery, ..SubscribeOptions::default() };
        let command = ClientCommand::Subscribe { topic, from, options };
        client::ClientRequest { id: None, command }
    }))
}

fn delivery_rejection(error: &InvalidDelivery) -> QueryRejection {
    (ErrorCode::BadRequest, error.to_string())
}

fn parse_from(text: &str) -> Result<StartFrom, QueryRejection> {
    if let Some(count) = text.strip_prefix("last:") {
        let rejection =
            |_| (ErrorCode::BadPosition, format!("invalid from={text}; use last:N, as in last:5"));
        return count.parse().map(StartFrom::Last).map_err(rejection);
    }
    match text {
        "now" => Ok(StartFrom::Now),
        "start" => Ok(StartFrom::Start),
        position => position.parse().map(StartFrom::Position).map_err(|_| {
            let text = format!(
                "invalid from={text}; use now, start, last:N or a position such as 12:4051"
            );
            (ErrorCode::BadPosition, text)
        }),
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use pushonce_core::Position;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Option<client::ClientRequest>, QueryRejection> {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        parse_subscription(&pairs)
    }

    fn parsed_from(text: &str) -> StartFrom {
        match parse(&[("topic", "a"), ("from", text)]).unwrap().unwrap().command {
            ClientCommand::Subscribe { from, .. } => from,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn encoding_follows_the_subprotocol_and_is_json_without_one() {
        let request = |subprotocol: Option<&str>| {
            let mut request = Request::get("/ws")
                .header("Connection", "Upgrade")
                .header("Upgrade", "websocket")
                .header("Sec-WebSocket-Version", "13")
                .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
            if let Some(name) = subprotocol {
                request = request.header("Sec-WebSocket-Protocol", name);
            }
            request.body(()).unwrap()
        };
        let encoding = |subprotocol| {
            UpgradeRequest::from_request(&request(subprotocol), true).unwrap().encoding()
        };
        assert_eq!(encoding(None), Encoding::Json);
        for expected in Encoding::ALL {
            assert_eq!(encoding(Some(expected.subprotocol())), expected);
        }
    }

    #[test]
    fn query_subscribes_from_each_kind_of_start() {
        assert_eq!(parsed_from("now"), StartFrom::Now);
        assert_eq!(parsed_from("start"), StartFrom::Start);
        assert_eq!(parsed_from("last:3"), StartFrom::Last(3));
        assert_eq!(parsed_from("12:4051"), StartFrom::Position(Position::new(12, 4051)));
        assert!(parse(&[]).unwrap().is_none());
    }

    #[test]
    fn wrong_query_is_rejected_with_its_error_code() {
        let code = |pairs: &[(&str, &str)]| parse(pairs).unwrap_err().0;
        assert_eq!(code(&[("topic", "a//b")]), ErrorCode::BadTopic);
        assert_eq!(code(&[("topic", "a"), ("from", "last:x")]), ErrorCode::BadPosition);
        assert_eq!(code(&[("topic", "a"), ("from", "later")]), ErrorCode::BadPosition);
        assert_eq!(code(&[("topics", "a")]), ErrorCode::UnknownField);
        assert_eq!(code(&[("topic", "a"), ("delivery", "rate:0")]), ErrorCode::BadRequest);
        assert_eq!(code(&[("topic", "a"), ("topic", "b")]), ErrorCode::BadRequest);
    }
}
