//! What a bench measures with: shared by `pushonce bench` and by the benches that hold peers beside
//! us, so that one ruler is laid to all.
//!
//! [`Stamp`] is what a message says about itself, [`Latency`] what became of the time between that
//! and its reading, [`Watch`] what processes used meanwhile, [`chart`] a picture of it all.

pub mod chart;
mod latency;
mod stamp;
mod usage;

pub use latency::Latency;
pub use stamp::{Clock, Stamp};
pub use usage::{Server, Usage, Watch};
