//! The asking side of one link: requests wait here, go out in frames, and meet their answers.
//!
//! Bounded in bytes. While the link is down a request fails at once, so that openraft backs off
//! instead of waiting; when it breaks, all that wait for an answer fail at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pushonce_core::{AgreedVersion, ClusterVersion, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot, watch};
use tokio::time::Instant;

use super::wire::{FRAME_BYTES, Kind};
use crate::GroupId;

/// Pieces of snapshots, of all groups together, that are on their way to one peer: one on the wire
/// while the other is written to the peer's disk. Heartbeats and appends wait behind these at most, and
/// the groups that send take turns.
const PIECES_MAX: usize = 2;

/// A link to a peer, up or down.
pub(crate) struct Link {
    to: NodeId,
    agreed: AgreedVersion,
    bytes_max: usize,
    state: Mutex<State>,
    /// Something waits to be sent, or the stream has ended.
    ready: Notify,
    /// Bytes of entries that may be on their way, in KiB.
    entries: Arc<Semaphore>,
    entries_kib_max: u32,
    /// Turns of the groups that send snapshots over this link, in the order of asking.
    piece_turns: Semaphore,
    /// For those who wait until the link is up; `state` decides.
    risen: watch::Sender<bool>,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    /// It was never sent.
    #[error("{0} cannot be reached")]
    Down(NodeId),
    /// It was never sent.
    #[error("too much waits for {0}")]
    Full(NodeId),
    /// It may have arrived.
    #[error("the link to {0} broke")]
    Broken(NodeId),
    /// It may have arrived.
    #[error("{to} did not answer within {ttl:?}")]
    Late { to: NodeId, ttl: Duration },
    /// The peer did not take it: nothing happened.
    #[error("{to} refused: {why}")]
    Refused { to: NodeId, why: String },
}

/// A request on its way. Dropping it forgets the answer.
pub(crate) struct Pending {
    link: Arc<Link>,
    id: u64,
    answer: oneshot::Receiver<Result<Bytes, LinkError>>,
    /// Given back with the answer.
    _room: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct State {
    up: bool,
    /// In which version the peer wrote when it greeted this node.
    peer: ClusterVersion,
    /// Counts the streams, so that an old one never takes what belongs to the new.
    stream: u64,
    last_id: u64,
    queue: VecDeque<pb::RaftRequest>,
    queued_bytes: usize,
    /// Pieces of snapshots: they go out behind everything in `queue`. Bounded by [`PIECES_MAX`].
    pieces: VecDeque<pb::RaftRequest>,
    pending: HashMap<u64, Waiting>,
    /// Answers to appends with entries so far.
    entries_answered: u64,
}

struct Waiting {
    answer: oneshot::Sender<Result<Bytes, LinkError>>,
    /// It was asked with entries.
    carries: bool,
}

impl Link {
    pub(super) fn new(
        to: NodeId,
        agreed: AgreedVersion,
        bytes_max: usize,
        entries_max: usize,
    ) -> Link {
        let risen = watch::Sender::new(false);
        let entries_kib_max = kib(entries_max);
        Link {
            to,
            agreed,
            bytes_max,
            state: Mutex::default(),
            ready: Notify::new(),
            entries: Arc::new(Semaphore::new(entries_kib_max as usize)),
            entries_kib_max,
            piece_turns: Semaphore::new(PIECES_MAX),
            risen,
        }
    }

    /// Waits until so many bytes of entries may be sent: those of all groups, in the order of asking.
    /// What is on its way is bounded, so that heartbeats are never far behind it.
    pub(crate) async fn room_for_entries(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = kib(bytes).min(self.entries_kib_max);
        Arc::clone(&self.entries).acquire_many_owned(kib).await.ok()
    }

    /// Queues a request, in the order of the calls.
    pub(crate) fn request(
        self: &Arc<Link>,
        group: GroupId,
        kind: Kind,
        body: Bytes,
        data: Bytes,
    ) -> Result<Pending, LinkError> {
        self.request_in(None, group, kind, body, data)
    }

    /// As [`Link::request`], with the room that its entries take.
    pub(crate) fn request_in(
        self: &Arc<Link>,
        room: Option<OwnedSemaphorePermit>,
        group: GroupId,
        kind: Kind,
        body: Bytes,
        data: Bytes,
    ) -> Result<Pending, LinkError> {
        let size = body.len() + data.len() + 32;
        let mut state = self.state();
        if !state.up {
            return Err(LinkError::Down(self.to));
        }
        // Pieces have a bound of their own, and must not crowd out heartbeats.
        let is_piece = !data.is_empty();
        if !is_piece && !state.queue.is_empty() && state.queued_bytes + size > self.bytes_max {
            return Err(LinkError::Full(self.to));
        }
        state.last_id += 1;
        let id = state.last_id;
        let (sender, answer) = oneshot::channel();
        state.pending.insert(id, Waiting { answer: sender, carries: room.is_some() });
        let request = pb::RaftRequest { id, group: group.0, kind: kind.into(), body, data };
        if is_piece {
            state.pieces.push_back(request);
        } else {
            state.queued_bytes += size;
            state.queue.push_back(request);
        }
        drop(state);
        self.ready.notify_one();
        Ok(Pending { link: Arc::clone(self), id, answer, _room: room })
    }

