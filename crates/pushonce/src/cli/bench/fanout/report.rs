//! What a fan-out bench says at its end.

use serde_json::{Value, json};

use super::audience::Seen;
use super::publisher::Published;
use crate::instruments::Usage;

/// What was measured.
pub(in crate::cli::bench) struct Report {
    /// While messages were published.
    pub(super) window: Usage,
    /// Within the window.
    pub(super) deliveries: u64,
    /// Asked for.
    pub(super) subscribers: u64,
    /// Subscribed.
    pub(super) listening: u64,
    /// What the servers' memory grew by for each of those.
    pub(super) session_bytes: u64,
    /// Whether servers were looked at.
    pub(super) watched: bool,
    pub(super) published: Published,
    /// Deliveries there would be if everybody had got everything.
    pub(super) expected: u64,
    pub(super) seen: Seen,
    /// Sessions that ended before the bench did.
    pub(super) ended: u64,
    /// Why the first of them did.
    pub(super) failure: Option<String>,
}

impl Report {
    fn per_second(&self) -> f64 {
        self.deliveries as f64 / self.window.took.as_secs_f64()
    }

    /// Neither delivered nor told of.
    fn missing(&self) -> u64 {
        self.expected.saturating_sub(self.seen.latency.count() + self.seen.told)
    }

    fn failures(&self) -> String {
        let seen = self.failure.as_ref().map(|why| format!("first ended    {why}\n"));
        let published = &self.published.failure;
        let published = published.as_ref().map(|why| format!("first failure  {why}\n"));
        published.into_iter().chain(seen).collect()
    }
}

impl crate::cli::bench::Report for Report {
    fn text(&self) -> String {
        let session = match self.watched {
            true => {
                format!(", {:.2} KiB of server memory each", self.session_bytes as f64 / 1_024.0)
            }
            false => String::new(),
        };
        format!(
            "subscribers    {} of {}, {} ended{session}\n\
             published      {} acknowledged, {} failed\n\
             deliveries     {} in {:.1} s, {:.0}/s\n\
             order          {} missing, {} more told of in {} gaps, {} holes, {} repeated\n{}\
             latency        {}\n{}",
            self.listening,
            self.subscribers,
            self.ended,
            self.published.acknowledged,
            self.published.failed,
            self.deliveries,
            self.window.took.as_secs_f64(),
            self.per_second(),
            self.missing(),
            self.seen.told,
            self.seen.gaps,
            self.seen.holes,
            self.seen.repeated,
            self.failures(),
            self.seen.latency.text(),
            self.window.text(self.deliveries, "delivery"),
        )
    }

    fn json(&self) -> Value {
        json!({
            "bench": "fanout",
            "seconds": self.window.took.as_secs_f64(),
            "subscribers": self.listening,
            "ended": self.ended,
            "session_bytes": self.watched.then_some(self.session_bytes),
            "acknowledged": self.published.acknowledged,
            "failed": self.published.failed,
            "first_failure": self.published.failure.as_ref().or(self.failure.as_ref()),
            "deliveries": self.deliveries,
            "per_second": self.per_second(),
            "missing": self.missing(),
            "told": self.seen.told,
            "gaps": self.seen.gaps,
            "holes": self.seen.holes,
            "repeated": self.seen.repeated,
            "latency_ms": self.seen.latency.json(),
            "usage": self.window.json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::Report as _;

    fn report() -> Report {
        let window = Usage { took: Duration::from_secs(2), own: None, servers: vec![] };
        let mut seen = Seen { gaps: 1, told: 1, ..Seen::default() };
        (0..8).for_each(|_| seen.latency.record(Duration::from_millis(3)));
        Report {
            window,
            deliveries: 8,
            subscribers: 5,
            listening: 5,
            session_bytes: 1_536,
            watched: true,
            published: Published { acknowledged: 2, ..Published::default() },
            expected: 10,
            seen,
            ended: 0,
            failure: None,
        }
    }

    #[test]
    fn people_read_what_arrived_and_what_did_not() {
        let text = report().text();
        assert!(
            text.starts_with("subscribers    5 of 5, 0 ended, 1.50 KiB of server memory each\n")
        );
        assert!(text.contains(
            "deliveries     8 in 2.0 s, 4/s\norder          1 missing, 1 more told of in 1 gaps"
        ));
        assert!(text.contains("latency        p50 3.00 ms"));
    }

    #[test]
    fn programs_read_the_same() {
        let json = report().json();
        assert_eq!((&json["missing"], &json["per_second"]), (&json!(1), &json!(4.0)));
        assert_eq!(json["session_bytes"], json!(1_536));
    }
}
