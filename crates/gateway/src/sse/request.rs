//! The request for an event stream: its topics, and where each begins.

use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use pushonce_core::{Delivery, StartFrom, Topic};
use pushonce_proto::client::ErrorCode;

use super::positions::StreamPositions;
use crate::http::HttpError;
use crate::query;

/// The path of a stream of several topics.
const PATH: &str = "/sse";

/// The path of a stream of one topic.
const TOPIC_PATH: &str = "/topics/";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Maximum number of topics of a stream: the id of an event has a position for each.
const TOPICS_MAX: usize = 16;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventStreamRequest {
    /// The topics, each with its start.
    pub(super) topics: Vec<(Topic, StartFrom)>,
    /// Whether events have payloads, and not the frames of a JSON session.
    pub(super) has_payloads: bool,
    pub(super) delivery: Option<Delivery>,
    /// Whether the client asked for padding at the begin of the stream.
    pub(super) is_padded: bool,
}

/// Whether a request asks for an event stream.
pub(crate) fn is_event_stream(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let accepts = || {
        let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(',')).any(|item| {
            let essence = item.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("text/event-stream")
        })
    };
    method == Method::GET && (uri.path() == PATH || uri.path().starts_with(TOPIC_PATH) && accepts())
}

/// The parameters of the query.
#[derive(Default)]
struct Parameters {
    topics: Vec<String>,
    from: Option<String>,
    last_event_id: Option<String>,
    delivery: Option<String>,
    is_padded: bool,
}

impl EventStreamRequest {
    /// Parses a request.
    ///
    /// # Errors
    /// 400 for a parameter or header that is not valid.
    pub(super) fn parse(uri: &Uri, headers: &HeaderMap) -> Result<EventStreamRequest, HttpError> {
        let mut parameters = Parameters::parse(uri.query().unwrap_or_default())?;
        let has_payloads = uri.path() != PATH;
        if has_payloads {
            if !parameters.topics.is_empty() {
                return Err(bad_request("the topic is the path; use /sse for several".to_owned()));
            }
            parameters.topics.push(topic_of_path(uri.path())?);
        }
        let topics = parse_topics(&parameters.topics)?;
        let starts = parameters.starts(headers, topics.len())?;
        let delivery = parameters.delivery.as_deref().map(str::parse).transpose();
        Ok(EventStreamRequest {
            topics: topics.into_iter().zip(starts).collect(),
            has_payloads,
            delivery: delivery
                .map_err(|error: pushonce_core::InvalidDelivery| bad_request(error.to_string()))?,
            is_padded: parameters.is_padded,
        })
    }
}

impl Parameters {
    fn parse(query: &str) -> Result<Parameters, HttpError> {
        let mut parameters = Parameters::default();
        for (name, value) in query::pairs(query)? {
            let slot = match name.as_str() {
                "topic" => {
                    parameters.topics.push(value);
                    continue;
                }
                // Read by the authentication.
                "ticket" => continue,
                "pad" => {
                    parameters.is_padded = true;
                    continue;
                }
                "from" => &mut parameters.from,
                "last_event_id" => &mut parameters.last_event_id,
                "delivery" => &mut parameters.delivery,
                _ => {
                    let text = format!(
                        "unknown parameter {name:?}; use from, last_event_id, delivery, pad and, at /sse, topic"
                    );
                    return Err(bad_request(text));
                }
            };
            if slot.replace(value).is_some() {
                return Err(bad_request(format!("{name} occurs twice; send it once")));
            }
        }
        Ok(parameters)
    }

    /// Where each topic begins: the header wins, since a browser sends it with the URL of the first request.
    fn starts(&self, headers: &HeaderMap, topics: usize) -> Result<Vec<StartFrom>, HttpError> {
        let from = self.from.as_deref().unwrap_or("now");
        let header = headers.get(LAST_EVENT_ID);
        let header = header.map(|value| value.to_str().map_err(|_| bad_position("Last-Event-ID")));
        let last_id = header.transpose()?.or(self.last_event_id.as_deref());
        match last_id.filter(|id| !id.is_empty()) {
            Some(id) => parse_starts(id, Some(from), topics),
            None => parse_starts(from, None, topics),
        }
    }
}

/// Parses one word for all topics, or a position for each. A topic without a position begins at `fallback`.
fn parse_starts(
    text: &str,
    fallback: Option<&str>,
    topics: usize,
) -> Result<Vec<StartFrom>, HttpError> {
    if let Some(start) = parse_word(text) {
        return Ok(vec![start; topics]);
    }
    let positions = StreamPositions::parse(text, topics).ok_or_else(|| bad_position(text))?;
    let mut fallbacks = None;
    (0..topics)
        .map(|topic| match (positions.get(topic), fallback) {
            (Some(position), _) => Ok(StartFrom::Position(position)),
            (None, None) => Err(bad_position(text)),
            (None, Some(fallback)) => {
                if fallbacks.is_none() {
                    fallbacks = Some(parse_starts(fallback, None, topics)?);
                }
                fallbacks
                    .as_ref()
                    .and_then(|starts| starts.get(topic).copied())
                    .ok_or_else(|| bad_position(fallback))
            }
        })
        .collect()
}

fn parse_word(text: &str) -> Option<StartFrom> {
    match text {
        "now" => Some(StartFrom::Now),
        "start" | "earliest" => Some(StartFrom::Start),
        _ => {
            let count = text.strip_prefix("last:").or(text.strip_prefix("last="))?;
            count.parse().ok().map(StartFrom::Last)
        }
    }
}

