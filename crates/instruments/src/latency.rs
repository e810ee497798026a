//! Percentiles of latencies.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// One minute in microseconds. Longer latencies count as this.
const MICROS_MAX: u64 = 60_000_000;

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// A histogram from one microsecond to one minute with three digits, in about 150 KiB.
#[derive(Clone)]
pub struct LatencyHistogram(Histogram<u64>);

impl Default for LatencyHistogram {
    fn default() -> LatencyHistogram {
        let histogram = Histogram::new_with_bounds(1, MICROS_MAX, 3)
            .unwrap_or_else(|_| unreachable!("the bounds are constant and valid"));
        LatencyHistogram(histogram)
    }
}

impl LatencyHistogram {
    /// Records a latency.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MICROS_MAX);
        self.0.saturating_record(micros.clamp(1, MICROS_MAX));
    }

    /// Adds all latencies of another histogram.
    pub fn add(&mut self, other: &LatencyHistogram) {
        // Cannot fail: all histograms have the same bounds.
        let _same_bounds = self.0.add(&other.0);
    }

    /// The number of recorded latencies.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The percentiles as a line of text.
    pub fn text(&self) -> String {
        if self.0.is_empty() {
            return "not measured".to_owned();
        }
        let quantiles =
            QUANTILES.map(|(name, at)| format!("{name} {:.2} ms", self.quantile_ms(at)));
        quantiles.join("  ")
    }

    /// The percentiles in milliseconds by name; null when nothing was recorded.
    pub fn json(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        QUANTILES.iter().map(|&(name, at)| (name.to_owned(), json!(self.quantile_ms(at)))).collect()
    }

    /// A quantile from 0 to 1, in milliseconds; 0 when nothing was recorded.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_formatted_in_milliseconds() {
        let mut latency = LatencyHistogram::default();
        for micros in 1..=1_000 {
            latency.record(Duration::from_micros(micros));
        }
        assert_eq!(
            latency.text(),
            "p50 0.50 ms  p90 0.90 ms  p99 0.99 ms  p99.9 1.00 ms  max 1.00 ms"
        );
        assert_eq!(latency.json()["p50"], json!(0.5));
    }

    #[test]
    fn empty_histogram_is_reported_as_not_measured() {
        assert_eq!(LatencyHistogram::default().text(), "not measured");
        assert_eq!(LatencyHistogram::default().json(), Value::Null);
    }

    /// Compares to three digits.
    fn quantile_is(latency: &LatencyHistogram, quantile: &str, millis: f64) -> bool {
        (latency.json()[quantile].as_f64().unwrap() / millis - 1.0).abs() < 0.001
    }

    #[test]
    fn values_out_of_bounds_are_clamped() {
        let mut latency = LatencyHistogram::default();
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(3_600));
        assert!(quantile_is(&latency, "p50", 0.001) && quantile_is(&latency, "max", 60_000.0));
    }

    #[test]
    fn histograms_add_up() {
        let (mut one, mut other) = (LatencyHistogram::default(), LatencyHistogram::default());
        one.record(Duration::from_millis(1));
        other.record(Duration::from_millis(3));
        one.add(&other);
        assert!(one.count() == 2 && quantile_is(&one, "p50", 1.0) && quantile_is(&one, "max", 3.0));
    }
}
