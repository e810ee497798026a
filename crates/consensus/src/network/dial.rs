//! Keeps the links up: dials, backs off, dials again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream;
use pushonce_core::{AgreedVersion, ClusterId, ClusterVersion, NodeId};
use pushonce_proto::pb::peer::v1::RaftResponses;
use pushonce_proto::pb::peer::v1::raft_client::RaftClient;
use pushonce_proto::status::error_chain;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use super::greeting::{agree, offer};
use super::link::Link;
use super::marks::{Greeting, Marks};
use super::wire::{CLUSTER, FRAME_BYTES_MAX, FROM, HEARD, LOG, TO, said};
use crate::{AddressBook, Settings};

/// The first and the longest pause between two attempts.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What may be on its way on one link without the peer's leave: more than a long fat link holds.
const WINDOW_BYTES: u32 = 8 << 20;

/// The links of a node, made when first asked for. Clones share them.
#[derive(Clone)]
pub(crate) struct Links(Arc<Shared>);

/// What the links of a node are made with.
pub(crate) struct LinksParts {
    pub(crate) cluster: ClusterId,
    pub(crate) me: NodeId,
    pub(crate) agreed: AgreedVersion,
    pub(crate) settings: Arc<Settings>,
    pub(crate) book: AddressBook,
    pub(crate) marks: Marks,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

struct Shared {
    parts: LinksParts,
    links: Mutex<HashMap<NodeId, Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(parts: LinksParts) -> Links {
        Links(Arc::new(Shared { parts, links: Mutex::default() }))
    }

