//! Durations in human-readable form.

use std::time::Duration;

/// The units, the longest first, with their milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses a duration: a number and `ms`, `s`, `m`, `h` or `d`, above zero and at most ten years.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("expected a number with ms, s, m, h or d, as in 10s, not {text:?}");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = UNITS.iter().find(|(unit, _)| *unit == &text[digits.len()..]);
    let (&(_, unit_millis), number) = unit.zip(digits.parse::<f64>().ok()).ok_or_else(invalid)?;
    Duration::try_from_secs_f64(number * unit_millis as f64 / 1_000.0)
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= DURATION_MAX)
        .ok_or_else(|| "must be above 0 and at most 3650d".to_owned())
}

/// The longest duration that is accepted: ten years.
const DURATION_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// Formats milliseconds in the largest unit that divides them.
pub(super) fn format(millis: u64) -> String {
    let exact_unit = UNITS.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit));
    exact_unit
        .map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in [
            ("10s", 10_000),
            ("250ms", 250),
            ("1.5m", 90_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "0s", "1y", "nans", "infs", "99999d"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn formatted_durations_parse_back_to_the_same_value() {
        for text in ["7d", "25h", "90m", "1s", "1500ms", "0ms"] {
            let millis = parse(text).map_or(0, |duration| duration.as_millis() as u64);
            assert_eq!(format(millis), text);
        }
    }
}
