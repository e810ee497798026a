//! One link: who is at the other end, and what it says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pushonce_core::{
    ClusterId, ClusterVersion, Message, NodeId, UnsupportedVersion, VersionConflict, VersionOffer,
    VersionRange,
};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::{FetchedPart, Frame};
use pushonce_proto::status::describe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::Config;
use crate::outbox::Outbox;

/// Both sides have said who they are.
pub(crate) struct Link {
    /// The peer.
    pub(crate) node: NodeId,
    /// The way to it.
    pub(crate) outbox: Arc<Outbox>,
    /// The way from it.
    pub(crate) inbound: Streaming<pb::LinkFrames>,
    /// What it said in one breath with its greeting.
    pub(crate) early: Vec<Frame>,
    /// Cancelled when the link ends, by whichever side.
    pub(crate) life: CancellationToken,
}

/// What was heard on a link, known by its number: a peer may come back before its last link ends.
pub(crate) struct Heard {
    pub(crate) node: NodeId,
    pub(crate) link: u64,
    pub(crate) what: What,
}

/// See [`Heard`].
pub(crate) enum What {
    Frames(Vec<Frame>),
    /// It ended, and why.
    Down(String),
}

/// Why the other end is not who it should be. Each says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misdialled {
    #[error("a link begins with a hello; this is no node of Pushonce, or of another version")]
    NoHello,
    #[error("this is cluster {ours}, not {theirs}; correct the address you dial")]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error("this is {me}, not {meant}; correct the address of {meant}")]
    OtherNode { me: NodeId, meant: NodeId },
    #[error("{node} answers at the address of {meant}; correct it")]
    OtherAnswers { node: NodeId, meant: NodeId },
    #[error("a link is opened by the lower node id: {me} dials {node}")]
    WrongWay { me: NodeId, node: NodeId },
    #[error("{conflict}")]
    Version { node: NodeId, conflict: VersionConflict },
    #[error("{node} is not in the cluster any more; an id is never used again, join as a new node")]
    Gone { node: NodeId },
}

impl From<Misdialled> for Status {
    fn from(why: Misdialled) -> Status {
        Status::failed_precondition(why.to_string())
    }
}

/// Metadata of a refusal: the versions of the node that refuses.
pub(crate) const VERSIONS: &str = "pushonce-versions";

/// The first frame of this node on a link.
pub(crate) fn hello(config: &Config, to: NodeId) -> Frame {
    let &Config { cluster, me, ref agreed, .. } = config;
    Frame::Hello { cluster, node: me, to: Some(to), versions: Some(agreed.offer()) }
}

/// Reads out of its first frame who is at the other end, and the version to write to it.
pub(crate) fn greeted(
    cluster: ClusterId,
    me: NodeId,
    ours: VersionOffer,
    hello: &Frame,
) -> Result<(NodeId, ClusterVersion), Misdialled> {
    let &Frame::Hello { cluster: theirs, node, to, versions } = hello else {
        return Err(Misdialled::NoHello);
    };
    if theirs != cluster {
        return Err(Misdialled::OtherCluster { ours: cluster, theirs });
    }
    match to {
        Some(meant) if meant != me => Err(Misdialled::OtherNode { me, meant }),
        _ => match ours.check(versions) {
            Ok(version) => Ok((node, version)),
            Err(conflict) => Err(Misdialled::Version { node, conflict }),
        },
    }
}

/// Says everything that comes over the link, and at last that it ended. When the relay is behind,
/// this waits, and with it the peer. A link without a word for `silence` is given up.
pub(crate) async fn read(number: u64, link: Link, heard: mpsc::Sender<Heard>, silence: Duration) {
    let Link { node, mut inbound, life, .. } = link;
    let why = loop {
        let next = tokio::select! {
            () = life.cancelled() => break "closed by this node".to_owned(),
            next = tokio::time::timeout(silence, inbound.message()) => next,
        };
        match next {
            Err(_) => break format!("silent for {silence:?}"),
            Ok(Err(status)) => break describe(&status),
            Ok(Ok(None)) => break "closed by the peer".to_owned(),
            Ok(Ok(Some(frames))) => {
                if let Err(why) = supported(&frames) {
                    break why.to_string();
                }
                let what = What::Frames(frames_of(node, frames));
                if heard.send(Heard { node, link: number, what }).await.is_err() {
                    break "the relay has ended".to_owned();
                }
            }
        }
    };
    life.cancel();
    // Nobody listens any more only when the relay has ended.
    let _ended = heard.send(Heard { node, link: number, what: What::Down(why) }).await;
}

