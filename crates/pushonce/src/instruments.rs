//! What a bench measures with: shared by `pushonce bench` and by the benches that hold peers beside
//! us, so that one ruler is laid to all.
//!
//! [`MessageStamp`] is what a message says about itself, [`LatencyHistogram`] what became of the time between that
//! and its reading, [`ProcessMonitor`] what processes used meanwhile, [`chart`] a picture of it all.

pub mod chart;
mod latency;
mod stamp;
mod usage;

pub use latency::LatencyHistogram;
pub use stamp::{MessageStamp, RunClock};
pub use usage::{ProcessMonitor, ResourceUsage, ServerUsage};
