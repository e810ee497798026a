//! Takes one sample a second of the metrics of this node, and converts samples to and from the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_proto::pb::peer::v1 as pb;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::exposition::Totals;
use super::latency::LatencySummary;
use super::sample_history::{Sample, SampleHistory};

/// Takes a sample in the middle of each second, so that a late timer does not leave a second out. Never returns.
/// Rendering the metrics takes less than a millisecond.
pub(in crate::node) async fn run_sampler(metrics: PrometheusHandle, history: SampleHistory) {
    let second = Duration::from_secs(1);
    let since_second = Duration::from_nanos(unix_time().subsec_nanos().into());
    let mut ticks = interval_at(Instant::now() + second * 3 / 2 - since_second, second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut previous = None;
    loop {
        let at = ticks.tick().await;
        let totals = Totals::parse(&metrics.render());
        if let Some((previous, previous_at)) = previous {
            history.push(sample(&previous, &totals, at - previous_at));
        }
        previous = Some((totals, at));
    }
}

/// What happened between two totals, for each second of `elapsed`.
fn sample(previous: &Totals, totals: &Totals, elapsed: Duration) -> Sample {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds).round() as u64;
    Sample {
        second: unix_time().as_secs(),
        published: rate(totals.published, previous.published),
        rejected: rate(totals.rejected, previous.rejected),
        delivered: rate(totals.delivered, previous.delivered),
        sent_bytes: rate(totals.sent_bytes, previous.sent_bytes),
        sessions: totals.sessions,
        subscriptions: totals.subscriptions,
        publish: totals.publish.since(&previous.publish).summary(),
        delivery: totals.delivery.since(&previous.delivery).summary(),
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl From<Sample> for pb::Sample {
    fn from(sample: Sample) -> pb::Sample {
        pb::Sample {
            second: sample.second,
            published: sample.published,
            rejected: sample.rejected,
            delivered: sample.delivered,
            sent_bytes: sample.sent_bytes,
            sessions: sample.sessions,
            subscriptions: sample.subscriptions,
            publish: sample.publish.map(pb::LatencySummary::from),
            delivery: sample.delivery.map(pb::LatencySummary::from),
        }
    }
}

impl From<pb::Sample> for Sample {
    fn from(sample: pb::Sample) -> Sample {
        Sample {
            second: sample.second,
            published: sample.published,
            rejected: sample.rejected,
            delivered: sample.delivered,
            sent_bytes: sample.sent_bytes,
            sessions: sample.sessions,
            subscriptions: sample.subscriptions,
            publish: sample.publish.map(LatencySummary::from),
            delivery: sample.delivery.map(LatencySummary::from),
        }
    }
}

impl From<LatencySummary> for pb::LatencySummary {
    fn from(LatencySummary { p50_us, p99_us }: LatencySummary) -> pb::LatencySummary {
        pb::LatencySummary { p50_us, p99_us }
    }
}

impl From<pb::LatencySummary> for LatencySummary {
    fn from(pb::LatencySummary { p50_us, p99_us }: pb::LatencySummary) -> LatencySummary {
        LatencySummary { p50_us, p99_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_has_the_rates_of_a_second_however_late_it_is_taken() {
        let previous = Totals { published: 10, delivered: 5, ..Totals::default() };
        let totals = Totals { published: 30, delivered: 5, sessions: 4, ..previous.clone() };
        let sample = sample(&previous, &totals, Duration::from_secs(2));
        assert_eq!((sample.published, sample.delivered, sample.sessions), (10, 0, 4));
        assert_eq!(Sample::from(pb::Sample::from(sample)), sample);
    }

    #[test]
    fn counter_that_went_back_gives_no_rate() {
        let previous = Totals { published: 10, ..Totals::default() };
        assert_eq!(sample(&previous, &Totals::default(), Duration::from_secs(1)).published, 0);
    }
}