/// Whether this build reads the version in which frames are written. It was agreed on when the link was
/// opened, and may be raised since.
pub(crate) fn supported(frames: &pb::LinkFrames) -> Result<(), UnsupportedVersion> {
    let version = ClusterVersion(u16::try_from(frames.version).unwrap_or(u16::MAX));
    VersionRange::SUPPORTED.accept(version).map(drop)
}

/// A frame that cannot be read is left out: of a newer version, it is not for this one; of this
/// version, the hole it leaves is noticed and mended.
pub(crate) fn frames_of(node: NodeId, frames: pb::LinkFrames) -> Vec<Frame> {
    let read = frames.frames.into_iter().filter_map(|frame| match Frame::try_from(frame) {
        Ok(frame) => Some(unpinned(frame)),
        Err(why) => {
            tracing::warn!(%node, %why, "a frame cannot be read");
            metrics::counter!("pushonce_relay_bad_frames_total").increment(1);
            None
        }
    });
    read.collect()
}

/// Payloads come as slices of the buffer they arrived in. Kept for long, a small one would keep the
/// whole buffer.
fn unpinned(mut frame: Frame) -> Frame {
    match &mut frame {
        Frame::Deliver { messages, .. }
        | Frame::Fetched {
            part: FetchedPart::More(messages) | FetchedPart::Done { messages, .. },
            ..
        } => messages.iter_mut().filter_map(Arc::get_mut).for_each(unpin),
        _ => {}
    }
    frame
}

fn unpin(message: &mut Message) {
    if message.payload.len() < COPIED_BELOW_BYTES {
        message.payload = Bytes::copy_from_slice(&message.payload);
    }
}

/// A payload of this size is a fair part of the buffer it came in, and its copy is no longer cheap.
const COPIED_BELOW_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use pushonce_core::Timestamp;

    use super::*;

    const OURS: ClusterId = ClusterId(7);
    const ME: NodeId = NodeId(2);
    const OFFER: VersionOffer =
        VersionOffer { supported: VersionRange::SUPPORTED, agreed: VersionRange::SUPPORTED.min };

    fn greeted(cluster: ClusterId, me: NodeId, hello: &Frame) -> Result<NodeId, Misdialled> {
        super::greeted(cluster, me, OFFER, hello).map(|(node, _)| node)
    }

    #[test]
    fn a_greeting_of_a_build_that_does_not_fit_is_refused_in_words() {
        let greet = |versions| {
            let hello = Frame::Hello { cluster: OURS, node: NodeId(1), to: Some(ME), versions };
            greeted(OURS, ME, &hello).map_err(|why| why.to_string())
        };
        assert_eq!(greet(Some(OFFER)), Ok(NodeId(1)));
        let why = greet(None).unwrap_err();
        assert!(why.contains("older than cluster versions"), "{why}");
        let only = VersionRange::only(VersionRange::SUPPORTED.max.next());
        let why = greet(Some(VersionOffer { supported: only, agreed: only.max })).unwrap_err();
        assert!(why.contains("on this node"), "{why}");
    }

    fn hello(cluster: u128, to: Option<u64>) -> Frame {
        let versions = Some(OFFER);
        Frame::Hello { cluster: ClusterId(cluster), node: NodeId(1), to: to.map(NodeId), versions }
    }

    #[test]
    fn a_greeting_for_another_cluster_or_node_is_refused_with_what_to_change() {
        assert_eq!(greeted(OURS, ME, &hello(7, Some(2))), Ok(NodeId(1)));
        assert_eq!(greeted(OURS, ME, &hello(7, None)), Ok(NodeId(1)));
        let theirs = ClusterId(8);
        let other = Misdialled::OtherCluster { ours: OURS, theirs };
        assert_eq!(greeted(OURS, ME, &hello(8, Some(2))), Err(other));
        let other = Misdialled::OtherNode { me: ME, meant: NodeId(3) };
        assert_eq!(other.to_string(), "this is n2, not n3; correct the address of n3");
        assert_eq!(greeted(OURS, ME, &hello(7, Some(3))), Err(other));
        let clock = Timestamp(7);
        let heartbeat =
            Frame::Heartbeat { heads: vec![], doubts: vec![], clock, log_times: vec![] };
        assert_eq!(greeted(OURS, ME, &heartbeat), Err(Misdialled::NoHello));
    }
}
