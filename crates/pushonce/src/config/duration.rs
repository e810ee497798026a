//! Durations in human-readable form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A duration such as `150ms`, `25s`, `5m` or `1h 30m`, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// The longest duration that is accepted: ten years. No clock overflows when it is added.
const DURATION_MAX: Duration = Duration::from_secs(3_650 * 86_400);

impl HumanDuration {
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> HumanDuration {
        HumanDuration(Duration::from_secs(seconds))
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<HumanDuration, String> {
        let duration = humantime::parse_duration(text).map_err(|_| {
            "expected a number with ms, s, m, h or d, as in 150ms or 1h 30m".to_owned()
        })?;
        if duration > DURATION_MAX {
            return Err("must be at most 3650d".to_owned());
        }
        // Consensus times are exchanged in milliseconds.
        if !duration.subsec_nanos().is_multiple_of(1_000_000) {
            return Err("must be a whole number of milliseconds".to_owned());
        }
        Ok(HumanDuration(duration))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parses a duration above zero.
///
/// # Errors
/// When the text is not a duration above zero; the error names the accepted forms.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let HumanDuration(duration) = text.parse()?;
    if duration.is_zero() { Err("must be above 0".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_with_their_units() {
        for (text, millis) in [
            ("150ms", 150),
            ("25s", 25_000),
            ("1.5m", 90_000),
            ("1h 30m", 5_400_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!("0s".parse(), Ok(HumanDuration(Duration::ZERO)));
    }

    #[test]
    fn missing_unit_overflow_or_non_number_is_rejected() {
        for text in ["", "150", "ms", "-2s", "1parsec", "nans", "0.5ms", "0s", "3651d"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse("18446744073709551615y").is_err());
    }

    #[test]
    fn formatted_durations_parse_back_to_the_same_value() {
        for millis in [0, 1, 1_500, 90_000, 90_000_000, 604_800_000] {
            let duration = HumanDuration(Duration::from_millis(millis));
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
