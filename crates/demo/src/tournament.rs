//! The matches of the tournament and their goals, as they were played.

use pushonce_core::{InvalidTopic, Topic};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const DATA: &str = include_str!("../data/worldcup-2026.json");

/// The topic of every event of every match.
pub(crate) const LIVE: &str = "worldcup/2026/live";

/// All matches of the tournament.
#[derive(Clone, Debug)]
pub(crate) struct Tournament {
    /// The topic [`LIVE`].
    pub(crate) live: Topic,
    /// The matches in the order of their numbers.
    pub(crate) matches: Vec<Match>,
}

/// A match.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    /// Match number, 1 to 104.
    pub(crate) number: u32,
    /// The topic of the match's state.
    pub(crate) topic: Topic,
    /// `Matchday 1`, `Final`.
    pub(crate) round: String,
    /// `Group A`; `None` in the knock-out rounds.
    pub(crate) group: Option<String>,
    /// The venue.
    pub(crate) ground: String,
    /// The names of the two teams.
    pub(crate) teams: [String; 2],
    /// Kick-off in minutes since the Unix epoch, UTC.
    pub(crate) kick_off: u64,
    /// The goals in the order in which they were scored.
    pub(crate) goals: Vec<Goal>,
    /// The result.
    pub(crate) score: Score,
}

/// A goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// The index of the team it counts for.
    pub(crate) team: usize,
    /// The player who scored, for either team.
    pub(crate) scorer: String,
    /// Time of the goal.
    pub(crate) match_time: MatchTime,
    /// Whether it was a penalty kick in play.
    pub(crate) penalty: bool,
    /// Whether a player of the other team scored it.
    pub(crate) own_goal: bool,
}

/// A time on the referee's clock: `90+4` is minute 90, added 4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MatchTime {
    /// The minute, 1 to 120.
    pub(crate) minute: u32,
    /// Minutes of stoppage time.
    pub(crate) added: u32,
}

/// The scores of a match, each including the earlier ones, except the shoot-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Score {
    /// After 45 minutes.
    #[serde(rename = "ht")]
    pub(crate) half_time: [u32; 2],
    /// After 90 minutes.
    #[serde(rename = "ft")]
    pub(crate) full_time: [u32; 2],
    /// After 120 minutes, if there was extra time.
    #[serde(rename = "et")]
    pub(crate) extra_time: Option<[u32; 2]>,
    /// The shoot-out only, if there was one.
    #[serde(rename = "p")]
    pub(crate) penalties: Option<[u32; 2]>,
}

/// Why the data is invalid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidData {
    /// The data is not valid JSON, or has unexpected fields.
    #[error("invalid tournament data: {0}")]
    Json(#[from] serde_json::Error),
    /// A kick-off that does not have the form `2026-06-11` and `13:00 UTC-6`.
    #[error("match {number} has an invalid kick-off: {text:?}")]
    KickOff {
        /// The number of the match.
        number: u32,
        /// The text in the data.
        text: String,
    },
    /// A minute that does not have the form `90` or `90+4`.
    #[error("match {number} has a goal with an invalid minute: {text:?}")]
    Minute {
        /// The number of the match.
        number: u32,
        /// The text in the data.
        text: String,
    },
    /// An invalid topic name, which no match number produces.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
}

impl Tournament {
    /// Parses the data that the binary contains.
    ///
    /// # Errors
    /// [`InvalidData`] when the data is invalid.
    pub(crate) fn embedded() -> Result<Tournament, InvalidData> {
        let file: TournamentFile = serde_json::from_str(DATA)?;
        let numbered = (1u32..).zip(file.matches);
        let mut matches: Vec<Match> =
            numbered.map(|(place, entry)| entry.into_match(place)).collect::<Result<_, _>>()?;
        matches.sort_by_key(|m| m.number);
        Ok(Tournament { live: Topic::new(LIVE)?, matches })
    }
}

#[cfg(test)]
impl Score {
    /// The score after the last goal of the play.
    pub(crate) fn final_score(&self) -> [u32; 2] {
        self.extra_time.unwrap_or(self.full_time)
    }
}

