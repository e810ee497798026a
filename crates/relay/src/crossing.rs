//! What is counted of what goes over a link: copies of messages, by the regions they go between.

use metrics::{Counter, counter};
use pushonce_core::ClusterView;
use pushonce_core::{Message, NodeId};
use pushonce_proto::peer::{FetchedPart, Frame};

/// The counters of one link. Counted by the sender, once per copy of a message.
pub(crate) struct Crossing {
    deliver: Kind,
    publish: Kind,
    fetch: Kind,
}

struct Kind {
    messages: Counter,
    bytes: Counter,
}

impl Crossing {
    pub(crate) fn new(view: &ClusterView, me: NodeId, peer: NodeId) -> Crossing {
        let kind = |kind| Kind::new(view.region(me), view.region(peer), kind);
        Crossing { deliver: kind("deliver"), publish: kind("publish"), fetch: kind("fetch") }
    }

    /// Counts a frame that is sent.
    pub(crate) fn count(&self, frame: &Frame) {
        match frame {
            Frame::Deliver { messages, .. } => self.deliver.count(messages.iter().map(size)),
            Frame::Publish { publish, .. } => {
                self.publish.count(std::iter::once(publish.payload.len()));
            }
            Frame::Fetched {
                part: FetchedPart::More(messages) | FetchedPart::Done { messages, .. },
                ..
            } => self.fetch.count(messages.iter().map(size)),
            _ => {}
        }
    }
}

impl Kind {
    fn new(from: &str, to: &str, kind: &'static str) -> Kind {
        let labels =
            [("from_region", from.to_owned()), ("to_region", to.to_owned()), ("kind", kind.into())];
        Kind {
            messages: counter!("pushonce_relay_deliver_total", &labels),
            bytes: counter!("pushonce_relay_deliver_bytes_total", &labels),
        }
    }

    fn count(&self, sizes: impl Iterator<Item = usize>) {
        let (messages, bytes) =
            sizes.fold((0, 0), |(messages, bytes), size| (messages + 1, bytes + size as u64));
        self.messages.increment(messages);
        self.bytes.increment(bytes);
    }
}

fn size(message: &std::sync::Arc<Message>) -> usize {
    message.payload.len()
}