    /// Waits for the turn of a group to send a piece of a snapshot; to be held until the answer.
    /// `None` never happens while the link exists.
    pub(crate) async fn piece_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.piece_turns.acquire().await.ok()
    }

    /// The version to write requests in: the one that nodes agreed on, as the better informed of both
    /// ends knows it.
    pub(crate) fn version(&self) -> ClusterVersion {
        self.agreed.get().max(self.state().peer)
    }

    /// Requests are taken and sent.
    pub(crate) fn is_up(&self) -> bool {
        self.state().up
    }

    /// Waits until the link is up. For requests that are sent once: openraft repeats appends and
    /// snapshots by itself, and backs off at once from a link that is down.
    pub(crate) async fn wait_up(&self, patience: Duration) {
        let mut risen = self.risen.subscribe();
        // Whether it was in time, the request itself will tell.
        let _ = tokio::time::timeout(patience, risen.wait_for(|up| *up)).await;
    }

    pub(super) fn to(&self) -> NodeId {
        self.to
    }

    /// A new stream is being opened; returns its number.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state();
        state.stream += 1;
        state.stream
    }

    /// The stream stands: requests are taken from now on. `peer` is the version that the peer writes.
    pub(super) fn up(&self, peer: ClusterVersion) {
        {
            let mut state = self.state();
            state.up = true;
            state.peer = peer;
        }
        self.risen.send_replace(true);
    }

    /// The stream is gone: all that waits fails.
    pub(super) fn down(&self) {
        let mut state = self.state();
        state.up = false;
        state.stream += 1;
        state.queue.clear();
        state.pieces.clear();
        state.queued_bytes = 0;
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        self.risen.send_replace(false);
        self.ready.notify_one();
        for (_, waiting) in pending {
            // Whoever does not wait any more does not mind.
            let _ = waiting.answer.send(Err(LinkError::Broken(self.to)));
        }
    }

    /// The next frame of a stream: everything that waits, up to a size. `None` when it has ended.
    pub(super) async fn frame(&self, stream: u64) -> Option<pb::RaftRequests> {
        loop {
            {
                let mut state = self.state();
                if state.stream != stream {
                    return None;
                }
                let requests = state.take();
                if !requests.is_empty() {
                    if !state.queue.is_empty() || !state.pieces.is_empty() {
                        self.ready.notify_one();
                    }
                    return Some(pb::RaftRequests { requests, ..pb::RaftRequests::default() });
                }
            }
            self.ready.notified().await;
        }
    }

    /// Brings answers to those who wait for them. An answer that came too late has nobody.
    pub(super) fn answered(&self, responses: Vec<pb::RaftResponse>) {
        let mut state = self.state();
        for response in responses {
            let Some(waiting) = state.pending.remove(&response.id) else { continue };
            state.entries_answered += u64::from(waiting.carries);
            let _ = waiting.answer.send(self.read(response.result));
        }
    }

    fn read(&self, result: Option<pb::raft_response::Result>) -> Result<Bytes, LinkError> {
        use pb::raft_response::Result::{Body, Error};
        match result {
            Some(Body(body)) => Ok(body),
            Some(Error(why)) => Err(LinkError::Refused { to: self.to, why }),
            None => Err(LinkError::Refused { to: self.to, why: "an empty answer".to_owned() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Vec<pb::RaftRequest> {
        let mut requests = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let size = next.body.len() + next.data.len() + 32;
            if !requests.is_empty() && bytes + size > FRAME_BYTES {
                break;
            }
            bytes += size;
            self.queued_bytes = self.queued_bytes.saturating_sub(size);
            requests.extend(self.queue.pop_front());
        }
        // One at a time, and only when nothing urgent is left behind.
        if self.queue.is_empty() {
            requests.extend(self.pieces.pop_front());
        }
        requests
    }
}

impl Pending {
    /// Waits for the answer.
    pub(crate) async fn within(mut self, ttl: Duration) -> Result<Bytes, LinkError> {
        let to = self.link.to;
        match tokio::time::timeout(ttl, &mut self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(LinkError::Broken(to)),
            Err(_) => Err(LinkError::Late { to, ttl }),
        }
    }

    /// Waits for the answer to an append with entries as long as the peer answers others of that kind:
    /// on a slow link it stands behind them. Without any answer for `idle`, or after `most`, it is late.
    pub(crate) async fn while_answering(
        mut self,
        idle: Duration,
        most: Duration,
    ) -> Result<Bytes, LinkError> {
        let to = self.link.to;
        let begun = Instant::now();
        loop {
            let answered = self.link.state().entries_answered;
            match tokio::time::timeout(idle, &mut self.answer).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_)) => return Err(LinkError::Broken(to)),
                Err(_) if begun.elapsed() >= most => {
                    return Err(LinkError::Late { to, ttl: most });
                }
                Err(_) if self.link.state().entries_answered == answered => {
                    return Err(LinkError::Late { to, ttl: idle });
                }
                Err(_) => {}
            }
        }
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 3).saturating_add(1)
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.link.state().pending.remove(&self.id);
    }
}

#[cfg(test)]
#[path = "link/link_test.rs"]
mod tests;
