//! The demo: the football World Cup 2026, replayed on a cluster of three nodes in one process.
//!
//! `tournament` is the data, `script` what happens in it and what is published of it, `schedule`
//! when: all three pure. `run` starts the nodes and publishes each [`Step`] in its time; `viewers`
//! watch it, and `report` says how it went.

mod report;
mod run;
mod schedule;
mod script;
mod tournament;
mod viewers;

use std::time::{SystemTime, UNIX_EPOCH};

pub use run::{Args, run};
pub use schedule::{InvalidSpeed, Speed, Step, WHOLE, schedule};
pub use script::{Event, Kind, Scored, State, Status, script};
pub use tournament::{Goal, InvalidData, LIVE, Match, Moment, Score, Tournament};

/// Now, in milliseconds since the Unix epoch, with what the clock has of fractions.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
