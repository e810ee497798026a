//! The report of a fan-out bench.

use pushonce_instruments::ResourceUsage;
use serde_json::{Value, json};

use super::audience::FanoutDeliveryStats;
use super::publisher::PublishOutcomes;

/// The results.
pub(crate) struct FanoutReport {
    /// The resource usage while messages were published.
    pub(super) window: ResourceUsage,
    /// Number of deliveries in the window.
    pub(super) deliveries: u64,
    /// Number of requested subscribers.
    pub(super) subscribers: u64,
    /// Number of successful subscriptions.
    pub(super) subscribed: u64,
    /// Growth of the servers' memory per subscription.
    pub(super) session_bytes: u64,
    /// Whether the resource usage of servers was measured.
    pub(super) are_servers_measured: bool,
    pub(super) published: PublishOutcomes,
    /// Number of deliveries if every subscriber had received everything.
    pub(super) expected: u64,
    pub(super) stats: FanoutDeliveryStats,
    /// Number of sessions that ended before the bench.
    pub(super) ended_early: u64,
    /// The error of the first of them.
    pub(super) first_failure: Option<String>,
}

impl FanoutReport {
    fn per_second(&self) -> f64 {
        self.deliveries as f64 / self.window.elapsed.as_secs_f64()
    }

    /// Number of deliveries that neither arrived nor are part of a reported gap.
    fn missing(&self) -> u64 {
        self.expected.saturating_sub(self.stats.latency.count() + self.stats.messages_in_gaps)
    }

    fn failure_lines(&self) -> String {
        let session_failure =
            self.first_failure.as_ref().map(|error| format!("first ended    {error}\n"));
        let published = &self.published.first_failure;
        let published = published.as_ref().map(|error| format!("first failure  {error}\n"));
        published.into_iter().chain(session_failure).collect()
    }
}

impl crate::BenchReport for FanoutReport {
    fn text(&self) -> String {
        let session_memory = match self.are_servers_measured {
            true => {
                format!(", {:.2} KiB of server memory each", self.session_bytes as f64 / 1_024.0)
            }
            false => String::new(),
        };
        format!(
            "subscribers    {} of {}, {} ended{session_memory}\n\
             published      {} acknowledged, {} failed\n\
             deliveries     {} in {:.1} s, {:.0}/s\n\
             order          {} missing, {} more reported in {} gaps, {} skipped, {} repeated\n{}\
             latency        {}\n{}",
            self.subscribed,
            self.subscribers,
            self.ended_early,
            self.published.acknowledged,
            self.published.failed,
            self.deliveries,
            self.window.elapsed.as_secs_f64(),
            self.per_second(),
            self.missing(),
            self.stats.messages_in_gaps,
            self.stats.gaps,
            self.stats.missing_unreported,
            self.stats.duplicates,
            self.failure_lines(),
            self.stats.latency.text(),
            self.window.text(self.deliveries, "delivery"),
        )
    }

    fn json(&self) -> Value {
        json!({
            "bench": "fanout",
            "seconds": self.window.elapsed.as_secs_f64(),
            "subscribers": self.subscribed,
            "ended": self.ended_early,
            "session_bytes": self.are_servers_measured.then_some(self.session_bytes),
            "acknowledged": self.published.acknowledged,
            "failed": self.published.failed,
            "first_failure": self.published.first_failure.as_ref().or(self.first_failure.as_ref()),
            "deliveries": self.deliveries,
            "per_second": self.per_second(),
            "missing": self.missing(),
            "told": self.stats.messages_in_gaps,
            "gaps": self.stats.gaps,
            "holes": self.stats.missing_unreported,
            "repeated": self.stats.duplicates,
            "latency_ms": self.stats.latency.json(),
            "usage": self.window.json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::BenchReport as _;

    fn report() -> FanoutReport {
        let window =
            ResourceUsage { elapsed: Duration::from_secs(2), generator_cpu: None, servers: vec![] };
        let mut stats =
            FanoutDeliveryStats { gaps: 1, messages_in_gaps: 1, ..FanoutDeliveryStats::default() };
        (0..8).for_each(|_| stats.latency.record(Duration::from_millis(3)));
        FanoutReport {
            window,
            deliveries: 8,
            subscribers: 5,
            subscribed: 5,
            session_bytes: 1_536,
            are_servers_measured: true,
            published: PublishOutcomes { acknowledged: 2, ..PublishOutcomes::default() },
            expected: 10,
            stats,
            ended_early: 0,
            first_failure: None,
        }
    }

    #[test]
    fn text_shows_delivered_and_missing_messages() {
        let text = report().text();
        assert!(
            text.starts_with("subscribers    5 of 5, 0 ended, 1.50 KiB of server memory each\n")
        );
        assert!(text.contains(
            "deliveries     8 in 2.0 s, 4/s\norder          1 missing, 1 more reported in 1 gaps"
        ));
        assert!(text.contains("latency        p50 3.00 ms"));
    }

    #[test]
    fn json_has_the_figures_of_the_text() {
        let json = report().json();
        assert_eq!((&json["missing"], &json["per_second"]), (&json!(1), &json!(4.0)));
        assert_eq!(json["session_bytes"], json!(1_536));
    }
}
