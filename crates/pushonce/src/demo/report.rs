//! What the demo says: where to look at its beginning, what happened at its end.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::viewers::Viewers;
use crate::output;

/// What was seen from the publisher's side, and from the viewers'.
pub(super) struct Report {
    /// When the demo was started.
    pub(super) begun: Instant,
    /// How long until the first acknowledgement.
    pub(super) formed: Duration,
    /// Acknowledged messages on the topic of all events.
    pub(super) live: u64,
    /// Publishes without an acknowledgement.
    pub(super) failed: u64,
    pub(super) viewers: Viewers,
    /// Microseconds from publish to acknowledgement.
    acknowledged: Histogram<u64>,
}

impl Report {
    pub(super) fn new(begun: Instant) -> Report {
        Report {
            begun,
            formed: Duration::ZERO,
            live: 0,
            failed: 0,
            viewers: Viewers::default(),
            acknowledged: histogram(),
        }
    }

    pub(super) fn acknowledged(&mut self, after: Duration, live: bool) {
        record(&mut self.acknowledged, after);
        self.live += u64::from(live);
    }

    /// Publishes with an acknowledgement.
    pub(super) fn placed(&self) -> u64 {
        self.acknowledged.len()
    }

    pub(super) fn text(&self) -> String {
        format!(
            "\npublished      {} messages in {:.0?}, {} without acknowledgement\n\
             acknowledged   {}\n{}",
            self.acknowledged.len() + self.failed,
            self.begun.elapsed(),
            self.failed,
            percentiles(&self.acknowledged),
            self.viewers.text(self.live),
        )
    }
}

/// Where to look; `addresses` are the ports of each node: HTTP, QUIC, gRPC, peers.
pub(super) fn welcome(addresses: &[[u16; 4]], formed: Duration) -> String {
    let [http, quic, grpc, _] = addresses.first().copied().unwrap_or_default();
    let others: Vec<_> =
        addresses.iter().skip(1).map(|a| format!("http://127.0.0.1:{}/", a[0])).collect();
    let third = addresses.last().copied().unwrap_or_default();
    format!(
        "Three nodes formed a cluster and took the first publish after {formed:.1?}.

  the scoreboard   http://127.0.0.1:{http}/    (and on the other nodes: {others})

  newest state     curl -i http://127.0.0.1:{http}/topics/worldcup/2026/live
  publish          curl -d '{{\"text\":\"hello\"}}' http://127.0.0.1:{}/topics/chat/7
  WebSocket        pushonce subscribe worldcup/2026/live --from last:3 --server http://127.0.0.1:{}
  QUIC             pushonce subscribe worldcup/2026/live --from last:3 --server quic://127.0.0.1:{quic}
  the cluster      pushonce cluster status --server http://127.0.0.1:{grpc}
  gRPC             grpcurl -plaintext -d '{{\"topic\":\"worldcup/2026/live\",\"from\":{{\"last\":3}}}}' \\
                     127.0.0.1:{grpc} pushonce.publisher.v1.Publisher/Subscribe

Ctrl-C ends it.
",
        third[0],
        third[0],
        others = others.join(" "),
    )
}

/// From a microsecond to a minute, to three digits.
pub(super) fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constant and good"));
    histogram.auto(true);
    histogram
}

/// What lies outside the bounds counts as the bound.
pub(super) fn record(histogram: &mut Histogram<u64>, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(micros.clamp(1, 60_000_000));
}

pub(super) fn percentiles(histogram: &Histogram<u64>) -> String {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0))
}

pub(super) fn say(text: &str) {
    // The pages show the same: a demo goes on without its terminal.
    let _ = output::write(text.as_bytes());
}
