//! Measuring instruments, shared by `pushonce bench` and by the benches that compare Pushonce with its peers,
//! so that all of them are measured in the same way.
//!
//! [`MessageStamp`] identifies a message and its due time, [`LatencyHistogram`] collects the latencies,
//! [`ProcessMonitor`] measures the resource usage of processes, and [`chart`] draws the results.

pub mod chart;
mod latency;
mod stamp;
mod usage;

pub use latency::LatencyHistogram;
pub use stamp::{MessageStamp, RunClock};
pub use usage::{ProcessMonitor, ResourceUsage, ServerUsage};
