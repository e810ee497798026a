//! `GET /ws`: the handshake, and the subscription that the request asks for.

use axum::body::Body;
use http::{Request, Response};
use pushonce_core::{InvalidDelivery, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client::{self, ClientCommand, Encoding, ErrorCode, InvalidFrame};
use pushonce_websocket::{Handshake, HandshakeError, HandshakeOptions};

use crate::http::HttpError;
use crate::query;

/// A valid request.
#[derive(Debug)]
pub(crate) struct UpgradeRequest {
    handshake: Handshake,
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
        let subscribe = query::pairs(query)
            .map_err(|error| (ErrorCode::BadRequest, error.to_string()))
            .and_then(|pairs| parse_subscription(&pairs))
            .map_err(|(code, text)| InvalidFrame::new(code, text));
        Ok(UpgradeRequest {
            handshake,
            subscribe,
            #[cfg(feature = "echo")]
            is_echo: request.uri().path() == super::echo::PATH,
        })
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

type QueryRejection = (ErrorCode, String);

fn parse_subscription(
    pairs: &[(String, String)],
) -> Result<Option<client::ClientRequest>, QueryRejection> {
    let (mut topic, mut from, mut delivery) = (None, None, None);
    for (name, value) in pairs {
        let slot = match name.as_str() {
            "topic" => &mut topic,
            "from" => &mut from,
            "delivery" => &mut delivery,
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
