//! Durations and sizes in human-readable form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration such as `150ms`, `2s` or `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

/// A number of bytes such as `256MiB`, `10GiB` or `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// The text is not a duration or size. The message states the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidQuantity(&'static str);

impl FromStr for HumanDuration {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<HumanDuration, InvalidQuantity> {
        let milliseconds = parse_with_unit(text, &[("ms", 1), ("s", 1_000), ("m", 60_000)]);
        let error = InvalidQuantity("expected a whole number with ms, s or m, as in 150ms");
        milliseconds.map(|ms| HumanDuration(Duration::from_millis(ms))).ok_or(error)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<ByteSize, InvalidQuantity> {
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
        let reason = "expected a whole number of bytes, KiB, MiB or GiB, as in 256MiB";
        parse_with_unit(text, &units).map(ByteSize).ok_or(InvalidQuantity(reason))
    }
}

/// Writes milliseconds, the smallest unit that is parsed.
impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

/// Writes bytes.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Parses a number with the first of these units that matches.
fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let number = |(unit, factor): &(&str, u64)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(*factor)
    };
    units.iter().find_map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_parsed_with_their_units() {
        let time = |text: &str| text.parse::<HumanDuration>().map(|time| time.0.as_millis());
        assert_eq!((time("150ms"), time("2s"), time("5m")), (Ok(150), Ok(2_000), Ok(300_000)));
        let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!((size("256MiB"), size("1 GiB"), size("7")), (Ok(256 << 20), Ok(1 << 30), Ok(7)));
    }

    #[test]
    fn missing_unit_overflow_or_non_number_is_rejected() {
        for text in ["150", "ms", "1.5s", "-2s", "20000000000000000m"] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
        for text in ["", "MiB", "1MB", "5%", "20000000000GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
