//! The effects that the engine requests.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    Acknowledgement, CommitAge, FailPoint, FetchError, Gap, HistoryPage, HistoryRange, Message,
    NodeId, Position, Publish, PublishError, ShardId, ShardOwners, Timestamp, Topic,
};
use pushonce_proto::peer::{HeartbeatTiming, PeerFrame};

/// An effect that the driver performs. Effects are performed in the order given.
#[derive(Debug)]
pub(crate) enum EngineEffect {
    /// Queue a frame for a link.
    Send(NodeId, PeerFrame),
    /// Notify the sink that a topic is live.
    Live(Topic, Position),
    /// Deliver messages to the sink, with their age unless they were read from history.
    Deliver(Topic, Vec<Arc<Message>>, Option<CommitAge>),
    /// Notify the sink of a gap.
    Gap(Topic, Gap),
    /// Notify the sink that a topic is stale.
    Stale(Topic),
    /// Notify the sink that a topic is fresh.
    Fresh(Topic),
    /// Report the number of sessions to the sink, which requested it.
    Audience(Topic, u64),
    /// Record the time of a peer's clock.
    PeerClock(NodeId, Timestamp),
    /// Record the round trip of the link to a peer.
    RoundTrip(NodeId, Duration),
    /// Record that a peer is being stopped.
    PeerStopping(NodeId),
    /// Notify the sink of the log time of a shard.
    LogTime(ShardId, Timestamp),
    /// Read the history of this node's own shard, and handle [`super::EngineEvent::Read`] before any other
    /// event.
    Read { purpose: ReadPurpose, topic: Topic, range: HistoryRange },
    /// Submit a peer's publish to the shard, and send its outcome to that peer.
    SubmitPublish { from: NodeId, id: u64, publish: Publish },
    /// Answer the publish of a caller.
    Published { id: u64, outcome: Result<Acknowledgement, PublishError> },
    /// Answer the fetch of a caller.
    Fetched { id: u64, result: Result<HistoryPage, FetchError> },
    /// Notify watchers of the changed shard owners.
    OwnersChanged(ShardOwners),
    /// Count a frame that no correct peer sends, and log its sender.
    Rejected(NodeId, &'static str),
    /// Reset the link, because the frames on it are no longer consistent. A new link starts clean.
    ResetLink(NodeId),
}

/// The reason why history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadPurpose {
    /// To follow a topic of this node's own.
    Follow,
    /// To detect missed messages.
    Audit,
    /// To answer the fetch with this id.
    Fetch(u64),
}

/// Maximum payload of one frame, unless a single message is larger. Small enough that heartbeats and replies
/// do not wait long behind catching up, large enough that the overhead of a frame is negligible.
pub(crate) const FRAME_BYTES_MAX: usize = 256 << 10;

/// Maximum encoded size of one head in a heartbeat: three numbers of at most ten bytes, and their tags.
const HEAD_BYTES_MAX: usize = 40;

/// The frames of one heartbeat, at least one. A single frame with very many changed topics would be larger
/// than a peer accepts, and the link would break at each heartbeat. `stale_shards` is in every frame, because
/// a frame without it would confirm every shard. `log_times` and `timing` are in the first only: log times do
/// not go back, and the peer answers one frame.
pub(crate) fn heartbeat_frames(
    mut heads: Vec<(u32, Position)>,
    stale_shards: Vec<(ShardId, Duration)>,
    clock: Timestamp,
    mut log_times: Vec<(ShardId, Timestamp)>,
    mut timing: HeartbeatTiming,
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
            timing: std::mem::take(&mut timing),
        })
    })
}

/// Sends the events of one topic to a downstream: a link, or the sink, which is the downstream `me`.
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

    pub(crate) fn send_messages(
        &mut self,
        to: NodeId,
        number: u32,
        messages: &[Arc<Message>],
        age: Option<CommitAge>,
    ) {
        for chunk in chunks(messages, FRAME_BYTES_MAX) {
            let messages = chunk.to_vec();
            self.effects.push(if to == self.me {
                EngineEffect::Deliver(self.topic.clone(), messages, age)
            } else {
                let age = age.map(|age| age.elapsed);
                EngineEffect::Send(to, PeerFrame::Deliver { number, messages, age })
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

/// Consecutive slices with at most `bytes_max` of payload, or a single larger message; none is empty.
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
        let timing = HeartbeatTiming { sent: Some(Duration::MAX), echo: None };
        heartbeat_frames(heads.to_vec(), stale_shards.to_vec(), CLOCK, log_times, timing).collect()
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
            assert_eq!(*repeated, stale_shards, "a frame confirms a stale shard");
            sent.extend_from_slice(heads);
            let bytes = LinkFrame::from(frame).encoded_len();
            assert!(bytes <= FRAME_BYTES_MAX + 64 * stale_shards.len(), "{bytes} bytes");
        }
        sent.sort_unstable_by_key(|head| std::cmp::Reverse(head.0));
        assert!(sent == heads, "a head was lost or sent twice");
    }

    #[test]
    fn heartbeat_is_sent_when_nothing_changed() {
        assert!(
            matches!(&heartbeat(&[], &[])[..], [PeerFrame::Heartbeat { heads, .. }] if heads.is_empty())
        );
    }
}