    /// The link to a peer. It is being dialled from the first call on.
    pub(crate) fn to(&self, peer: NodeId) -> Arc<Link> {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(peer).or_insert_with(|| {
            let Settings { link_bytes_max, entries_in_flight, .. } = *self.0.parts.settings;
            let agreed = self.0.parts.agreed.clone();
            let link = Arc::new(Link::new(peer, agreed, link_bytes_max, entries_in_flight));
            let shared = Arc::clone(&self.0);
            let kept = Arc::clone(&link);
            self.0.parts.tasks.spawn(async move {
                shared.parts.shutdown.run_until_cancelled(shared.keep_up(&kept)).await;
                kept.down();
            });
            link
        });
        Arc::clone(link)
    }
}

impl Shared {
    async fn keep_up(&self, link: &Arc<Link>) {
        let mut book = self.parts.book.watch();
        let mut backoff = BACKOFF_MIN;
        let mut refused = String::new();
        for attempt in 0_usize.. {
            let addresses = book.borrow_and_update().candidates(link.to());
            let address = addresses.get(attempt.checked_rem(addresses.len()).unwrap_or(0));
            if let Some(address) = address {
                match self.dial(link, address).await {
                    Ok((greeting, answers, version)) => {
                        tracing::debug!(peer = %link.to(), address, %version, "consensus link is up");
                        backoff = BACKOFF_MIN;
                        refused.clear();
                        link.up(version);
                        let why = tokio::select! {
                            why = self.listen(link, greeting, answers) => why,
                            () = self.parts.book.until_gone(link.to()) => "it was removed".to_owned(),
                            () = self.parts.marks.fence().closed() => "this node takes no part".to_owned(),
                        };
                        tracing::info!(peer = %link.to(), why, "consensus link broke");
                    }
                    // Once for each reason, not once a second.
                    Err(error) if error.code() == Code::FailedPrecondition => {
                        if refused != error.message() {
                            refused = error.message().to_owned();
                            tracing::warn!(peer = %link.to(), address, error = refused,
                                "peer refuses the consensus link, retrying");
                        }
                    }
                    Err(error) => {
                        tracing::debug!(peer = %link.to(), address, %error, "cannot reach peer");
                    }
                }
                link.down();
            }
            if self.forget(link) {
                return;
            }
            // A new address is news worth trying at once.
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                _ = book.changed() => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Ends a link that is down and that no group asks for any more. Says whether it did.
    fn forget(&self, link: &Arc<Link>) -> bool {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the table and the task that asks hold it; under the lock nobody can begin to.
        let unused = Arc::strong_count(link) <= 2;
        if unused {
            links.remove(&link.to());
        }
        unused
    }

    /// Opens the stream, and says in which version the peer writes.
    async fn dial(
        &self,
        link: &Arc<Link>,
        address: &str,
    ) -> Result<(Greeting, Streaming<RaftResponses>, ClusterVersion), Status> {
        if let Some(reason) = self.parts.marks.fence().reason() {
            return Err(Status::aborted(reason));
        }
        let settings = &self.parts.settings;
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::invalid_argument(error.to_string()))?
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            // A peer that is stopped keeps its sockets open: only silence tells.
            .http2_keep_alive_interval(settings.election_max)
            .keep_alive_timeout(settings.election_max)
            .connect()
            .await
            .map_err(|error| Status::unavailable(error_chain(&error)))?;
        let number = link.begin();
        let begin = (Arc::clone(link), self.parts.marks.clone());
        let frames = stream::unfold(begin, move |(link, marks)| async move {
            let mut frame = link.frame(number).await?;
            frame.writes = marks.writes();
            Some((frame, (link, marks)))
        });
        let mut request = Request::new(frames);
        let metadata = request.metadata_mut();
        let text = |text: String| {
            text.parse().map_err(|_| Status::internal(format!("{text:?} is no header value")))
        };
        metadata.insert(CLUSTER, text(self.parts.cluster.to_string())?);
        metadata.insert(TO, text(link.to().to_string())?);
        metadata.insert(FROM, text(self.parts.me.to_string())?);
        metadata.insert(LOG, text(self.parts.marks.greeting().to_string())?);
        if let Some(heard) = self.parts.marks.heard(link.to()) {
            metadata.insert(HEARD, text(heard.to_string())?);
        }
        let ours = self.parts.agreed.offer();
        offer(metadata, ours);
        let mut client = RaftClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
        let response = timeout(settings.rpc_timeout, client.exchange(request)).await;
        let late =
            |_| Status::deadline_exceeded(format!("no answer within {:?}", settings.rpc_timeout));
        let response = match response.map_err(late)? {
            Ok(response) => response,
            Err(status) => {
                self.check_own(status.metadata()).map_err(Status::aborted)?;
                return Err(status);
            }
        };
        let version = agree(ours, response.metadata())
            .map_err(|why| Status::failed_precondition(why.to_string()))?;
        let greeting = self.greeted(link.to(), response.metadata()).map_err(Status::aborted)?;
        Ok((greeting, response.into_inner(), version))
    }

    /// Checks what the peer says of both logs, before anything it sends counts.
    fn greeted(&self, peer: NodeId, metadata: &MetadataMap) -> Result<Greeting, String> {
        self.check_own(metadata)?;
        let greeting: Option<Greeting> = said(metadata, LOG);
        let greeting = greeting.ok_or_else(|| format!("{peer} says nothing of its log"))?;
        self.parts.marks.check_peer(peer, greeting).map_err(|why| why.to_string())?;
        Ok(greeting)
    }

    fn check_own(&self, metadata: &MetadataMap) -> Result<(), String> {
        self.parts.marks.check_own(said(metadata, HEARD)).map_err(|why| why.to_string())
    }

    /// Takes answers until the stream ends; says why it did.
    async fn listen(
        &self,
        link: &Link,
        greeting: Greeting,
        mut answers: Streaming<RaftResponses>,
    ) -> String {
        loop {
            match answers.message().await {
                Ok(Some(frame)) => {
                    // Before the answers count anywhere.
                    self.parts.marks.note(link.to(), greeting, frame.writes);
                    link.answered(frame.responses);
                }
                Ok(None) => return "the peer closed it".to_owned(),
                Err(status) => return status.to_string(),
            }
        }
    }
}
