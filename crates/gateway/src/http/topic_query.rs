//! The query of `GET /topics/{topic}`.

use std::time::Duration;

use http::StatusCode;
use pushonce_core::Position;
use pushonce_proto::client::ErrorCode;

use super::HttpError;
use crate::query;

/// The `limit` of a request without one.
const LIMIT_DEFAULT: u32 = 100;

/// The largest `limit`: the default length of a history.
pub(super) const LIMIT_MAX: u32 = 1_000;

/// How long a long poll waits at most, in seconds: below the 30 s after which many proxies give up.
const WAIT_SECONDS_MAX: u64 = 25;

/// What a request reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopicQuery {
    /// The newest message.
    Newest,
    /// The newest messages as an array.
    Last(u32),
    /// The number of subscribers.
    Audience,
    /// A page of history.
    Page(PageQuery),
}

/// A page of history: the oldest messages after a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageQuery {
    pub(super) after: Position,
    /// Maximum number of messages.
    pub(super) limit: u32,
    /// How long to wait for the first message, if there is none yet.
    pub(super) wait: Option<Duration>,
}

impl TopicQuery {
    /// Parses the query of a URL.
    ///
    /// # Errors
    /// 400 for a parameter that is unknown, occurs twice, has an invalid value or does not fit the others.
    pub(super) fn parse(query: &str) -> Result<TopicQuery, HttpError> {
        let pairs = query::pairs(query)?;
        let value = |name: &str| {
            let mut values = pairs.iter().filter(|(other, _)| other == name);
            let first = values.next().map(|(_, value)| value.as_str());
            match values.next() {
                Some(_) => Err(bad_request(format!("{name} occurs twice; send it once"))),
                None => Ok(first),
            }
        };
        let only = |names: &[&str]| pairs.iter().all(|(name, _)| names.contains(&name.as_str()));
        if pairs.is_empty() {
            Ok(TopicQuery::Newest)
        } else if let Some(text) = value("audience")? {
            match (text, only(&["audience"])) {
                ("" | "true", true) => Ok(TopicQuery::Audience),
                _ => Err(bad_request("audience takes no value and no other parameters".to_owned())),
            }
        } else if let (Some(after), true) =
            (value("after")?, only(&["after", "limit", "live", "timeout"]))
        {
            let (limit, live, timeout) = (value("limit")?, value("live")?, value("timeout")?);
            PageQuery::parse(after, limit, live, timeout).map(TopicQuery::Page)
        } else if let (Some(count), true) = (value("last")?, only(&["last"])) {
            match count.parse() {
                Ok(count @ 1..) => Ok(TopicQuery::Last(count)),
                _ => Err(bad_request(format!("last must be a number from 1 up, not {count:?}"))),
            }
        } else {
            let known = "?last=N, ?after=POSITION&limit=N, with live=long-poll and timeout=SECONDS, or ?audience";
            Err(bad_request(format!("invalid query {query:?}; use {known}")))
        }
    }
}

impl PageQuery {
    fn parse(
        after: &str,
        limit: Option<&str>,
        live: Option<&str>,
        timeout: Option<&str>,
    ) -> Result<PageQuery, HttpError> {
        let after = after.parse().map_err(|_| {
            let text = format!("after must be a position such as 12:4051, not {after:?}");
            HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadPosition.as_str(), text)
        })?;
        let limit = match limit.map(str::parse) {
            None => LIMIT_DEFAULT,
            Some(Ok(limit @ 1..=LIMIT_MAX)) => limit,
            Some(_) => {
                return Err(bad_request(format!("limit must be a number from 1 to {LIMIT_MAX}")));
            }
        };
        let wait = match (live, timeout.map(str::parse)) {
            (None, None) => None,
            (None, Some(_)) => {
                return Err(bad_request("timeout needs live=long-poll".to_owned()));
            }
            (Some("long-poll"), None) => Some(WAIT_SECONDS_MAX),
            (Some("long-poll"), Some(Ok(seconds @ 1..=WAIT_SECONDS_MAX))) => Some(seconds),
            (Some("long-poll"), Some(_)) => {
                let text = format!("timeout must be a number from 1 to {WAIT_SECONDS_MAX}");
                return Err(bad_request(text));
            }
            (Some(other), _) => {
                return Err(bad_request(format!("live must be long-poll, not {other:?}")));
            }
        };
        Ok(PageQuery { after, limit, wait: wait.map(Duration::from_secs) })
    }
}

fn bad_request(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: u32, seconds: Option<u64>) -> Option<TopicQuery> {
        let wait = seconds.map(Duration::from_secs);
        Some(TopicQuery::Page(PageQuery { after: Position::new(12, 4), limit, wait }))
    }

    #[test]
    fn each_form_of_the_query_is_parsed() {
        for (query, expected) in [
            ("", Some(TopicQuery::Newest)),
            ("audience", Some(TopicQuery::Audience)),
            ("last=3", Some(TopicQuery::Last(3))),
            ("after=12:4", page(100, None)),
            ("limit=7&after=12:4", page(7, None)),
            ("after=12:4&live=long-poll", page(100, Some(25))),
            ("after=12:4&live=long-poll&timeout=3", page(100, Some(3))),
        ] {
            assert_eq!(TopicQuery::parse(query).ok(), expected, "{query}");
        }
    }

    #[test]
    fn unknown_repeated_and_contradicting_parameters_are_rejected() {
        for query in [
            "limit=3",
            "last=0",
            "last=1&limit=1",
            "last=1&after=12:4",
            "after=12",
            "after=12:4&after=12:5",
            "after=12:4&limit=0",
            "after=12:4&limit=1001",
            "after=12:4&live=sse",
            "after=12:4&timeout=3",
            "after=12:4&live=long-poll&timeout=26",
            "after=12:4&live=long-poll&timeout=0",
            "audience&after=12:4",
            "newest",
        ] {
            assert!(TopicQuery::parse(query).is_err(), "{query}");
        }
    }
}
