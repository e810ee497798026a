//! The query parameters of the console's data pages.

use pushonce_core::{InvalidTopic, Topic};
use pushonce_gateway::query::{self, InvalidQuery};

use super::sample_history::SECONDS_MAX;

/// Maximum number of segments of one page of the tree of topics, and its default.
const SEGMENTS_MAX: u32 = 1_000;
const SEGMENTS_DEFAULT: u32 = 100;

/// Maximum length of a prefix: that of a topic.
const PREFIX_BYTES_MAX: usize = Topic::BYTES_MAX;

/// A page of one level of the tree of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TreeQuery {
    pub(super) prefix: String,
    pub(super) after: String,
    pub(super) limit: u32,
}

/// Why a query is invalid. Each text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidConsoleQuery {
    #[error(transparent)]
    Query(#[from] InvalidQuery),
    #[error("{name} must be a number from 1 to {max}, not {value:?}")]
    Number { name: &'static str, value: String, max: u32 },
    #[error("{value:?}: {error}")]
    Topic { value: String, error: InvalidTopic },
    #[error("name one topic: ?topic=NAME")]
    NoTopic,
    #[error("a prefix has at most {PREFIX_BYTES_MAX} bytes")]
    PrefixTooLong,
}

impl InvalidConsoleQuery {
    /// The code of the error response.
    pub(super) fn code(&self) -> &'static str {
        match self {
            InvalidConsoleQuery::Topic { .. } => "bad_topic",
            _ => "bad_request",
        }
    }
}

type Parsed<T> = Result<T, InvalidConsoleQuery>;

/// Expects no parameter.
pub(super) fn parse_none(query: Option<&str>) -> Parsed<()> {
    each(query, "this page has no parameters", |_, _| Ok(false))
}

/// `seconds`: how many seconds back; by default all that are kept.
pub(super) fn parse_seconds(query: Option<&str>) -> Parsed<u32> {
    let mut seconds = SECONDS_MAX;
    each(query, "the only parameter is seconds", |name, value| {
        Ok(name == "seconds" && set(&mut seconds, number("seconds", value, SECONDS_MAX)?))
    })?;
    Ok(seconds)
}

/// `limit`: how many rows; by default `max`.
pub(super) fn parse_limit(query: Option<&str>, max: u32) -> Parsed<u32> {
    let mut limit = max;
    each(query, "the only parameter is limit", |name, value| {
        Ok(name == "limit" && set(&mut limit, number("limit", value, max)?))
    })?;
    Ok(limit)
}

/// `topic`: the name of a topic.
pub(super) fn parse_topic(query: Option<&str>) -> Parsed<Topic> {
    let mut topic = None;
    each(query, "the only parameter is topic", |name, value| {
        let parsed = || {
            let to_error = |error| InvalidConsoleQuery::Topic { value: value.to_owned(), error };
            Topic::new(value).map_err(to_error)
        };
        Ok(name == "topic" && set(&mut topic, Some(parsed()?)))
    })?;
    topic.ok_or(InvalidConsoleQuery::NoTopic)
}

/// `prefix`, `after` (a segment) and `limit`, all of them optional.
pub(super) fn parse_tree(query: Option<&str>) -> Parsed<TreeQuery> {
    let (prefix, after) = (String::new(), String::new());
    let mut tree = TreeQuery { prefix, after, limit: SEGMENTS_DEFAULT };
    each(query, "the parameters are prefix, after and limit", |name, value| {
        Ok(match name {
            "prefix" => set(&mut tree.prefix, value.to_owned()),
            "after" => set(&mut tree.after, value.to_owned()),
            "limit" => set(&mut tree.limit, number("limit", value, SEGMENTS_MAX)?),
            _ => false,
        })
    })?;
    if tree.prefix.len() > PREFIX_BYTES_MAX || tree.after.len() > PREFIX_BYTES_MAX {
        return Err(InvalidConsoleQuery::PrefixTooLong);
    }
    Ok(tree)
}

/// Calls `accept` with each parameter. It returns whether it knows the name.
fn each(
    query: Option<&str>,
    known: &'static str,
    mut accept: impl FnMut(&str, &str) -> Parsed<bool>,
) -> Parsed<()> {
    for (name, value) in query::pairs(query.unwrap_or_default())? {
        if !accept(&name, &value)? {
            return Err(InvalidQuery::Unknown { name, known }.into());
        }
    }
    Ok(())
}

fn set<T>(place: &mut T, value: T) -> bool {
    *place = value;
    true
}

fn number(name: &'static str, value: &str, max: u32) -> Parsed<u32> {
    let parsed = value.parse().ok().filter(|number| (1..=max).contains(number));
    parsed.ok_or_else(|| InvalidConsoleQuery::Number { name, value: value.to_owned(), max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_bounded() {
        let tree = parse_tree(Some("prefix=a%2Fb&after=c&limit=7")).expect("valid");
        let expected = TreeQuery { prefix: "a/b".to_owned(), after: "c".to_owned(), limit: 7 };
        assert_eq!(tree, expected);
        assert_eq!(parse_tree(None).expect("valid").limit, SEGMENTS_DEFAULT);
        assert_eq!(parse_seconds(None), Ok(SECONDS_MAX));
        assert_eq!(parse_limit(Some("limit=3"), 5), Ok(3));
        assert_eq!(parse_topic(Some("topic=a%2Fb")).expect("valid").as_str(), "a/b");
    }

    #[test]
    fn invalid_parameters_are_refused() {
        for query in ["limit=0", "limit=1001", "limit=x", "prefix=%FF", "other=1"] {
            assert_eq!(parse_tree(Some(query)).expect_err(query).code(), "bad_request");
        }
        let long = format!("prefix={}", "a".repeat(PREFIX_BYTES_MAX + 1));
        assert_eq!(parse_tree(Some(&long)), Err(InvalidConsoleQuery::PrefixTooLong));
        assert_eq!(parse_topic(None), Err(InvalidConsoleQuery::NoTopic));
        assert_eq!(parse_topic(Some("topic=a//b")).expect_err("empty segment").code(), "bad_topic");
        assert!(parse_none(Some("a=b")).is_err());
        assert!(parse_seconds(Some("seconds=601")).is_err());
    }
}
