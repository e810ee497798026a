//! Measuring instruments of the load generators, so that every server is measured in the same way.
//!
//! # Overview
//!
//! [`MessageStamp`] identifies a message and its due time, [`LatencyHistogram`] collects latencies,
//! [`ProcessMonitor`] measures the resource usage of processes, and [`chart`] draws the results. `pushonce
//! bench`, the demo, and the benches that compare Pushonce with other servers use them.
//!
//! # Guarantees
//!
//! - All times are those of one clock, of the process that measures. Machines need no synchronized clocks.
//! - A latency counts from the time at which an operation was *due*, so a server that blocks the generator
//!   cannot hide its slowest responses.
//! - A recorded value costs no allocation.
//!
//! # Non-goals
//!
//! Metrics of a node: see the crate `telemetry`.
//!
//! # Data flow
//!
//! A publisher puts a stamp into each payload; a subscriber finds it in the frame that it reads, without
//! decoding the frame, and records the latency. The sum of all histograms becomes text, JSON or a chart.
//!
//! # Caller contract
//!
//! - A run has a random run id, so that messages of earlier runs are not counted.
//! - Payloads have at least [`MessageStamp::BYTES`] bytes.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use pushonce_instruments::{LatencyHistogram, MessageStamp, RunClock};
//!
//! let clock = RunClock::new(7);
//! let payload = clock.payload(MessageStamp { sequence: 0, due_at: Instant::now() }, 128);
//! let mut latency = LatencyHistogram::default();
//! if let Some(stamp) = clock.find_stamp(&payload) {
//!     latency.record(stamp.due_at.elapsed());
//! }
//! assert_eq!(latency.count(), 1);
//! ```

pub mod chart;
mod latency;
mod stamp;
mod usage;

pub use latency::LatencyHistogram;
pub use stamp::{MessageStamp, RunClock};
pub use usage::{ProcessMonitor, ResourceUsage, ServerUsage};