impl MatchTime {
    fn parse(text: &str) -> Option<MatchTime> {
        let (minute, added) = text.split_once('+').unwrap_or((text, "0"));
        Some(MatchTime { minute: minute.parse().ok()?, added: added.parse().ok()? })
    }

    /// The file once has 92 instead of 90+2 in a match without extra time.
    fn clamp_to_regulation(self, minutes: u32) -> MatchTime {
        let over = self.minute.saturating_sub(minutes);
        MatchTime { minute: self.minute - over, added: self.added + over }
    }
}

impl std::fmt::Display for MatchTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.added {
            0 => write!(f, "{}", self.minute),
            added => write!(f, "{}+{added}", self.minute),
        }
    }
}

#[derive(Deserialize)]
struct TournamentFile {
    matches: Vec<MatchEntry>,
}

#[derive(Deserialize)]
struct MatchEntry {
    /// Missing in the group stage, where the position in the file is the number.
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

impl MatchEntry {
    fn into_match(self, place: u32) -> Result<Match, InvalidData> {
        let number = self.num.unwrap_or(place);
        let text = format!("{} {}", self.date, self.time);
        let kick_off = parse_kick_off(&text).ok_or(InvalidData::KickOff { number, text })?;
        let minutes = if self.score.extra_time.is_some() { 120 } else { 90 };
        let goals_by_team = [self.goals1, self.goals2].into_iter().enumerate();
        let mut goals: Vec<Goal> = goals_by_team
            .flat_map(|(team, goals)| {
                goals.into_iter().map(move |goal| goal.into_goal(team, number, minutes))
            })
            .collect::<Result<_, _>>()?;
        goals.sort_by_key(|goal| goal.match_time);
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
    /// `minutes` is the length of the match without stoppage time.
    fn into_goal(self, team: usize, number: u32, minutes: u32) -> Result<Goal, InvalidData> {
        let match_time = MatchTime::parse(&self.minute)
            .ok_or_else(|| InvalidData::Minute { number, text: self.minute.clone() })?;
        let GoalEntry { name, penalty, owngoal, .. } = self;
        let moment = match_time.clamp_to_regulation(minutes);
        Ok(Goal { team, scorer: name, match_time: moment, penalty, own_goal: owngoal })
    }
}

/// `2026-06-11 13:00 UTC-6`.
const KICK_OFF: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day] [hour]:[minute] UTC[offset_hour padding:none sign:mandatory]"
);

/// Parses a kick-off to minutes since the Unix epoch.
fn parse_kick_off(text: &str) -> Option<u64> {
    let kick_off = OffsetDateTime::parse(text, KICK_OFF).ok()?;
    u64::try_from(kick_off.unix_timestamp() / 60).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_contains_every_match_once() {
        let tournament = Tournament::embedded().expect("sound");
        let numbers: Vec<_> = tournament.matches.iter().map(|m| m.number).collect();
        assert_eq!(numbers, (1..=104).collect::<Vec<_>>());
        assert_eq!(tournament.matches[56].topic.as_str(), "worldcup/2026/match/57");
    }

    #[test]
    fn goals_of_every_match_add_up_to_its_scores() {
        for m in Tournament::embedded().expect("valid data").matches {
            let after = |minute: u32| {
                [0, 1].map(|team| {
                    let counts = |g: &&Goal| g.team == team && g.match_time.minute <= minute;
                    m.goals.iter().filter(counts).count() as u32
                })
            };
            // The file has a goal of match 79 in 45+1, and not in its half-time score.
            let at_half_time = if m.number == 79 { [2, 0] } else { m.score.half_time };
            assert_eq!(after(45), at_half_time, "match {}", m.number);
            assert_eq!(after(90), m.score.full_time, "match {}", m.number);
            assert_eq!(after(120), m.score.final_score(), "match {}", m.number);
        }
    }

    #[test]
    fn kick_off_is_parsed_in_its_time_zone() {
        assert_eq!(parse_kick_off("1970-01-01 00:00 UTC+0"), Some(0));
        assert_eq!(parse_kick_off("2026-06-11 13:00 UTC-6"), Some(1_781_204_400 / 60));
        assert_eq!(parse_kick_off("2026-06-11 13:00"), None);
        assert_eq!(parse_kick_off("June 13:00 UTC-6"), None);
    }
}
