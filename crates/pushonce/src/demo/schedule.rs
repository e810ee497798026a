//! When each event of the tournament is shown: five weeks in five minutes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Event;

/// How long the whole tournament takes at speed 1.
pub const WHOLE: Duration = Duration::from_secs(300);

/// No pause counts for more minutes than this: nights and days of rest are skipped, and breaks are
/// short, so that something moves all the time.
const PAUSE_MINUTES_MAX: u64 = 6;

/// How fast to replay: 1 takes five minutes, 2 half of that. 0.01 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Speed(f64);

/// No number, or out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a speed is a number from 0.01 to 1000, as in 2 for twice as fast, not {0:?}")]
pub struct InvalidSpeed(String);

/// An event, and when to publish it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Since the beginning of the replay.
    pub after: Duration,
    /// What to publish.
    pub event: Event,
}

/// Lays the events, which are in order, on the time of the one who watches.
pub fn schedule(events: Vec<Event>, speed: Speed) -> Vec<Step> {
    let mut played = 0;
    let mut before = events.first().map_or(0, |event| event.at);
    let marks: Vec<u64> = events
        .iter()
        .map(|event| {
            played += (event.at - before).min(PAUSE_MINUTES_MAX);
            before = event.at;
            played
        })
        .collect();
    let minute = WHOLE.as_secs_f64() / speed.0 / played.max(1) as f64;
    let after = |mark: u64| Duration::from_secs_f64(mark as f64 * minute);
    marks.into_iter().zip(events).map(|(mark, event)| Step { after: after(mark), event }).collect()
}

impl Default for Speed {
    fn default() -> Speed {
        Speed(1.0)
    }
}

impl FromStr for Speed {
    type Err = InvalidSpeed;

    fn from_str(text: &str) -> Result<Speed, InvalidSpeed> {
        match text.parse() {
            Ok(speed) if (0.01..=1_000.0).contains(&speed) => Ok(Speed(speed)),
            _ => Err(InvalidSpeed(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{Tournament, script};

    fn steps(speed: &str) -> Vec<Step> {
        let events = script(&Tournament::embedded().expect("sound"));
        schedule(events, speed.parse().expect("a speed"))
    }

    fn length(steps: &[Step]) -> Duration {
        steps.last().map(|step| step.after).unwrap_or_default()
    }

    #[test]
    fn the_whole_takes_five_minutes_and_half_of_that_at_twice_the_speed() {
        assert_eq!(length(&steps("1")).as_secs_f64().round(), 300.0);
        assert_eq!(length(&steps("2")).as_secs_f64().round(), 150.0);
    }

    #[test]
    fn something_moves_every_second() {
        let steps = steps("1");
        let longest = steps.windows(2).map(|pair| pair[1].after - pair[0].after).max();
        assert!(longest < Some(Duration::from_secs(1)), "{longest:?}");
        assert!(steps.is_sorted_by_key(|step| step.after));
    }

    #[test]
    fn nothing_to_replay_takes_no_time() {
        assert!(schedule(vec![], Speed::default()).is_empty());
    }

    #[test]
    fn a_speed_that_is_none_is_refused() {
        for text in ["0", "-1", "NaN", "inf", "1e9", "fast", ""] {
            assert!(text.parse::<Speed>().is_err(), "{text:?} was taken");
        }
    }
}
