//! The matches and their goals, as they were played.

use pushonce_core::{InvalidTopic, Topic};
use serde::Deserialize;

const DATA: &str = include_str!("../../data/worldcup-2026.json");

/// Where every event of every match is published.
pub const LIVE: &str = "worldcup/2026/live";

/// Every match, by number.
#[derive(Clone, Debug)]
pub struct Tournament {
    /// [`LIVE`].
    pub live: Topic,
    /// In the order of their numbers.
    pub matches: Vec<Match>,
}

/// One match.
#[derive(Clone, Debug)]
pub struct Match {
    /// 1 to 104.
    pub number: u32,
    /// Where its state is published.
    pub topic: Topic,
    /// `Matchday 1`, `Final`.
    pub round: String,
    /// `Group A`; none in the knock-out rounds.
    pub group: Option<String>,
    /// Where it was played.
    pub ground: String,
    /// Who played.
    pub teams: [String; 2],
    /// Minutes since the Unix epoch, UTC.
    pub kick_off: u64,
    /// In the order they fell.
    pub goals: Vec<Goal>,
    /// How it ended.
    pub score: Score,
}

/// One goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The index of the team it counts for.
    pub team: usize,
    /// Who scored, for whichever team.
    pub scorer: String,
    /// When.
    pub moment: Moment,
    /// From the penalty spot, in play.
    pub penalty: bool,
    /// Scored by a player of the other team.
    pub own_goal: bool,
}

/// A time on the referee's clock: `90+4` is minute 90, added 4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// 1 to 120.
    pub minute: u32,
    /// Minutes of stoppage time.
    pub added: u32,
}

/// The scores of a match, each including what came before, but for the shoot-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Score {
    /// After 45 minutes.
    #[serde(rename = "ht")]
    pub half_time: [u32; 2],
    /// After 90 minutes.
    #[serde(rename = "ft")]
    pub full_time: [u32; 2],
    /// After 120 minutes, if it came to that.
    #[serde(rename = "et")]
    pub extra_time: Option<[u32; 2]>,
    /// The shoot-out alone, if it came to that.
    #[serde(rename = "p")]
    pub penalties: Option<[u32; 2]>,
}

/// What is wrong with the data.
#[derive(Debug, thiserror::Error)]
pub enum InvalidData {
    /// Not the JSON that was expected.
    #[error("the tournament's data cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Not `2026-06-11` and `13:00 UTC-6`.
    #[error("match {number} has no kick-off that can be read: {text:?}")]
    KickOff {
        /// Which match.
        number: u32,
        /// What stands there.
        text: String,
    },
    /// Not `90` or `90+4`.
    #[error("match {number} has a goal in no minute that can be read: {text:?}")]
    Minute {
        /// Which match.
        number: u32,
        /// What stands there.
        text: String,
    },
    /// Cannot be, for any number.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
}

impl Tournament {
    /// Reads the data that the binary carries.
    ///
    /// # Errors
    /// [`InvalidData`] when it does not keep its own form.
    pub fn embedded() -> Result<Tournament, InvalidData> {
        let file: File = serde_json::from_str(DATA)?;
        let numbered = (1u32..).zip(file.matches);
        let mut matches: Vec<Match> =
            numbered.map(|(place, entry)| entry.read(place)).collect::<Result<_, _>>()?;
        matches.sort_by_key(|m| m.number);
        Ok(Tournament { live: Topic::new(LIVE)?, matches })
    }
}

impl Score {
    /// After the last goal of the play.
    pub fn at_the_end(&self) -> [u32; 2] {
        self.extra_time.unwrap_or(self.full_time)
    }
}

impl Moment {
    fn parse(text: &str) -> Option<Moment> {
        let (minute, added) = text.split_once('+').unwrap_or((text, "0"));
        Some(Moment { minute: minute.parse().ok()?, added: added.parse().ok()? })
    }

    /// The file once writes 92 for 90+2 in a match that had no extra time.
    fn within(self, minutes: u32) -> Moment {
        let over = self.minute.saturating_sub(minutes);
        Moment { minute: self.minute - over, added: self.added + over }
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.added {
            0 => write!(f, "{}", self.minute),
            added => write!(f, "{}+{added}", self.minute),
        }
    }
}

