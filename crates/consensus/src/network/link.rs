//! The requesting side of a link: queues requests, sends them in frames, and matches responses.
//!
//! Bounded in bytes. While the link is down a request fails at once, so that openraft backs off instead of
//! waiting; when it breaks, all pending requests fail at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pushonce_core::{AgreedVersion, ClusterVersion, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::wire::{FRAME_BYTES_TARGET, Kind};
use crate::GroupId;

/// A link to a peer, up or down.
pub(crate) struct RaftLink {
    peer: NodeId,
    agreed_version: AgreedVersion,
    bytes_max: usize,
    state: Mutex<RaftLinkState>,
    /// Notified when a request is queued or the stream has ended.
    ready: Notify,
    /// Bytes of entries that may be in flight, in KiB.
    entry_permits: Arc<Semaphore>,
    entries_kib_max: u32,
    /// Whether the link is up, for waiting tasks; `state` is authoritative.
    up_watch: watch::Sender<bool>,
}

/// The reason why a request has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    /// The request was never sent.
    #[error("{0} cannot be reached")]
    Down(NodeId),
    /// The request was never sent.
    #[error("the request queue of {0} is full")]
    Full(NodeId),
    /// The request may have arrived.
    #[error("the link to {0} broke")]
    Broken(NodeId),
    /// The request may have arrived.
    #[error("{to} did not answer within {timeout:?}")]
    TimedOut { to: NodeId, timeout: Duration },
    /// The peer rejected the request: nothing happened.
    #[error("{to} rejected the request: {reason}")]
    Rejected { to: NodeId, reason: String },
}

/// A request in flight. Dropping it discards the response.
pub(crate) struct PendingRequest {
    link: Arc<RaftLink>,
    id: u64,
    response: oneshot::Receiver<Result<Bytes, LinkError>>,
    /// Released with the response.
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct RaftLinkState {
    is_up: bool,
    /// The version in which the peer wrote at the handshake.
    peer_version: ClusterVersion,
    /// Counts the streams, so that an old stream never takes requests of a newer one.
    stream: u64,
    last_id: u64,
    queue: VecDeque<pb::RaftRequest>,
    queued_bytes: usize,
    pending: HashMap<u64, ResponseSlot>,
    /// Number of responses to appends with entries.
    append_responses: u64,
}

struct ResponseSlot {
    response: oneshot::Sender<Result<Bytes, LinkError>>,
    /// Whether the request carried entries.
    has_entries: bool,
}

impl RaftLink {
    pub(super) fn new(
        peer: NodeId,
        agreed_version: AgreedVersion,
        bytes_max: usize,
        entries_max: usize,
    ) -> RaftLink {
        let up_watch = watch::Sender::new(false);
        let entries_kib_max = kib(entries_max);
        RaftLink {
            peer,
            agreed_version,
            bytes_max,
            state: Mutex::default(),
            ready: Notify::new(),
            entry_permits: Arc::new(Semaphore::new(entries_kib_max as usize)),
            entries_kib_max,
            up_watch,
        }
    }

    /// Waits until this many bytes of entries may be sent; entries of all groups count, in request order. The
    /// bytes in flight are bounded, so that heartbeats never wait long behind them.
    pub(crate) async fn reserve_entry_bytes(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = kib(bytes).min(self.entries_kib_max);
        Arc::clone(&self.entry_permits).acquire_many_owned(kib).await.ok()
    }

    /// Queues a request, in the order of the calls.
    pub(crate) fn request(
        self: &Arc<RaftLink>,
        group: GroupId,
        kind: Kind,
        body: Bytes,
    ) -> Result<PendingRequest, LinkError> {
        self.request_with_permit(None, group, kind, body)
    }

    /// Like [`RaftLink::request`], with the permit for its entries.
    pub(crate) fn request_with_permit(
        self: &Arc<RaftLink>,
        permit: Option<OwnedSemaphorePermit>,
        group: GroupId,
        kind: Kind,
        body: Bytes,
    ) -> Result<PendingRequest, LinkError> {
        let size = body.len() + 32;
        let mut state = self.state();
        if !state.is_up {
            return Err(LinkError::Down(self.peer));
        }
        if !state.queue.is_empty() && state.queued_bytes + size > self.bytes_max {
            return Err(LinkError::Full(self.peer));
        }
        state.last_id += 1;
        let id = state.last_id;
        let (sender, response) = oneshot::channel();
        state.pending.insert(id, ResponseSlot { response: sender, has_entries: permit.is_some() });
        let request = pb::RaftRequest { id, group: group.0, kind: kind.into(), body };
        state.queued_bytes += size;
        state.queue.push_back(request);
        drop(state);
        self.ready.notify_one();
        Ok(PendingRequest { link: Arc::clone(self), id, response, _permit: permit })
    }

    /// The version in which to write requests: the newer of the versions that this node and the peer know to
    /// be agreed.
    pub(crate) fn version(&self) -> ClusterVersion {
        self.agreed_version.get().max(self.state().peer_version)
    }

