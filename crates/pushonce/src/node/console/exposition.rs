//! The totals of a node, read from its own metrics page: the metrics exist anyway, so a message costs nothing more.

use super::latency::LatencyCounts;

/// The sums of the metrics that the console shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) published: u64,
    pub(super) rejected: u64,
    pub(super) delivered: u64,
    pub(super) sent_bytes: u64,
    pub(super) sessions: u64,
    pub(super) subscriptions: u64,
    pub(super) publish: LatencyCounts,
    pub(super) delivery: LatencyCounts,
}

/// The series of a histogram that is being read, and the number of observations up to its previous bucket.
#[derive(Default)]
struct SeriesPlace<'a> {
    series: &'a str,
    cumulative: u64,
}

impl Totals {
    /// Reads the Prometheus text format. Lines of other metrics, and lines that are malformed, are skipped.
    pub(super) fn parse(text: &str) -> Totals {
        let mut totals = Totals::default();
        let mut place = SeriesPlace::default();
        for line in text.lines().filter(|line| line.starts_with("pushonce_")) {
            totals.add_line(line, &mut place);
        }
        totals
    }

    fn add_line<'a>(&mut self, line: &'a str, place: &mut SeriesPlace<'a>) -> Option<()> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let latencies = match name {
            "pushonce_gateway_publish_seconds_bucket" | "pushonce_publish_grpc_seconds_bucket" => {
                &mut self.publish
            }
            "pushonce_fanout_delivery_lag_seconds_bucket" => &mut self.delivery,
            _ => {
                let is_acknowledged = labels.contains(r#"outcome="acknowledged""#);
                let sum = match name {
                    "pushonce_publishes_total" if is_acknowledged => &mut self.published,
                    "pushonce_publishes_total" => &mut self.rejected,
                    "pushonce_fanout_deliveries_total" => &mut self.delivered,
                    "pushonce_gateway_sent_bytes_total" => &mut self.sent_bytes,
                    "pushonce_fanout_sessions" => &mut self.sessions,
                    "pushonce_fanout_subscriptions" => &mut self.subscriptions,
                    _ => return None,
                };
                *sum += parse_count(value)?;
                return Some(());
            }
        };
        // The buckets of a series follow each other, and each counts the ones before it too.
        let (labels, bound) = series.rsplit_once("le=\"")?;
        let bound = bound.strip_suffix("\"}")?;
        let cumulative = parse_count(value)?;
        let before = if place.series == labels { place.cumulative } else { 0 };
        *place = SeriesPlace { series: labels, cumulative };
        latencies.add(bound.parse().ok()?, cumulative.saturating_sub(before));
        Some(())
    }
}

fn parse_count(value: &str) -> Option<u64> {
    // Gauges have the form of floating-point numbers.
    let value: f64 = value.parse().ok()?;
    Some(value.max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::super::latency::LatencySummary;
    use super::*;

    #[test]
    fn totals_are_the_sums_over_the_labels() {
        let text = r#"
# HELP pushonce_publishes_total Publishes received
pushonce_publishes_total{outcome="acknowledged"} 7
pushonce_publishes_total{outcome="invalid"} 2
pushonce_publishes_total{outcome="overloaded"} 1
pushonce_fanout_deliveries_total 30
pushonce_gateway_sent_bytes_total{transport="websocket"} 100
pushonce_gateway_sent_bytes_total{transport="quic"} 20
pushonce_fanout_sessions 3.0
pushonce_fanout_subscriptions{transport="websocket"} 4
pushonce_other_total 9
malformed
"#;
        let totals = Totals::parse(text);
        assert_eq!((totals.published, totals.rejected, totals.delivered), (7, 3, 30));
        assert_eq!((totals.sent_bytes, totals.sessions, totals.subscriptions), (120, 3, 4));
    }

    #[test]
    fn buckets_of_several_series_are_added() {
        let text = r#"
pushonce_gateway_publish_seconds_bucket{transport="http",le="0.001"} 1
pushonce_gateway_publish_seconds_bucket{transport="http",le="0.01"} 1
pushonce_gateway_publish_seconds_bucket{transport="http",le="+Inf"} 1
pushonce_gateway_publish_seconds_sum{transport="http"} 0.0005
pushonce_gateway_publish_seconds_bucket{transport="quic",le="0.001"} 0
pushonce_gateway_publish_seconds_bucket{transport="quic",le="0.01"} 2
pushonce_gateway_publish_seconds_bucket{transport="quic",le="+Inf"} 2
pushonce_publish_grpc_seconds_bucket{call="unary",le="0.002"} 0
"#;
        let expected = LatencySummary { p50_us: 10_000, p99_us: 10_000 };
        assert_eq!(Totals::parse(text).publish.summary(), Some(expected));
        assert_eq!(Totals::parse(text).delivery.summary(), None);
    }
}
