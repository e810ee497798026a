//! The output of the demo: where to connect at its start, and the results at its end.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::viewers::DemoViewers;
use crate::output;

/// The measurements of the publisher.
pub(super) struct DemoReport {
    /// The start time of the demo.
    pub(super) started_at: Instant,
    /// The time until the first acknowledgement.
    pub(super) time_to_form: Duration,
    /// Number of acknowledged messages on the topic of all events.
    pub(super) live_acknowledged: u64,
    /// Number of publishes without an acknowledgement.
    pub(super) failed: u64,
    pub(super) viewers: DemoViewers,
    /// Microseconds from publish to acknowledgement.
    acknowledge_latency: Histogram<u64>,
}

impl DemoReport {
    pub(super) fn new(started_at: Instant) -> DemoReport {
        DemoReport {
            started_at,
            time_to_form: Duration::ZERO,
            live_acknowledged: 0,
            failed: 0,
            viewers: DemoViewers::default(),
            acknowledge_latency: new_histogram(),
        }
    }

    pub(super) fn on_acknowledged(&mut self, latency: Duration, live: bool) {
        record_latency(&mut self.acknowledge_latency, latency);
        self.live_acknowledged += u64::from(live);
    }

    /// Number of publishes with an acknowledgement.
    pub(super) fn acknowledged_count(&self) -> u64 {
        self.acknowledge_latency.len()
    }

    pub(super) fn text(&self) -> String {
        format!(
            "\npublished      {} messages in {:.0?}, {} without acknowledgement\n\
             acknowledged   {}\n{}",
            self.acknowledge_latency.len() + self.failed,
            self.started_at.elapsed(),
            self.failed,
            percentiles_text(&self.acknowledge_latency),
            self.viewers.text(self.live_acknowledged),
        )
    }
}

/// The welcome text; `addresses` are the ports of each node: HTTP, QUIC, gRPC, peers.
pub(super) fn welcome_text(addresses: &[[u16; 4]], time_to_form: Duration) -> String {
    let [http, quic, grpc, _] = addresses.first().copied().unwrap_or_default();
    let others: Vec<_> =
        addresses.iter().skip(1).map(|a| format!("http://127.0.0.1:{}/", a[0])).collect();
    let third = addresses.last().copied().unwrap_or_default();
    format!(
        "Three nodes formed a cluster and accepted the first publish after {time_to_form:.1?}.

  the scoreboard   http://127.0.0.1:{http}/    (and on the other nodes: {others})

  newest state     curl -i http://127.0.0.1:{http}/topics/worldcup/2026/live
  publish          curl -d '{{\"text\":\"hello\"}}' http://127.0.0.1:{}/topics/chat/7
  WebSocket        pushonce subscribe worldcup/2026/live --from last:3 --server http://127.0.0.1:{}
  QUIC             pushonce subscribe worldcup/2026/live --from last:3 --server quic://127.0.0.1:{quic}
  the cluster      pushonce cluster status --server http://127.0.0.1:{grpc}
  gRPC             grpcurl -plaintext -d '{{\"topic\":\"worldcup/2026/live\",\"from\":{{\"last\":3}}}}' \\
                     127.0.0.1:{grpc} pushonce.publisher.v1.PublisherService/Subscribe

Ctrl-C ends it.
",
        third[0],
        third[0],
        others = others.join(" "),
    )
}

/// A histogram from one microsecond to one minute with three digits.
pub(super) fn new_histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constant and valid"));
    histogram.auto(true);
    histogram
}

/// Records a latency in microseconds; values outside the bounds are clamped.
pub(super) fn record_latency(histogram: &mut Histogram<u64>, latency: Duration) {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(micros.clamp(1, 60_000_000));
}

pub(super) fn percentiles_text(histogram: &Histogram<u64>) -> String {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0))
}

pub(super) fn print(text: &str) {
    // The pages show the same, so the demo continues without a terminal.
    let _ = output::write(text.as_bytes());
}
