//! The state of the whole tournament, which a page loads before it subscribes.

use bytes::Bytes;
use pushonce_core::Position;
use serde::Serialize;

use crate::script::{MatchState, MatchStatus};
use crate::tournament::{Match, Tournament};

/// The topic of the state of all matches. Published when a match begins and when it ends.
pub(crate) const WALL: &str = "worldcup/2026/wall";

/// The state of all matches.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Wall {
    /// The position in the topic of all events that this state contains. A page subscribes after it, so
    /// that nothing is missing between the two.
    live: String,
    /// The matches in the order of their numbers.
    matches: Vec<WallMatch>,
}

/// A match with its score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct WallMatch {
    #[serde(rename = "match")]
    number: u32,
    round: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    ground: String,
    /// Kick-off in seconds since the Unix epoch.
    kick_off: u64,
    /// Absent until the teams are known: in the knock-out rounds before the kick-off.
    #[serde(skip_serializing_if = "Option::is_none")]
    teams: Option<[String; 2]>,
    score: [u32; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    penalties: Option<[u32; 2]>,
    #[serde(skip_serializing_if = "String::is_empty")]
    minute: String,
    /// Absent before the kick-off.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<MatchStatus>,
}

impl Wall {
    /// The state before the first kick-off. `live`: the last position of the topic of all events.
    pub(crate) fn new(tournament: &Tournament, live: Option<Position>) -> Wall {
        // Everything comes after 0:0.
        let live = live.map_or_else(|| "0:0".to_owned(), |position| position.to_string());
        Wall { live, matches: tournament.matches.iter().map(WallMatch::before_kick_off).collect() }
    }

    /// Applies the state of a match, whose message on the topic of all events is at `live`.
    pub(crate) fn apply(&mut self, state: &MatchState, live: Position) {
        self.live = live.to_string();
        if let Some(known) = self.matches.iter_mut().find(|known| known.number == state.number) {
            known.teams = Some(state.teams.clone());
            known.score = state.score;
            known.penalties = state.penalties;
            known.minute.clone_from(&state.minute);
            known.status = Some(state.status);
        }
    }

    /// The message to publish, as JSON.
    ///
    /// # Errors
    /// Cannot fail for these types.
    pub(crate) fn message(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }
}

impl WallMatch {
    fn before_kick_off(m: &Match) -> WallMatch {
        WallMatch {
            number: m.number,
            round: m.round.clone(),
            group: m.group.clone(),
            ground: m.ground.clone(),
            kick_off: m.kick_off * 60,
            teams: m.group.is_some().then(|| m.teams.clone()),
            score: [0, 0],
            penalties: None,
            minute: String::new(),
            status: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::build_events;

    #[test]
    fn wall_shows_the_whole_tournament_and_hides_who_reaches_the_final() {
        let tournament = Tournament::embedded().expect("valid data");
        let mut wall = Wall::new(&tournament, None);
        assert_eq!(wall.matches.len(), 104);
        assert_eq!(wall.live, "0:0");
        assert!(wall.matches[0].teams.is_some() && wall.matches[103].teams.is_none());
        assert!(wall.matches.iter().all(|m| m.status.is_none()));
        for event in build_events(&tournament) {
            wall.apply(&event.state, "1:7".parse().expect("a position"));
        }
        assert_eq!(wall.live, "1:7");
        assert!(wall.matches.iter().all(|m| m.status == Some(MatchStatus::Finished)));
        assert_eq!(wall.matches[103].teams.as_ref(), Some(&tournament.matches[103].teams));
        // Far below the limit of a payload, 64 KiB by default.
        assert!(wall.message().expect("plain data").len() < 32 << 10);
    }
}
