//! The demo: the football World Cup 2026, replayed on a cluster of three nodes in one process.
//!
//! `tournament` is the data, `build_events` what happens in it and what is published of it, `schedule`
//! when: all three pure. `run` starts the nodes and publishes each [`ReplayStep`] in its time; `count`
//! watch it, and `print_acknowledgement` says how it went.

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

/// Now, in milliseconds since the Unix epoch, with what the clock has of fractions.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
