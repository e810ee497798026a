//! Metrics of a link, labelled with the regions of its ends.

use std::time::Duration;

use pushonce_core::{ClusterView, Message, NodeId};
use pushonce_proto::peer::{FetchedPart, PeerFrame};
use pushonce_telemetry::{Counter, Histogram};

use crate::metrics;

/// The metric handles of one link. The sender counts each copy of a message once.
pub(crate) struct RegionTraffic {
    round_trip_seconds: Histogram,
    deliver: TrafficCounters,
    publish: TrafficCounters,
    fetch: TrafficCounters,
}

struct TrafficCounters {
    messages: Counter,
    bytes: Counter,
}

impl RegionTraffic {
    pub(crate) fn new(view: &ClusterView, me: NodeId, peer: NodeId) -> RegionTraffic {
        let counters = |kind| TrafficCounters::new(view.region_of(me), view.region_of(peer), kind);
        let regions = &[view.region_of(me), view.region_of(peer)];
        RegionTraffic {
            round_trip_seconds: metrics::ROUND_TRIP.register_histogram(regions),
            deliver: counters("deliver"),
            publish: counters("publish"),
            fetch: counters("fetch"),
        }
    }

    /// Records a round trip to the peer.
    pub(crate) fn record_round_trip(&self, time: Duration) {
        self.round_trip_seconds.record(time);
    }

    /// Counts a frame that is sent.
    pub(crate) fn record(&self, frame: &PeerFrame) {
        match frame {
            PeerFrame::Deliver { messages, .. } => {
                self.deliver.record(messages.iter().map(payload_bytes))
            }
            PeerFrame::Publish { publish, .. } => {
                self.publish.record(std::iter::once(publish.payload.len()));
            }
            PeerFrame::Fetched {
                part: FetchedPart::More(messages) | FetchedPart::Done { messages, .. },
                ..
            } => self.fetch.record(messages.iter().map(payload_bytes)),
            _ => {}
        }
    }
}

impl TrafficCounters {
    fn new(from: &str, to: &str, kind: &str) -> TrafficCounters {
        let values = &[from, to, kind];
        TrafficCounters {
            messages: metrics::SENT_MESSAGES.register_counter(values),
            bytes: metrics::SENT_BYTES.register_counter(values),
        }
    }

    fn record(&self, sizes: impl Iterator<Item = usize>) {
        let (messages, bytes) =
            sizes.fold((0, 0), |(messages, bytes), size| (messages + 1, bytes + size as u64));
        self.messages.increment(messages);
        self.bytes.increment(bytes);
    }
}

fn payload_bytes(message: &std::sync::Arc<Message>) -> usize {
    message.payload.len()
}
