//! The report of a publish bench.

use pushonce_instruments::ResourceUsage;
use serde_json::{Value, json};

use super::PublishCounts;

/// The results.
pub(crate) struct PublishReport {
    /// The resource usage while messages were sent.
    pub(super) window: ResourceUsage,
    /// Number of acknowledgements until the end of the window.
    pub(super) acknowledged: u64,
    /// The counts, including the responses after the window.
    pub(super) total: PublishCounts,
}

impl PublishReport {
    fn per_second(&self) -> f64 {
        self.acknowledged as f64 / self.window.elapsed.as_secs_f64()
    }
}

impl crate::BenchReport for PublishReport {
    fn text(&self) -> String {
        let total = &self.total;
        let failure_line =
            total.first_failure.as_ref().map(|error| format!("first failure  {error}\n"));
        format!(
            "acknowledged   {} in {:.1} s, {:.0}/s\nfailed         {} refused, {} unknown\n{}\
             latency        {}\n{}",
            self.acknowledged,
            self.window.elapsed.as_secs_f64(),
            self.per_second(),
            total.refused,
            total.unknown,
            failure_line.unwrap_or_default(),
            total.latency.text(),
            self.window.text(self.acknowledged, "publish"),
        )
    }

    fn json(&self) -> Value {
        let total = &self.total;
        json!({
            "bench": "publish",
            "seconds": self.window.elapsed.as_secs_f64(),
            "acknowledged": self.acknowledged,
            "per_second": self.per_second(),
            "refused": total.refused,
            "unknown": total.unknown,
            "first_failure": total.first_failure,
            "latency_ms": total.latency.json(),
            "usage": self.window.json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::BenchReport as _;

    fn report() -> PublishReport {
        let window =
            ResourceUsage { elapsed: Duration::from_secs(2), generator_cpu: None, servers: vec![] };
        let mut total =
            PublishCounts { sent: 11, acknowledged: 10, refused: 1, ..PublishCounts::default() };
        total.first_failure = Some("refused: too many".to_owned());
        total.latency.record(Duration::from_millis(2));
        PublishReport { window, acknowledged: 10, total }
    }

    #[test]
    fn text_shows_rate_failures_and_percentiles() {
        let text = report().text();
        assert!(text.starts_with("acknowledged   10 in 2.0 s, 5/s\nfailed         1 refused, 0"));
        assert!(text.contains("first failure  refused: too many\nlatency        p50 2.00 ms"));
    }

    #[test]
    fn json_has_the_figures_of_the_text() {
        let json = report().json();
        assert_eq!((&json["per_second"], &json["refused"]), (&json!(5.0), &json!(1)));
        assert_eq!(json["latency_ms"]["p99.9"], json!(2.0));
    }
}