    /// Whether the link accepts requests.
    pub(crate) fn is_up(&self) -> bool {
        self.state().is_up
    }

    /// Waits until the link is up, for requests that are sent once: openraft repeats appends and backs off at
    /// once from a link that is down.
    pub(crate) async fn wait_until_up(&self, wait_max: Duration) {
        let mut up_watch = self.up_watch.subscribe();
        // The outcome does not matter here: the request fails if the link is down.
        let _ = tokio::time::timeout(wait_max, up_watch.wait_for(|up| *up)).await;
    }

    pub(super) fn peer(&self) -> NodeId {
        self.peer
    }

    /// Begins a new stream and returns its number.
    pub(super) fn open_stream(&self) -> u64 {
        let mut state = self.state();
        state.stream += 1;
        state.stream
    }

    /// The stream is established: requests are accepted. `peer_version` is the version in which the peer
    /// writes.
    pub(super) fn on_connected(&self, peer_version: ClusterVersion) {
        {
            let mut state = self.state();
            state.is_up = true;
            state.peer_version = peer_version;
        }
        self.up_watch.send_replace(true);
    }

    /// The stream ended: all pending requests fail.
    pub(super) fn on_disconnected(&self) {
        let mut state = self.state();
        state.is_up = false;
        state.stream += 1;
        state.queue.clear();
        state.queued_bytes = 0;
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        self.up_watch.send_replace(false);
        self.ready.notify_one();
        for (_, slot) in pending {
            // The requester may have stopped waiting.
            let _ = slot.response.send(Err(LinkError::Broken(self.peer)));
        }
    }

    /// The next frame of a stream: the queued requests up to a size. `None` when the stream has ended.
    pub(super) async fn next_frame(&self, stream: u64) -> Option<pb::ExchangeRequest> {
        loop {
            {
                let mut state = self.state();
                if state.stream != stream {
                    return None;
                }
                let requests = state.take_frame();
                if !requests.is_empty() {
                    if !state.queue.is_empty() {
                        self.ready.notify_one();
                    }
                    return Some(pb::ExchangeRequest {
                        requests,
                        ..pb::ExchangeRequest::default()
                    });
                }
            }
            self.ready.notified().await;
        }
    }

    /// Passes responses to the waiting requests. A response that came too late is dropped.
    pub(super) fn on_responses(&self, responses: Vec<pb::RaftResponse>) {
        let mut state = self.state();
        for response in responses {
            let Some(slot) = state.pending.remove(&response.id) else { continue };
            state.append_responses += u64::from(slot.has_entries);
            let _ = slot.response.send(self.decode_result(response.result));
        }
    }

    fn decode_result(&self, result: Option<pb::raft_response::Result>) -> Result<Bytes, LinkError> {
        use pb::raft_response::Result::{Body, Error};
        match result {
            Some(Body(body)) => Ok(body),
            Some(Error(reason)) => Err(LinkError::Rejected { to: self.peer, reason }),
            None => Err(LinkError::Rejected {
                to: self.peer,
                reason: "the response is empty".to_owned(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, RaftLinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLinkState {
    fn take_frame(&mut self) -> Vec<pb::RaftRequest> {
        let mut requests = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let size = next.body.len() + 32;
            if !requests.is_empty() && bytes + size > FRAME_BYTES_TARGET {
                break;
            }
            bytes += size;
            self.queued_bytes = self.queued_bytes.saturating_sub(size);
            requests.extend(self.queue.pop_front());
        }
        requests
    }
}

impl PendingRequest {
    /// Waits for the response.
    pub(crate) async fn response_within(mut self, timeout: Duration) -> Result<Bytes, LinkError> {
        let to = self.link.peer;
        match tokio::time::timeout(timeout, &mut self.response).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => Err(LinkError::Broken(to)),
            Err(_) => Err(LinkError::TimedOut { to, timeout }),
        }
    }

    /// Waits for the response to an append with entries while the peer answers other such appends, because on
    /// a slow link it queues behind them. Times out after `idle_max` without any such response, or after
    /// `total_max`.
    pub(crate) async fn response_while_progressing(
        mut self,
        idle_max: Duration,
        total_max: Duration,
    ) -> Result<Bytes, LinkError> {
        let to = self.link.peer;
        let started = Instant::now();
        loop {
            let responses_before = self.link.state().append_responses;
            match tokio::time::timeout(idle_max, &mut self.response).await {
                Ok(Ok(response)) => return response,
                Ok(Err(_)) => return Err(LinkError::Broken(to)),
                Err(_) if started.elapsed() >= total_max => {
                    return Err(LinkError::TimedOut { to, timeout: total_max });
                }
                Err(_) if self.link.state().append_responses == responses_before => {
                    return Err(LinkError::TimedOut { to, timeout: idle_max });
                }
                Err(_) => {}
            }
        }
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 3).saturating_add(1)
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.link.state().pending.remove(&self.id);
    }
}

#[cfg(test)]
#[path = "link/link_test.rs"]
mod tests;
