//! What the engine wants done.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    Acknowledgement, FailPoint, FetchError, Gap, HistoryPage, HistoryRange, Message, NodeId,
    Position, Publish, PublishError, ShardId, ShardOwners, Timestamp, Topic,
};
use pushonce_proto::peer::PeerFrame;

/// To be done in the order given.
#[derive(Debug)]
pub(crate) enum EngineEffect {
    /// Queue a frame for a link.
    Send(NodeId, PeerFrame),
    /// Tell the sink.
    Live(Topic, Position),
    /// Tell the sink.
    Deliver(Topic, Vec<Arc<Message>>),
    /// Tell the sink.
    Gap(Topic, Gap),
    /// Tell the sink.
    Stale(Topic),
    /// Tell the sink.
    Fresh(Topic),
    /// Tell the sink, which asked.
    Audience(Topic, u64),
    /// Keep what the clock of a peer shows.
    PeerClock(NodeId, Timestamp),
    /// A peer is being stopped.
    PeerStopping(NodeId),
    /// Tell the sink how far the log of a shard is.
    LogTime(ShardId, Timestamp),
    /// Read the history of this node's own shard, and say `EngineEvent::StreamRead` before any other event.
    Read { purpose: ReadPurpose, topic: Topic, range: HistoryRange },
    /// Hand a publish of a peer to the shard, and say its outcome to that peer.
    SubmitPublish { from: NodeId, id: u64, publish: Publish },
    /// Answer a caller.
    Published { id: u64, outcome: Result<Acknowledgement, PublishError> },
    /// Answer a caller.
    Fetched { id: u64, result: Result<HistoryPage, FetchError> },
    /// Let everyone know who leads.
    OwnersChanged(ShardOwners),
    /// The peer cannot be served on this link any further; a new one begins afresh.
    ResetLink(NodeId),
}

/// Why history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadPurpose {
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
pub(crate) const FRAME_BYTES_MAX: usize = 256 << 10;

/// The most one head of a heartbeat takes on the wire: three numbers of ten bytes at most, and their
/// tags.
const HEAD_BYTES_MAX: usize = 40;

/// The frames of one heartbeat, at least one. So many topics may have changed that one frame of all
/// would be larger than a peer accepts, and the link would break again with each heartbeat. The doubts
/// are in each of them: a frame without would vouch for every shard.
/// The log times are in the first: they do not go back.
pub(crate) fn heartbeat_frames(
    mut heads: Vec<(u32, Position)>,
    stale_shards: Vec<(ShardId, Duration)>,
    clock: Timestamp,
    mut log_times: Vec<(ShardId, Timestamp)>,
) -> impl Iterator<Item = PeerFrame> {
    let mut first = true;
    std::iter::from_fn(move || {
        let more = std::mem::take(&mut first) || !heads.is_empty();
        let split_at = match FailPoint::HeartbeatUnsplit.is_active() {
            true => 0,
            false => heads.len().saturating_sub(FRAME_BYTES_MAX / HEAD_BYTES_MAX),
        };
        more.then(|| PeerFrame::Heartbeat {
            heads: heads.split_off(split_at),
            stale_shards: stale_shards.clone(),
            clock,
            log_times: std::mem::take(&mut log_times),
        })
    })
}

/// The way out of one topic: to a link, or to the sink, which is the link to this node itself.
pub(crate) struct TopicSender<'a> {
    pub(crate) me: NodeId,
    pub(crate) topic: &'a Topic,
    pub(crate) effects: &'a mut Vec<EngineEffect>,
}

impl TopicSender<'_> {
    pub(crate) fn send_live(&mut self, to: NodeId, number: u32, head: Position) {
        self.effects.push(if to == self.me {
            EngineEffect::Live(self.topic.clone(), head)
        } else {
            EngineEffect::Send(to, PeerFrame::Interested { number, head: Some(head) })
        });
    }

    pub(crate) fn send_messages(&mut self, to: NodeId, number: u32, messages: &[Arc<Message>]) {
        for chunk in chunks(messages, FRAME_BYTES_MAX) {
            let messages = chunk.to_vec();
            self.effects.push(if to == self.me {
                EngineEffect::Deliver(self.topic.clone(), messages)
            } else {
                EngineEffect::Send(to, PeerFrame::Deliver { number, messages })
            });
        }
    }

    pub(crate) fn send_gap(&mut self, to: NodeId, number: u32, gap: Gap) {
        self.effects.push(if to == self.me {
            EngineEffect::Gap(self.topic.clone(), gap)
        } else {
            EngineEffect::Send(to, PeerFrame::Lost { number, gap })
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
        let (chunk, remaining) = messages.split_at(count);
        messages = remaining;
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

    fn heartbeat(
        heads: &[(u32, Position)],
        stale_shards: &[(ShardId, Duration)],
    ) -> Vec<PeerFrame> {
        let log_times = stale_shards.iter().map(|&(shard, _)| (shard, CLOCK)).collect();
        heartbeat_frames(heads.to_vec(), stale_shards.to_vec(), CLOCK, log_times).collect()
    }

    #[test]
    fn heartbeat_of_any_number_of_topics_fits_frames_that_peers_accept() {
        let at = Position { epoch: Epoch(u64::MAX), offset: Offset(u64::MAX) };
        let heads: Vec<_> = (0..500_000).map(|n| (u32::MAX - n, at)).collect();
        let stale_shards: Vec<_> = (0..256).map(|n| (ShardId(n), Duration::from_secs(3))).collect();
        let frames = heartbeat(&heads, &stale_shards);
        let mut sent = Vec::new();
        for frame in frames {
            let PeerFrame::Heartbeat { heads, stale_shards: repeated, .. } = &frame else {
                panic!("{frame:?}")
            };
            assert_eq!(*repeated, stale_shards, "a frame vouches for a shard in doubt");
            sent.extend_from_slice(heads);
            let bytes = LinkFrame::from(frame).encoded_len();
            assert!(bytes <= FRAME_BYTES_MAX + 64 * stale_shards.len(), "{bytes} bytes");
        }
        sent.sort_unstable_by_key(|head| std::cmp::Reverse(head.0));
        assert!(sent == heads, "some head was lost or told twice");
    }

    #[test]
    fn heartbeat_is_sent_when_nothing_changed() {
        assert!(
            matches!(&heartbeat(&[], &[])[..], [PeerFrame::Heartbeat { heads, .. }] if heads.is_empty())
        );
    }
}
