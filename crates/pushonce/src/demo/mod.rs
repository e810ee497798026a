//! The replay of the football World Cup 2026: real input for the demo, as pure code.
//!
//! [`Tournament`] is the data, [`script`] what happens in it and what is published of it,
//! [`schedule`] when. Whoever runs the demo waits for each [`Step`] and publishes its messages.

mod schedule;
mod script;
mod tournament;

pub use schedule::{InvalidSpeed, Speed, Step, WHOLE, schedule};
pub use script::{Event, Kind, Scored, State, Status, script};
pub use tournament::{Goal, InvalidData, LIVE, Match, Moment, Score, Tournament};
