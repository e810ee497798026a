//! When each event of the tournament is shown: five weeks in five minutes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Event, State};

/// How long the whole tournament takes at speed 1.
pub const WHOLE: Duration = Duration::from_secs(300);

/// A match begins at most so many minutes after the one before it. A third of what a match takes:
/// some three are on at a time, each for some eight seconds; one by one they would take three.
const STAGGER_MINUTES_MAX: u64 = 40;

/// No team plays again before it has rested so many minutes.
const REST_MINUTES: u64 = 20;

/// When nothing at all happens for longer than so many minutes, the rest is skipped.
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

/// Lays the events, which are in the order of their times, on the time of the one who watches.
pub fn schedule(events: Vec<Event>, speed: Speed) -> Vec<Step> {
    let starts = starts(&events);
    let mut marked: Vec<(u64, Event)> = events
        .into_iter()
        .map(|event| {
            let (kick_off, start) = starts[&event.state.number];
            (start + event.at - kick_off, event)
        })
        .collect();
    marked.sort_by_key(|(mark, _)| *mark);
    skip_pauses(&mut marked);
    let whole = marked.last().map_or(1, |(mark, _)| (*mark).max(1));
    let minute = WHOLE.as_secs_f64() / speed.0 / whole as f64;
    let after = |mark: u64| Duration::from_secs_f64(mark as f64 * minute);
    marked.into_iter().map(|(mark, event)| Step { after: after(mark), event }).collect()
}

/// By match: its kick-off, and the minute of the replay in which it begins. Matches begin in their
/// order, some side by side, but no team plays two at once.
fn starts(events: &[Event]) -> BTreeMap<u32, (u64, u64)> {
    let mut starts = BTreeMap::new();
    let mut rested: BTreeMap<&str, u64> = BTreeMap::new();
    let mut latest: Option<(u64, u64)> = None;
    for first in events {
        let State { number, teams, .. } = &first.state;
        if starts.contains_key(number) {
            continue;
        }
        let of_match = |event: &&Event| event.state.number == *number;
        let end = events.iter().rfind(of_match).map_or(first.at, |event| event.at);
        let in_turn = latest
            .map_or(0, |(kick_off, start)| start + (first.at - kick_off).min(STAGGER_MINUTES_MAX));
        let rested_at = teams.iter().filter_map(|team| rested.get(team.as_str()).copied()).max();
        let start = in_turn.max(rested_at.unwrap_or(0));
        for team in teams {
            rested.insert(team, start + end - first.at + REST_MINUTES);
        }
        latest = Some((first.at, start));
        starts.insert(*number, (first.at, start));
    }
    starts
}

fn skip_pauses(marked: &mut [(u64, Event)]) {
    let (mut before, mut skipped) = (0, 0);
    for (mark, _) in marked {
        skipped += mark.saturating_sub(before).saturating_sub(PAUSE_MINUTES_MAX);
        before = *mark;
        *mark -= skipped;
    }
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
    use crate::demo::{Kind, Tournament, script};

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
    fn a_match_lasts_long_enough_to_be_watched_and_no_team_plays_two_at_once() {
        let steps = steps("1");
        let mut playing: BTreeMap<&str, u32> = BTreeMap::new();
        let mut begun: BTreeMap<u32, Duration> = BTreeMap::new();
        for Step { after, event } in &steps {
            let State { number, teams, .. } = &event.state;
            let start = *begun.entry(*number).or_insert(*after);
            for team in teams {
                let other = playing.insert(team, *number).filter(|other| other != number);
                assert_eq!(other, None, "{team} plays match {number} too");
                if event.state.event == Kind::FullTime {
                    playing.remove(team.as_str());
                    let lasted = after.saturating_sub(start);
                    assert!(lasted > Duration::from_secs(5), "match {number}: {lasted:?}");
                }
            }
        }
    }

    #[test]
    fn every_match_keeps_the_order_of_its_events() {
        let events = script(&Tournament::embedded().expect("sound"));
        let of = |number: u32, events: Vec<Event>| -> Vec<_> {
            let mine = events.into_iter().filter(|event| event.state.number == number);
            mine.map(|event| event.state).collect()
        };
        let replayed: Vec<_> = steps("1").into_iter().map(|step| step.event).collect();
        for number in 1..=104 {
            assert_eq!(of(number, replayed.clone()), of(number, events.clone()));
        }
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
