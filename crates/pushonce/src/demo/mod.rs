//! The demo: the football World Cup 2026, replayed on a cluster of three nodes in one process.
//!
//! `tournament` holds the data, `script` derives the events and their messages, and `schedule` their times:
//! all three are pure. `run` starts the nodes and publishes each [`ReplayStep`] at its time; `viewers`
//! subscribe, and `report` prints the results.

mod report;
mod run;
mod schedule;
mod script;
mod tournament;
mod viewers;

use std::time::{SystemTime, UNIX_EPOCH};

pub use run::{Args, run};
pub use schedule::{InvalidSpeed, REPLAY_DURATION, ReplayStep, Speed, schedule};
pub use script::{
    MatchEvent, MatchEventKind, MatchState, MatchStatus, PublishedGoal, build_events,
};
pub use tournament::{Goal, InvalidData, LIVE, Match, MatchTime, Score, Tournament};

/// The current time in milliseconds since the Unix epoch, with fractions.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