fn parse_topics(names: &[String]) -> Result<Vec<Topic>, HttpError> {
    if names.len() > TOPICS_MAX {
        let text = format!("a stream has at most {TOPICS_MAX} topics; use a WebSocket for more");
        return Err(bad_request(text));
    }
    let mut topics = Vec::with_capacity(names.len());
    for name in names {
        let topic = Topic::new(name).map_err(|invalid| bad_topic(invalid.to_string()))?;
        if topics.contains(&topic) {
            return Err(bad_request(format!("the topic {name:?} occurs twice; send it once")));
        }
        topics.push(topic);
    }
    match topics.is_empty() {
        true => Err(bad_request("name the topics, as in /sse?topic=a&topic=b".to_owned())),
        false => Ok(topics),
    }
}

/// The name of the topic in a path. `+` in a path is no space.
fn topic_of_path(path: &str) -> Result<String, HttpError> {
    let name = path.strip_prefix(TOPIC_PATH).unwrap_or_default().replace('+', "%2B");
    query::decode(&name).map_err(|error| bad_topic(error.to_string()))
}

fn bad_position(text: &str) -> HttpError {
    let text = format!(
        "invalid position {text:?}; use now, start, last:N, a position such as 12:4051, or one for each topic"
    );
    HttpError::from_code(ErrorCode::BadPosition, text)
}

fn bad_topic(text: String) -> HttpError {
    HttpError::from_code(ErrorCode::BadTopic, text)
}

fn bad_request(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use pushonce_core::Position;

    use super::*;

    fn starts(uri: &str, last_event_id: Option<&'static str>) -> Option<Vec<StartFrom>> {
        let mut headers = HeaderMap::new();
        if let Some(id) = last_event_id {
            headers.insert(LAST_EVENT_ID, HeaderValue::from_static(id));
        }
        let request = EventStreamRequest::parse(&uri.parse().expect("a URI"), &headers).ok()?;
        Some(request.topics.into_iter().map(|(_, start)| start).collect())
    }

    fn at(offset: u64) -> StartFrom {
        StartFrom::Position(Position::new(12, offset))
    }

    #[test]
    fn last_event_id_wins_over_the_query() {
        for (uri, header, expected) in [
            ("/topics/a", None, StartFrom::Now),
            ("/topics/a?from=start", None, StartFrom::Start),
            ("/topics/a?from=earliest", None, StartFrom::Start),
            ("/topics/a?from=last:3", None, StartFrom::Last(3)),
            ("/topics/a?from=last=3", None, StartFrom::Last(3)),
            ("/topics/a?from=12:4", None, at(4)),
            ("/topics/a?from=start&last_event_id=12:5", None, at(5)),
            ("/topics/a?from=start&last_event_id=12:5", Some("12:6"), at(6)),
            ("/topics/a?from=start", Some(""), StartFrom::Start),
            ("/topics/a", Some("earliest"), StartFrom::Start),
        ] {
            assert_eq!(starts(uri, header), Some(vec![expected]), "{uri} {header:?}");
        }
    }

    #[test]
    fn stream_of_several_topics_begins_at_a_position_for_each() {
        let two = "/sse?topic=a&topic=b%2Fc";
        assert_eq!(starts(two, None), Some(vec![StartFrom::Now; 2]));
        assert_eq!(starts(two, Some("12:1,12:2")), Some(vec![at(1), at(2)]));
        let from_start = format!("{two}&from=start");
        assert_eq!(starts(&from_start, Some("12:1,-")), Some(vec![at(1), StartFrom::Start]));
        let from_positions = format!("{two}&from=12:3,12:4");
        assert_eq!(starts(&from_positions, Some("12:9,-")), Some(vec![at(9), at(4)]));
        assert_eq!(starts(two, Some("12:1")), None, "one position for two topics");
    }

    #[test]
    fn invalid_requests_are_rejected() {
        let many: String = (0..17).map(|n| format!("topic=t{n}&")).collect();
        for uri in [
            "/sse".to_owned(),
            "/sse?topic=a&topic=a".to_owned(),
            format!("/sse?{many}"),
            "/topics/a?topic=b".to_owned(),
            "/topics/a//b".to_owned(),
            "/topics/a%FF".to_owned(),
            "/topics/a?from=later".to_owned(),
            "/topics/a?from=-".to_owned(),
            "/topics/a?from=now&from=start".to_owned(),
            "/topics/a?delivery=rate:0".to_owned(),
            "/topics/a?last=3".to_owned(),
        ] {
            assert_eq!(starts(&uri, None), None, "{uri}");
        }
    }

    #[test]
    fn event_stream_is_asked_for_by_path_or_by_accept() {
        let asks = |method: Method, uri: &str, accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            is_event_stream(&method, &uri.parse().expect("a URI"), &headers)
        };
        assert!(asks(Method::GET, "/topics/a", "text/event-stream"));
        assert!(asks(Method::GET, "/topics/a", "text/html, Text/Event-Stream;q=0.9"));
        assert!(asks(Method::GET, "/sse?topic=a", "*/*"));
        assert!(!asks(Method::GET, "/topics/a", "*/*"));
        assert!(!asks(Method::POST, "/topics/a", "text/event-stream"));
        assert!(!asks(Method::GET, "/metrics", "text/event-stream"));
    }
}