#[derive(Deserialize)]
struct File {
    matches: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// Missing in the group stage: there it is the place in the file.
    num: Option<u32>,
    round: String,
    group: Option<String>,
    ground: String,
    date: String,
    time: String,
    team1: String,
    team2: String,
    score: Score,
    #[serde(default)]
    goals1: Vec<GoalEntry>,
    #[serde(default)]
    goals2: Vec<GoalEntry>,
}

#[derive(Deserialize)]
struct GoalEntry {
    name: String,
    minute: String,
    #[serde(default)]
    penalty: bool,
    #[serde(default)]
    owngoal: bool,
}

impl Entry {
    fn read(self, place: u32) -> Result<Match, InvalidData> {
        let number = self.num.unwrap_or(place);
        let kick_off = kick_off(&self.date, &self.time).ok_or_else(|| InvalidData::KickOff {
            number,
            text: format!("{} {}", self.date, self.time),
        })?;
        let minutes = if self.score.extra_time.is_some() { 120 } else { 90 };
        let sides = [self.goals1, self.goals2].into_iter().enumerate();
        let mut goals: Vec<Goal> = sides
            .flat_map(|(team, goals)| {
                goals.into_iter().map(move |goal| goal.read(team, number, minutes))
            })
            .collect::<Result<_, _>>()?;
        goals.sort_by_key(|goal| goal.moment);
        Ok(Match {
            number,
            topic: Topic::new(&format!("worldcup/2026/match/{number}"))?,
            round: self.round,
            group: self.group,
            ground: self.ground,
            teams: [self.team1, self.team2],
            kick_off,
            goals,
            score: self.score,
        })
    }
}

impl GoalEntry {
    /// `minutes` is how many the match had without stoppage time.
    fn read(self, team: usize, number: u32, minutes: u32) -> Result<Goal, InvalidData> {
        let moment = Moment::parse(&self.minute)
            .ok_or_else(|| InvalidData::Minute { number, text: self.minute.clone() })?;
        let GoalEntry { name, penalty, owngoal, .. } = self;
        let moment = moment.within(minutes);
        Ok(Goal { team, scorer: name, moment, penalty, own_goal: owngoal })
    }
}

/// `2026-06-11`, `13:00 UTC-6` in minutes since the Unix epoch.
fn kick_off(date: &str, time: &str) -> Option<u64> {
    let mut parts = date.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let (clock, zone) = time.split_once(" UTC")?;
    let (hour, minute) = clock.split_once(':')?;
    let local = day_number(year, month, day)? * 1_440
        + hour.parse::<u64>().ok()? * 60
        + minute.parse::<u64>().ok()?;
    local.checked_add_signed(-60 * zone.parse::<i64>().ok()?)
}

/// Days since the Unix epoch (H. Hinnant, "chrono-compatible low-level date algorithms").
fn day_number(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.checked_sub(1)?;
    (365 * year + year / 4 - year / 100 + year / 400 + day_of_year).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_has_every_match_once() {
        let tournament = Tournament::embedded().expect("sound");
        let numbers: Vec<_> = tournament.matches.iter().map(|m| m.number).collect();
        assert_eq!(numbers, (1..=104).collect::<Vec<_>>());
        assert_eq!(tournament.matches[56].topic.as_str(), "worldcup/2026/match/57");
    }

    #[test]
    fn the_goals_of_every_match_make_its_scores() {
        for m in Tournament::embedded().expect("sound").matches {
            let after = |minute: u32| {
                [0, 1].map(|team| {
                    let counts = |g: &&Goal| g.team == team && g.moment.minute <= minute;
                    m.goals.iter().filter(counts).count() as u32
                })
            };
            // The file has a goal of match 79 in 45+1, and not in its half-time score.
            let at_half_time = if m.number == 79 { [2, 0] } else { m.score.half_time };
            assert_eq!(after(45), at_half_time, "match {}", m.number);
            assert_eq!(after(90), m.score.full_time, "match {}", m.number);
            assert_eq!(after(120), m.score.at_the_end(), "match {}", m.number);
        }
    }

    #[test]
    fn a_kick_off_is_read_in_its_time_zone() {
        assert_eq!(kick_off("1970-01-01", "00:00 UTC+0"), Some(0));
        assert_eq!(kick_off("2026-06-11", "13:00 UTC-6"), Some(1_781_204_400 / 60));
        assert_eq!(kick_off("2026-06-11", "13:00"), None);
        assert_eq!(kick_off("June", "13:00 UTC-6"), None);
    }
}
