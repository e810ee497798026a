//! Parsers of single values. An error names the accepted values; the caller adds the name of the setting.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use bytesize::ByteSize;
use pushonce_gateway::Origin;

use super::TOML_INTEGER_MAX;

/// Maximum length of a label: that of a DNS label.
const LABEL_LEN_MAX: usize = 63;

/// A label such as `eu-west.1`; may be empty.
pub(super) fn label(text: &str) -> Result<String, &'static str> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.len() > LABEL_LEN_MAX || !text.chars().all(is_allowed) {
        return Err("must have up to 63 letters, digits, '-', '_' and '.'");
    }
    Ok(text.to_owned())
}

/// A label that is not empty.
pub(super) fn name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("must not be empty") } else { label(text) }
}

/// An address to listen on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected IP:PORT, as in 127.0.0.1:7080 or [::1]:7080")
}

/// A value of a list, without the spaces around it.
pub(super) fn list_item(text: &str) -> Result<String, Infallible> {
    Ok(text.trim().to_owned())
}

/// The origin of pages, or `*` for all.
pub(super) fn origin(text: &str) -> Result<String, String> {
    match text.trim() {
        "*" => Ok("*".to_owned()),
        text => text.parse::<Origin>().map(|it| it.to_string()).map_err(|it| it.to_string()),
    }
}

/// A number of replicas.
pub(super) fn replicas(text: &str) -> Result<u8, &'static str> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("must be 1, 3 or 5: an even number tolerates no more failures"),
    }
}

/// A switch: `on` or `off`, or a boolean of TOML.
pub(crate) fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("must be on or off"),
    }
}

/// A number of bytes, as in `256MiB` or `2000000`.
pub(super) fn bytes(text: &str) -> Result<u64, &'static str> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| "expected a number of bytes, KiB, MiB, GiB or TiB, as in 256MiB or 2000000")?;
    // The library saturates on overflow.
    if size.as_u64() > TOML_INTEGER_MAX { Err("must be below 8EiB") } else { Ok(size.as_u64()) }
}

/// A parser of values from `min` to `max`.
pub(super) fn between<T>(
    min: T,
    max: T,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr<Err: Display> + Display + PartialOrd + Clone + Send + Sync + 'static,
{
    move |text| {
        let must = format!("must be {min} to {max}");
        let value: T = text.parse().map_err(|error| format!("{must}: {error}"))?;
        if (&min..=&max).contains(&&value) { Ok(value) } else { Err(must) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HumanDuration;

    #[test]
    fn sizes_are_parsed_with_their_units() {
        for (text, expected) in
            [("256MiB", 256 << 20), ("1 GiB", 1 << 30), ("2000000", 2_000_000), ("0", 0)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "MiB", "-1", "5%", "20000000000GiB", "1 mile"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn value_outside_its_range_is_rejected_with_the_range() {
        let parse = between(HumanDuration::from_secs(1), HumanDuration::from_secs(25));
        assert!(parse("1s").is_ok() && parse("25s").is_ok());
        assert_eq!(parse("26s"), Err("must be 1s to 25s".to_owned()));
        assert!(parse("999ms").is_err());
        assert!(parse("25").is_err_and(|error| error.starts_with("must be 1s to 25s: expected")));
        let parse = between(1, 16);
        assert_eq!((parse("16"), parse("17")), (Ok(16), Err("must be 1 to 16".to_owned())));
        assert!(parse("-1").is_err() && parse("x").is_err());
    }

    #[test]
    fn origin_is_normalized_and_a_url_is_rejected() {
        assert_eq!(origin(" HTTPS://Example.com:443 "), Ok("https://example.com".to_owned()));
        assert_eq!(origin("*"), Ok("*".to_owned()));
        for text in ["example.com", "https://example.com/page", "null", "https://*"] {
            assert!(origin(text).is_err_and(|error| error.contains("SCHEME://HOST")), "{text}");
        }
    }

    #[test]
    fn switch_is_on_or_off_or_a_boolean_of_toml() {
        assert_eq!((switch("on"), switch("true")), (Ok(true), Ok(true)));
        assert_eq!((switch("off"), switch("false")), (Ok(false), Ok(false)));
        assert!(switch("yes").is_err() && switch("").is_err());
    }
}
