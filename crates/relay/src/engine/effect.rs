//! What the engine wants done.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    FetchError, Gap, Message, NodeId, Owners, Page, Placed, Position, Publish, PublishError,
    ShardId, Timestamp, Topic, Want,
};
use pushonce_proto::peer::Frame;

/// To be done in the order given.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Queue a frame for a link.
    Send(NodeId, Frame),
    /// Tell the sink.
    Live(Topic, Position),
    /// Tell the sink.
    Deliver(Topic, Vec<Arc<Message>>),
    /// Tell the sink.
    Lost(Topic, Gap),
    /// Tell the sink.
    Stale(Topic),
    /// Tell the sink.
    Fresh(Topic),
    /// Tell the sink, which asked.
    Audience(Topic, u64),
    /// Keep what the clock of a peer shows.
    Clock(NodeId, Timestamp),
    /// A peer is being stopped.
    Stopping(NodeId),
    /// Tell the sink how far the log of a shard is.
    LogTime(ShardId, Timestamp),
    /// Read the history of this node's own shard, and say `Event::Read` before any other event.
    Read { purpose: Purpose, topic: Topic, want: Want },
    /// Hand a publish of a peer to the shard, and say its outcome to that peer.
    Take { from: NodeId, id: u64, publish: Publish },
    /// Answer a caller.
    Published { id: u64, outcome: Result<Placed, PublishError> },
    /// Answer a caller.
    Fetched { id: u64, result: Result<Page, FetchError> },
    /// Let everyone know who leads.
    Owners(Owners),
    /// The peer cannot be served on this link any further; a new one begins afresh.
    Reset(NodeId),
}

/// Why history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To follow a topic of this node's own.
    Follow,
    /// To see that nothing was missed.
    Audit,
    /// To answer fetch `0`.
    Fetch(u64),
}

/// The most payload that goes into one frame, unless a single message has more: small enough that
/// heartbeats and answers are not stuck behind a long catching up, large enough that the frame
/// around it costs nothing.
pub(crate) const FRAME_BYTES: usize = 256 << 10;

/// The most one head of a heartbeat takes on the wire: three numbers of ten bytes at most, and their
/// tags.
const HEAD_BYTES: usize = 40;

/// The frames of one heartbeat, at least one. So many topics may have changed that one frame of all
/// would be larger than a peer accepts, and the link would break again with each heartbeat. The doubts
/// are in each of them: a frame without would vouch for every shard.
/// The log times are in the first: they do not go back.
pub(crate) fn heartbeats(
    mut heads: Vec<(u32, Position)>,
    doubts: Vec<(ShardId, Duration)>,
    clock: Timestamp,
    mut log_times: Vec<(ShardId, Timestamp)>,
) -> impl Iterator<Item = Frame> {
    let mut first = true;
    std::iter::from_fn(move || {
        let more = std::mem::take(&mut first) || !heads.is_empty();
        let rest = heads.len().saturating_sub(FRAME_BYTES / HEAD_BYTES);
        #[cfg(feature = "planted-bugs")]
        let rest = if crate::planted::sends_one_frame() { 0 } else { rest };
        more.then(|| Frame::Heartbeat {
            heads: heads.split_off(rest),
            doubts: doubts.clone(),
            clock,
            log_times: std::mem::take(&mut log_times),
        })
    })
}

/// The way out of one topic: to a link, or to the sink, which is the link to this node itself.
pub(crate) struct Out<'a> {
    pub(crate) me: NodeId,
    pub(crate) topic: &'a Topic,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Out<'_> {
    pub(crate) fn live(&mut self, to: NodeId, number: u32, head: Position) {
        self.effects.push(if to == self.me {
            Effect::Live(self.topic.clone(), head)
        } else {
            Effect::Send(to, Frame::Interested { number, head: Some(head) })
        });
    }

    pub(crate) fn deliver(&mut self, to: NodeId, number: u32, messages: &[Arc<Message>]) {
        for chunk in chunks(messages, FRAME_BYTES) {
            let messages = chunk.to_vec();
            self.effects.push(if to == self.me {
                Effect::Deliver(self.topic.clone(), messages)
            } else {
                Effect::Send(to, Frame::Deliver { number, messages })
            });
        }
    }

    pub(crate) fn lost(&mut self, to: NodeId, number: u32, gap: Gap) {
        self.effects.push(if to == self.me {
            Effect::Lost(self.topic.clone(), gap)
        } else {
            Effect::Send(to, Frame::Lost { number, gap })
        });
    }
}

/// Slices of at most `bytes_max` of payload, or of a single message that has more; none empty.
pub(crate) fn chunks(
    mut messages: &[Arc<Message>],
    bytes_max: usize,
) -> impl Iterator<Item = &[Arc<Message>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = messages.iter().take_while(|message| {
            bytes += message.payload.len();
            bytes <= bytes_max
        });
        let count = fits.count().max(1).min(messages.len());
        let (chunk, rest) = messages.split_at(count);
        messages = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use pushonce_core::{Epoch, Offset};
    use pushonce_proto::pb::peer::v1::LinkFrame;

    use super::*;

    const CLOCK: Timestamp = Timestamp(u64::MAX);

    fn heartbeat(heads: &[(u32, Position)], doubts: &[(ShardId, Duration)]) -> Vec<Frame> {
        let log_times = doubts.iter().map(|&(shard, _)| (shard, CLOCK)).collect();
        heartbeats(heads.to_vec(), doubts.to_vec(), CLOCK, log_times).collect()
    }

    #[test]
    fn heartbeat_of_any_number_of_topics_fits_frames_that_peers_accept() {
        let at = Position { epoch: Epoch(u64::MAX), offset: Offset(u64::MAX) };
        let heads: Vec<_> = (0..500_000).map(|n| (u32::MAX - n, at)).collect();
        let doubts: Vec<_> = (0..256).map(|n| (ShardId(n), Duration::from_secs(3))).collect();
        let frames = heartbeat(&heads, &doubts);
        let mut told = Vec::new();
        for frame in frames {
            let Frame::Heartbeat { heads, doubts: repeated, .. } = &frame else {
                panic!("{frame:?}")
            };
            assert_eq!(*repeated, doubts, "a frame vouches for a shard in doubt");
            told.extend_from_slice(heads);
            let bytes = LinkFrame::from(frame).encoded_len();
            assert!(bytes <= FRAME_BYTES + 64 * doubts.len(), "{bytes} bytes");
        }
        told.sort_unstable_by_key(|told| std::cmp::Reverse(told.0));
        assert!(told == heads, "some head was lost or told twice");
    }

    #[test]
    fn heartbeat_without_news_is_sent_all_the_same() {
        assert!(
            matches!(&heartbeat(&[], &[])[..], [Frame::Heartbeat { heads, .. }] if heads.is_empty())
        );
    }
}
