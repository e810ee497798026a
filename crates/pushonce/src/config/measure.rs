//! Times and sizes as a person writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A time: `150ms`, `2s`, `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

/// A number of bytes: `256MiB`, `10GiB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// What is no time or size. Says how one is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMeasure(&'static str);

impl FromStr for Time {
    type Err = InvalidMeasure;

    fn from_str(text: &str) -> Result<Time, InvalidMeasure> {
        let milliseconds = scaled(text, &[("ms", 1), ("s", 1_000), ("m", 60_000)]);
        let why = InvalidMeasure("a time is a whole number with ms, s or m, as in 150ms");
        milliseconds.map(|ms| Time(Duration::from_millis(ms))).ok_or(why)
    }
}

impl FromStr for Size {
    type Err = InvalidMeasure;

    fn from_str(text: &str) -> Result<Size, InvalidMeasure> {
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
        let why = "a size is a whole number of bytes, or of KiB, MiB or GiB, as in 256MiB";
        scaled(text, &units).map(Size).ok_or(InvalidMeasure(why))
    }
}

/// In milliseconds, the smallest unit that is read.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

/// In bytes.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A number behind which the first of these units stands that fits.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
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
    fn times_and_sizes_are_read_as_they_are_written() {
        let time = |text: &str| text.parse::<Time>().map(|time| time.0.as_millis());
        assert_eq!((time("150ms"), time("2s"), time("5m")), (Ok(150), Ok(2_000), Ok(300_000)));
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!((size("256MiB"), size("1 GiB"), size("7")), (Ok(256 << 20), Ok(1 << 30), Ok(7)));
    }

    #[test]
    fn what_has_no_unit_or_overflows_or_is_no_number_is_refused() {
        for text in ["150", "ms", "1.5s", "-2s", "20000000000000000m"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        for text in ["", "MiB", "1MB", "5%", "20000000000GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
