//! `GET /ws`: what the request asks for, before there is a session.

use axum::body::Body;
use http::{Request, Response};
use pushonce_core::{From, InvalidDelivery, Options, Topic};
use pushonce_proto::client::{self, Command, Encoding, ErrorCode, InvalidFrame};

use super::handshake::Handshake;
use crate::query;

/// A request that was found good.
#[derive(Debug)]
pub(crate) struct Opening {
    handshake: Handshake,
    /// `?topic=…&from=…`: subscribes at once. `from` is `now` (default), `start`, `last:N`, or a
    /// position. A query that is wrong is refused in the session: a browser shows its page nothing of a
    /// refused handshake, and pages take that for a reason to connect again.
    pub(super) subscribe: Result<Option<client::Request>, InvalidFrame>,
}

impl Opening {
    /// Checks a request to `/ws`; the error is the answer. `compression`: whether an offer to deflate
    /// may be taken.
    ///
    /// # Errors
    /// What to change, as HTTP says it.
    pub(crate) fn read<B>(
        request: &Request<B>,
        compression: bool,
    ) -> Result<Opening, Box<Response<Body>>> {
        let handshake = Handshake::read(request, compression);
        let handshake = handshake.map_err(|refused| Box::new(refused.answer()))?;
        let query = request.uri().query().unwrap_or_default();
        let subscribe = query::pairs(query)
            .map_err(|why| (ErrorCode::BadRequest, why.to_string()))
            .and_then(|pairs| subscription(&pairs))
            .map_err(|(code, text)| InvalidFrame::new(code, text));
        Ok(Opening { handshake, subscribe })
    }

    pub(crate) fn answer(&self) -> Response<Body> {
        self.handshake.answer()
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.handshake.encoding
    }

    /// Whether messages may be deflated.
    pub(super) fn deflate(&self) -> bool {
        self.handshake.deflate.is_some()
    }
}

type Bad = (ErrorCode, String);

fn subscription(pairs: &[(String, String)]) -> Result<Option<client::Request>, Bad> {
    let (mut topic, mut from, mut delivery) = (None, None, None);
    for (name, value) in pairs {
        let place = match name.as_str() {
            "topic" => &mut topic,
            "from" => &mut from,
            "delivery" => &mut delivery,
            _ => {
                let text = format!("{name:?} is not known here; only topic, from and delivery are");
                return Err((ErrorCode::UnknownField, text));
            }
        };
        if place.replace(value.as_str()).is_some() {
            let text = format!("{name} is there twice; subscribe to more with a subscribe frame");
            return Err((ErrorCode::BadRequest, text));
        }
    }
    let from = from.map(begin).transpose()?.unwrap_or_default();
    let delivery = delivery.map(str::parse).transpose();
    let delivery = delivery.map_err(|why| bad_delivery(&why))?;
    let topic = topic.map(Topic::new).transpose();
    let topic = topic.map_err(|invalid| (ErrorCode::BadTopic, invalid.to_string()))?;
    Ok(topic.map(|topic| {
        let options = Options { delivery, ..Options::default() };
        let command = Command::Subscribe { topic, from, options };
        client::Request { id: None, command }
    }))
}

fn bad_delivery(why: &InvalidDelivery) -> Bad {
    (ErrorCode::BadRequest, why.to_string())
}

fn begin(text: &str) -> Result<From, Bad> {
    if let Some(count) = text.strip_prefix("last:") {
        let bad = |_| (ErrorCode::BadPosition, "write from=last:5 for the newest five".to_owned());
        return count.parse().map(From::Last).map_err(bad);
    }
    match text {
        "now" => Ok(From::Now),
        "start" => Ok(From::Start),
        position => position.parse().map(From::Position).map_err(|_| {
            let text = "from is now, start, last:N, or a position such as 12:4051";
            (ErrorCode::BadPosition, text.to_owned())
        }),
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::Position;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<client::Request>, Bad> {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        subscription(&pairs)
    }

    fn from(text: &str) -> From {
        match read(&[("topic", "a"), ("from", text)]).unwrap().unwrap().command {
            Command::Subscribe { from, .. } => from,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_query_subscribes_from_each_kind_of_beginning() {
        assert_eq!(from("now"), From::Now);
        assert_eq!(from("start"), From::Start);
        assert_eq!(from("last:3"), From::Last(3));
        assert_eq!(from("12:4051"), From::Position(Position::new(12, 4051)));
        assert!(read(&[]).unwrap().is_none());
    }

    #[test]
    fn a_query_that_is_wrong_is_refused_by_what_is_wrong() {
        let code = |pairs: &[(&str, &str)]| read(pairs).unwrap_err().0;
        assert_eq!(code(&[("topic", "a//b")]), ErrorCode::BadTopic);
        assert_eq!(code(&[("topic", "a"), ("from", "last:x")]), ErrorCode::BadPosition);
        assert_eq!(code(&[("topic", "a"), ("from", "later")]), ErrorCode::BadPosition);
        assert_eq!(code(&[("topics", "a")]), ErrorCode::UnknownField);
        assert_eq!(code(&[("topic", "a"), ("delivery", "rate:0")]), ErrorCode::BadRequest);
        assert_eq!(code(&[("topic", "a"), ("topic", "b")]), ErrorCode::BadRequest);
    }
}
