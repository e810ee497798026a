//! Parses the query of a URL without loss.
//!
//! Common decoders replace invalid UTF-8, which would map two different topics to the same name.

/// Why a query is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuery {
    /// `%` is not followed by two hexadecimal digits.
    #[error("{0:?} in the query is not valid percent-encoding; write % as %25")]
    Percent(String),
    /// The decoded bytes are not UTF-8.
    #[error("{0:?} in the query does not decode to UTF-8; encode names as UTF-8")]
    NotUtf8(String),
    /// A parameter that this request does not support.
    #[error("unknown query parameter {name:?}; {known}")]
    Unknown {
        /// Name of the parameter.
        name: String,
        /// The supported parameters, as a clause of the message.
        known: &'static str,
    },
}

/// Decodes the name-value pairs of a query in `application/x-www-form-urlencoded`.
///
/// # Errors
/// [`InvalidQuery`] for the first name or value that cannot be decoded.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, InvalidQuery> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// Checks that the query has no parameters.
///
/// # Errors
/// [`InvalidQuery`] for the first parameter, or if the query cannot be decoded.
pub(crate) fn expect_none(query: Option<&str>) -> Result<(), InvalidQuery> {
    match pairs(query.unwrap_or_default())?.into_iter().next() {
        None => Ok(()),
        Some((name, _)) => {
            let known = "this request takes no parameters";
            Err(InvalidQuery::Unknown { name, known })
        }
    }
}

/// Decodes a name or value of a query.
pub(crate) fn decode(text: &str) -> Result<String, InvalidQuery> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut remaining = text.as_bytes();
    while let [first, more @ ..] = remaining {
        remaining = more;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let [high, low, more @ ..] = remaining else { return Err(bad_percent(text)) };
                let (high, low) = (hex_digit(*high), hex_digit(*low));
                let (Some(high), Some(low)) = (high, low) else { return Err(bad_percent(text)) };
                bytes.push(high << 4 | low);
                remaining = more;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).map_err(|_| InvalidQuery::NotUtf8(truncated(text)))
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn bad_percent(text: &str) -> InvalidQuery {
    InvalidQuery::Percent(truncated(text))
}

/// Truncates a text that an error message repeats.
fn truncated(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_one(query: &str) -> Result<(String, String), InvalidQuery> {
        pairs(query).map(|mut pairs| pairs.remove(0))
    }

    #[test]
    fn names_and_values_are_decoded_without_loss() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(parse_one("topic=a%2Fb+c"), pair("topic", "a/b c"));
        assert_eq!(parse_one("topic=%C3%A9=%3D"), pair("topic", "é=="));
        assert_eq!(parse_one("audience"), pair("audience", ""));
        assert_eq!(pairs(""), Ok(vec![]));
        assert_eq!(pairs("&a=1&&b=2").map(|pairs| pairs.len()), Ok(2));
    }

    #[test]
    fn invalid_utf8_is_rejected_instead_of_replaced() {
        assert_eq!(parse_one("topic=a%FF"), Err(InvalidQuery::NotUtf8("a%FF".to_owned())));
        for query in ["topic=%", "topic=%4", "topic=%zz", "%g0=a"] {
            assert!(matches!(parse_one(query), Err(InvalidQuery::Percent(_))), "{query}");
        }
    }

    #[test]
    fn unexpected_parameter_is_named_in_the_error() {
        assert_eq!(expect_none(None), Ok(()));
        assert_eq!(expect_none(Some("")), Ok(()));
        let error = expect_none(Some("key=a")).unwrap_err().to_string();
        assert!(error.contains("\"key\""), "{error}");
    }
}
