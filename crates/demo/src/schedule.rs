//! The schedule of the replay: five weeks in five minutes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::script::{MatchEvent, MatchState};

/// Duration of the replay of the whole tournament at speed 1.
pub(crate) const REPLAY_DURATION: Duration = Duration::from_secs(300);

/// Maximum time from the start of a match to the next, in minutes. A third of the length of a match: about
/// three run at the same time, for about eight seconds each; one after another they would take three.
const STAGGER_MINUTES_MAX: u64 = 40;

/// Minimum pause of a team between two matches, in minutes.
const TEAM_REST_MINUTES: u64 = 20;

/// Maximum time without any event, in minutes; the rest is skipped.
const IDLE_MINUTES_MAX: u64 = 6;

/// Replay speed from 0.01 to 1000: 1 takes five minutes, 2 half of that.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Speed(f64);

/// Not a number, or out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number from 0.01 to 1000, as in 2 for twice as fast, not {0:?}")]
pub(crate) struct InvalidSpeed(String);

/// An event, and the time at which it is published.
#[derive(Clone, Debug)]
pub(crate) struct ReplayStep {
    /// Time since the start of the replay.
    pub(crate) after: Duration,
    /// The event to publish.
    pub(crate) event: MatchEvent,
}

/// Maps the events, which are ordered by time, to the time of the replay.
pub(crate) fn schedule(events: Vec<MatchEvent>, speed: Speed) -> Vec<ReplayStep> {
    let match_starts = compute_match_starts(&events);
    let mut timed: Vec<(u64, MatchEvent)> = events
        .into_iter()
        .map(|event| {
            let (kick_off, start) = match_starts[&event.state.number];
            (start + event.at_minute - kick_off, event)
        })
        .collect();
    timed.sort_by_key(|(minute, _)| *minute);
    skip_idle_minutes(&mut timed);
    let last_minute = timed.last().map_or(1, |(mark, _)| (*mark).max(1));
    let seconds_per_minute = REPLAY_DURATION.as_secs_f64() / speed.0 / last_minute as f64;
    let after = |mark: u64| Duration::from_secs_f64(mark as f64 * seconds_per_minute);
    timed.into_iter().map(|(mark, event)| ReplayStep { after: after(mark), event }).collect()
}

/// For each match its kick-off, and the minute of the replay in which it starts. Matches start in their
/// order, some in parallel, but no team plays two at once.
fn compute_match_starts(events: &[MatchEvent]) -> BTreeMap<u32, (u64, u64)> {
    let mut starts = BTreeMap::new();
    let mut team_free_at: BTreeMap<&str, u64> = BTreeMap::new();
    let mut last_started: Option<(u64, u64)> = None;
    for first in events {
        let MatchState { number, teams, .. } = &first.state;
        if starts.contains_key(number) {
            continue;
        }
        let of_match = |event: &&MatchEvent| event.state.number == *number;
        let end = events.iter().rfind(of_match).map_or(first.at_minute, |event| event.at_minute);
        let earliest = last_started.map_or(0, |(kick_off, start)| {
            start + (first.at_minute - kick_off).min(STAGGER_MINUTES_MAX)
        });
        let teams_free_at =
            teams.iter().filter_map(|team| team_free_at.get(team.as_str()).copied()).max();
        let start = earliest.max(teams_free_at.unwrap_or(0));
        for team in teams {
            team_free_at.insert(team, start + end - first.at_minute + TEAM_REST_MINUTES);
        }
        last_started = Some((first.at_minute, start));
        starts.insert(*number, (first.at_minute, start));
    }
    starts
}

fn skip_idle_minutes(timed: &mut [(u64, MatchEvent)]) {
    let (mut before, mut skipped) = (0, 0);
    for (minute, _) in timed {
        skipped += minute.saturating_sub(before).saturating_sub(IDLE_MINUTES_MAX);
        before = *minute;
        *minute -= skipped;
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
    use crate::script::{MatchEventKind, build_events};
    use crate::tournament::Tournament;

    fn steps(speed: &str) -> Vec<ReplayStep> {
        let events = build_events(&Tournament::embedded().expect("sound"));
        schedule(events, speed.parse().expect("a valid speed"))
    }

    fn replay_length(steps: &[ReplayStep]) -> Duration {
        steps.last().map(|step| step.after).unwrap_or_default()
    }

    #[test]
    fn replay_takes_five_minutes_and_half_of_that_at_double_speed() {
        assert_eq!(replay_length(&steps("1")).as_secs_f64().round(), 300.0);
        assert_eq!(replay_length(&steps("2")).as_secs_f64().round(), 150.0);
    }

    #[test]
    fn at_least_one_event_is_published_every_second() {
        let steps = steps("1");
        let longest = steps.windows(2).map(|pair| pair[1].after - pair[0].after).max();
        assert!(longest < Some(Duration::from_secs(1)), "{longest:?}");
        assert!(steps.is_sorted_by_key(|step| step.after));
    }

    #[test]
    fn match_lasts_over_five_seconds_and_no_team_plays_two_matches_at_once() {
        let steps = steps("1");
        let mut playing: BTreeMap<&str, u32> = BTreeMap::new();
        let mut start_times: BTreeMap<u32, Duration> = BTreeMap::new();
        for ReplayStep { after, event } in &steps {
            let MatchState { number, teams, .. } = &event.state;
            let start = *start_times.entry(*number).or_insert(*after);
            for team in teams {
                let other_match = playing.insert(team, *number).filter(|other| other != number);
                assert_eq!(other_match, None, "{team} also plays match {number}");
                if event.state.event == MatchEventKind::FullTime {
                    playing.remove(team.as_str());
                    let lasted = after.saturating_sub(start);
                    assert!(lasted > Duration::from_secs(5), "match {number}: {lasted:?}");
                }
            }
        }
    }

    #[test]
    fn every_match_keeps_the_order_of_its_events() {
        let events = build_events(&Tournament::embedded().expect("sound"));
        let states_of_match = |number: u32, events: Vec<MatchEvent>| -> Vec<_> {
            let match_events = events.into_iter().filter(|event| event.state.number == number);
            match_events.map(|event| event.state).collect()
        };
        let replayed: Vec<_> = steps("1").into_iter().map(|step| step.event).collect();
        for number in 1..=104 {
            assert_eq!(
                states_of_match(number, replayed.clone()),
                states_of_match(number, events.clone())
            );
        }
    }

    #[test]
    fn empty_tournament_has_an_empty_schedule() {
        assert!(schedule(vec![], Speed::default()).is_empty());
    }

    #[test]
    fn invalid_speed_is_rejected() {
        for text in ["0", "-1", "NaN", "inf", "1e9", "fast", ""] {
            assert!(text.parse::<Speed>().is_err(), "{text:?} was accepted");
        }
    }
}
