//! How the crates of a node define their metrics and limit repeated log lines.
//!
//! # Overview
//!
//! Each crate declares its metrics once, as [`Metric`] constants in its `metrics.rs`, and lists them in
//! `METRICS`. The code gets its handles from these constants; the binary describes all of them to the
//! recorder and generates `METRICS.md` from them. A [`LogLimiter`] bounds the rate of a log line that a
//! peer, a client, a disk or a timer can repeat.
//!
//! # Guarantees
//!
//! - A handle carries exactly the name and the labels of its constant.
//! - A [`LogLimiter`] allows at most one line in ten seconds and reports how many it suppressed.
//!
//! # Non-goals
//!
//! The recorder, the exporter, the format of log lines, and the clock: the caller passes the time.
//!
//! # Data flow
//!
//! `Metric` constant → handle → recorder of the process → `/metrics`.
//!
//! # Caller contract
//!
//! Install the recorder before the first handle is taken: a handle that is taken earlier records nothing.
//! Take handles once, not per event on a hot path: each call looks the series up. No label may name a
//! topic or a client: every value is a series of its own.
//!
//! ```
//! use std::time::Instant;
//! use pushonce_telemetry::{LogLimiter, Metric};
//!
//! const REJECTED: Metric = Metric::counter("pushonce_example_rejected_total", "Rejected requests.")
//!     .with_labels(&["reason"]);
//! static LIMITER: LogLimiter = LogLimiter::new();
//!
//! REJECTED.register_counter(&["full"]).increment(1);
//! if let Some(suppressed) = LIMITER.allow(Instant::now()) {
//!     println!("a request was rejected, suppressed={suppressed}");
//! }
//! ```

mod log_limiter;
mod metric;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use log_limiter::LogLimiter;
pub use metric::{Metric, MetricKind};
pub use metrics::{Counter, Gauge, Histogram, Unit};
