//! `pushonce subscribe --stats`: a line a second about what arrived, instead of the messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pushonce_client::SubscriberEvent;
use pushonce_core::Timestamp;
use serde_json::json;
use tokio::time::Interval;

use crate::output::{self, OutputError};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of latencies kept for one line. Above it the percentiles are those of the first ones.
const LATENCIES_MAX: usize = 100_000;

/// What arrived since the last line.
#[derive(Debug, Default)]
pub(super) struct Stats {
    messages: u64,
    bytes: u64,
    gaps: u64,
    disconnects: u64,
    /// Time from the acknowledgement of each message by its owner to its arrival, in ms, by the clocks of both machines.
    latencies_ms: Vec<u64>,
}

/// The timer of the lines.
pub(super) fn interval() -> Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL)
}

impl Stats {
    pub(super) fn record(&mut self, event: &SubscriberEvent) {
        match event {
            SubscriberEvent::Message { message, .. } => {
                self.messages += 1;
                self.bytes += message.payload.len() as u64;
                if self.latencies_ms.len() < LATENCIES_MAX {
                    self.latencies_ms.push(now().0.saturating_sub(message.time.0));
                }
            }
            SubscriberEvent::Gap { .. } => self.gaps += 1,
            SubscriberEvent::Disconnected { .. } => self.disconnects += 1,
            _ => {}
        }
    }

    /// Prints the line of the last interval and begins the next one.
    pub(super) fn print(&mut self, json: bool) -> Result<(), OutputError> {
        let mut stats = std::mem::take(self);
        stats.latencies_ms.sort_unstable();
        match json {
            true => output::write_json(stats.json()),
            false => output::write_line(stats.text()),
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "messages": self.messages, "bytes": self.bytes, "gaps": self.gaps,
            "disconnects": self.disconnects,
            "latency_ms": {"p50": self.latency(50), "p99": self.latency(99), "max": self.latency(100)},
        })
    }

    fn text(&self) -> String {
        let Stats { messages, bytes, gaps, disconnects, .. } = self;
        let latency =
            |percent| self.latency(percent).map_or("-".to_owned(), |ms| format!("{ms} ms"));
        format!(
            "{messages} messages/s, {}/s, latency p50 {} p99 {} max {}, {gaps} gaps, {disconnects} disconnects",
            bytesize::ByteSize(*bytes).display().si(),
            latency(50),
            latency(99),
            latency(100),
        )
    }

    /// A percentile of the sorted latencies; `None` without messages.
    fn latency(&self, percent: usize) -> Option<u64> {
        let last = self.latencies_ms.len().checked_sub(1)?;
        self.latencies_ms.get((last * percent).div_ceil(100)).copied()
    }
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pushonce_core::test_util;

    use super::*;

    #[test]
    fn line_has_counts_and_percentiles() {
        let mut stats = Stats::default();
        assert!(stats.text().contains("0 messages/s, 0 B/s, latency p50 -"), "{}", stats.text());
        for ago_ms in [9_000, 5_000] {
            let time = Timestamp(now().0 - ago_ms);
            let message = pushonce_core::Message { time, ..test_util::message(1, 1) };
            let topic = test_util::topic("a");
            stats.record(&SubscriberEvent::Message { topic, message: Arc::new(message) });
        }
        stats.latencies_ms.sort_unstable();
        let json = stats.json();
        assert_eq!((&json["messages"], &json["gaps"]), (&json!(2), &json!(0)));
        let (p50, max) = (json["latency_ms"]["p50"].as_u64(), json["latency_ms"]["max"].as_u64());
        assert!(p50.is_some_and(|ms| ms >= 5_000) && max.is_some_and(|ms| ms >= 9_000), "{json}");
    }
}
