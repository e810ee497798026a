//! The output of the demo: where to connect at its start, and the results at its end.

use std::time::Duration;

use pushonce_instruments::LatencyHistogram;
use tokio::time::Instant;

use crate::nodes::NodePorts;
use crate::viewers::DemoViewers;

/// The measurements of the publisher.
pub(crate) struct DemoReport {
    /// The start time of the demo.
    pub(crate) started_at: Instant,
    /// The time until the first acknowledgement.
    pub(crate) time_to_form: Duration,
    /// Number of acknowledged messages on the topic of all events.
    pub(crate) live_acknowledged: u64,
    /// Number of publishes without an acknowledgement.
    pub(crate) failed: u64,
    pub(crate) viewers: DemoViewers,
    /// From publish to acknowledgement.
    acknowledge_latency: LatencyHistogram,
}

impl DemoReport {
    pub(crate) fn new(started_at: Instant) -> DemoReport {
        DemoReport {
            started_at,
            time_to_form: Duration::ZERO,
            live_acknowledged: 0,
            failed: 0,
            viewers: DemoViewers::default(),
            acknowledge_latency: LatencyHistogram::default(),
        }
    }

    pub(crate) fn on_acknowledged(&mut self, latency: Duration) {
        self.acknowledge_latency.record(latency);
    }

    /// Number of publishes with an acknowledgement.
    pub(crate) fn acknowledged_count(&self) -> u64 {
        self.acknowledge_latency.count()
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "\npublished      {} messages in {:.0?}, {} without acknowledgement\n\
             acknowledged   {}\n{}",
            self.acknowledge_latency.count() + self.failed,
            self.started_at.elapsed(),
            self.failed,
            percentiles_text(&self.acknowledge_latency),
            self.viewers.text(self.live_acknowledged),
        )
    }
}

/// Where to connect; `time_to_form` is the time until the first acknowledgement.
pub(crate) fn welcome_text(ports: &[NodePorts], time_to_form: Duration) -> String {
    let [Some(&first), Some(&last)] = [ports.first(), ports.last()] else { return String::new() };
    let NodePorts { http, quic, grpc, .. } = first;
    let others = ports.iter().skip(1).map(|ports| format!("http://127.0.0.1:{}/", ports.http));
    format!(
        "Three nodes formed a cluster and accepted the first publish after {time_to_form:.1?}.

  the page         http://127.0.0.1:{http}/    (and on the other nodes: {others})

  newest state     curl -i http://127.0.0.1:{http}/topics/worldcup/2026/live
  publish          curl -d '{{\"text\":\"hello\"}}' http://127.0.0.1:{}/topics/chat/7
  WebSocket        pushonce subscribe worldcup/2026/live --from last:3 --server http://127.0.0.1:{}
  QUIC             pushonce subscribe worldcup/2026/live --from last:3 --server quic://127.0.0.1:{quic}
  the cluster      pushonce cluster status --server http://127.0.0.1:{grpc}
  gRPC             grpcurl -plaintext -d '{{\"topic\":\"worldcup/2026/live\",\"startFrom\":{{\"last\":3}}}}' \\
                     127.0.0.1:{grpc} pushonce.publisher.v1.PublisherService/Subscribe

Ctrl-C ends it.
",
        last.http,
        last.http,
        others = others.collect::<Vec<_>>().join(" "),
    )
}

pub(crate) fn percentiles_text(latency: &LatencyHistogram) -> String {
    let at = |quantile| latency.quantile_ms(quantile);
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0))
}
