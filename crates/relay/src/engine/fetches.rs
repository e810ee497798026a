//! Questions about the past that are under way: of this node, of a peer that this node stands
//! upstream of, or for an outlet that missed something.
//!
//! A question changes nothing, so it may be asked again of somebody else: while no answer can be
//! had it waits for one up to its deadline. A peer's question does not wait here: the peer decides
//! itself whom to ask next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{FetchError, Message, NodeId, Page, Topic, Upstream, Want};
use pushonce_proto::peer::{FetchedPart, Frame};

use super::Engine;
use super::effect::{Effect, FRAME_BYTES, Out, Purpose, chunks};
use super::flow::Stage;
use super::upstream::nothing_since;

/// Those under way, bounded in number.
#[derive(Debug, Default)]
pub(crate) struct Fetches(HashMap<u64, Fetch>);

#[derive(Debug)]
struct Fetch {
    asker: Asker,
    topic: Topic,
    want: Want,
    at: At,
    parts: Vec<Arc<Message>>,
    deadline: Instant,
}

/// Who waits for the answer.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    /// Somebody on this node.
    Caller(u64),
    /// A peer, under the peer's own id.
    Link { node: NodeId, id: u64 },
    /// An outlet of the same topic.
    Outlet { to: NodeId, ticket: u64 },
}

/// An outlet catches up by this part of what may wait for its link: by default four times the default
/// history of a topic, so that it is read once, and little enough that a link never overflows by it.
const CATCH_UP_PART: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Nobody { why: String },
    Here,
    Node(NodeId),
}

impl Engine {
    /// Asks whoever is upstream.
    pub(super) fn fetch(&mut self, asker: Asker, topic: Topic, want: Want, now: Instant) {
        if self.fetches.0.len() >= self.config.pending_max {
            let full = FetchError::Unavailable("too many questions are under way".to_owned());
            self.finish(asker, &topic, Err(full), now);
            return;
        }
        let id = self.ticket();
        let deadline = now + self.config.fetch_deadline;
        let at = At::Nobody { why: "the shard's owner is not known yet".to_owned() };
        self.fetches.0.insert(id, Fetch { asker, topic, want, at, parts: Vec::new(), deadline });
        self.send_fetch(id, now);
    }

    fn send_fetch(&mut self, id: u64, now: Instant) {
        let Some(fetch) = self.fetches.0.get_mut(&id) else { return };
        let shard = fetch.topic.shard(self.routes.view().shards);
        let (topic, want) = (fetch.topic.clone(), fetch.want);
        match self.routes.of(shard) {
            Upstream::Local => {
                fetch.at = At::Here;
                self.effects.push(Effect::Read { purpose: Purpose::Fetch(id), topic, want });
            }
            Upstream::Node(node) if self.links.is_up(node) => {
                fetch.at = At::Node(node);
                self.effects.push(Effect::Send(node, Frame::Fetch { id, topic, want }));
            }
            Upstream::Node(node) => {
                self.park(id, format!("there is no link to {node} now"), now);
            }
            Upstream::Unknown => {}
        }
    }

    /// There is no answer to be had now. Asked again later, under another id: parts of an answer
    /// that may still be under way must not mix with the next.
    fn park(&mut self, id: u64, why: String, now: Instant) {
        let Some(mut fetch) = self.fetches.0.remove(&id) else { return };
        if matches!(fetch.asker, Asker::Link { .. }) {
            self.finish(fetch.asker, &fetch.topic, Err(FetchError::Unavailable(why)), now);
            return;
        }
        fetch.at = At::Nobody { why };
        fetch.parts.clear();
        let id = self.ticket();
        self.fetches.0.insert(id, fetch);
    }

    /// A peer asks.
    pub(super) fn fetch_for(
        &mut self,
        node: NodeId,
        id: u64,
        topic: Topic,
        want: Want,
        now: Instant,
    ) {
        let asker = Asker::Link { node, id };
        let shard = topic.shard(self.routes.view().shards);
        if !self.routes.serves(node, shard) {
            let stranger = format!("{} is not where {node} gets {shard} from", self.config.me);
            self.finish(asker, &topic, Err(FetchError::Unavailable(stranger)), now);
        } else if self.links.is_congested(node) {
            let busy = format!("too much waits for the link from {} to {node}", self.config.me);
            self.finish(asker, &topic, Err(FetchError::Unavailable(busy)), now);
        } else if let Some(page) = self.recent_page(&topic, want, now) {
            self.finish(asker, &topic, Ok(page), now);
        } else {
            self.fetch(asker, topic, want, now);
        }
    }

    /// The answer out of what a head of a region has at hand, while it may say that this is all.
    fn recent_page(&self, topic: &Topic, want: Want, now: Instant) -> Option<Page> {
        let flow = self.flows.get(topic).filter(|flow| matches!(flow.stage, Stage::Live(_)))?;
        if self.trust.age(flow.shard, now) >= self.config.stale_after {
            return None;
        }
        let messages = match want {
            Want::After(position) => flow.recent.after(position),
            Want::Last(count) => flow.recent.last(usize::try_from(count).ok()?),
            Want::All => None,
        }?;
        Some(Page { messages, head: flow.reached?, gap: None })
    }

    /// A peer answers, maybe in part.
    pub(super) fn fetched(&mut self, from: NodeId, id: u64, part: FetchedPart, now: Instant) {
        let Some(fetch) = self.fetches.0.get_mut(&id) else { return };
        if fetch.at != At::Node(from) {
            return;
        }
        match part {
            FetchedPart::More(messages) => fetch.parts.extend(messages),
            FetchedPart::Done { messages, head, gap } => {
                fetch.parts.extend(messages);
                let messages = std::mem::take(&mut fetch.parts);
                self.answered(id, Ok(Page { messages, head, gap }), now);
            }
            FetchedPart::Failed(error) => self.answered(id, Err(error), now),
        }
    }

    /// The whole answer to a fetch.
    pub(super) fn answered(&mut self, id: u64, result: Result<Page, FetchError>, now: Instant) {
        match result {
            Err(FetchError::Unavailable(why)) => self.park(id, why, now),
            result => {
                let Some(fetch) = self.fetches.0.remove(&id) else { return };
                self.finish(fetch.asker, &fetch.topic, result, now);
            }
        }
    }

    fn finish(
        &mut self,
        asker: Asker,
        topic: &Topic,
        result: Result<Page, FetchError>,
        now: Instant,
    ) {
        match asker {
            Asker::Caller(id) => self.effects.push(Effect::Fetched { id, result }),
            Asker::Link { node, id } => self.send_fetched(node, id, result),
            Asker::Outlet { to, ticket } => self.caught_up(topic, to, ticket, result, now),
        }
    }

    fn send_fetched(&mut self, node: NodeId, id: u64, result: Result<Page, FetchError>) {
        let mut send = |part| self.effects.push(Effect::Send(node, Frame::Fetched { id, part }));
        match result {
            Err(error) => send(FetchedPart::Failed(error)),
            Ok(Page { messages, head, gap }) => {
                chunks(&messages, FRAME_BYTES)
                    .for_each(|chunk| send(FetchedPart::More(chunk.to_vec())));
                send(FetchedPart::Done { messages: Vec::new(), head, gap });
            }
        }
    }

    /// History was read for an outlet that missed something.
    fn caught_up(
        &mut self,
        topic: &Topic,
        to: NodeId,
        ticket: u64,
        result: Result<Page, FetchError>,
        now: Instant,
    ) {
        let Some(flow) = self.flows.get_mut(topic) else { return };
        if self.links.is_congested(to) {
            return flow.put_off(to, ticket);
        }
        let page = match (result, flow.reached) {
            (Ok(page), _) => page,
            (Err(FetchError::Future { .. }), Some(reached)) => nothing_since(reached),
            // The next tick tries again.
            (Err(_), _) => return flow.put_off(to, ticket),
        };
        let bytes_max = self.config.link_bytes_max / CATCH_UP_PART;
        let mut out = Out { me: self.config.me, topic, effects: &mut self.effects };
        if flow.catch_up(to, ticket, page, bytes_max, &mut out) {
            self.changed.insert(topic.clone());
            self.serve(topic, to, now);
        }
    }

    pub(super) fn fetches_lose_link(&mut self, node: NodeId, now: Instant) {
        let asks = |fetch: &Fetch| matches!(fetch.asker, Asker::Link { node: n, .. } if n == node);
        self.fetches.0.retain(|_, fetch| !asks(fetch));
        for id in self.fetches_at(|at| *at == At::Node(node)) {
            self.park(id, format!("the link to {node} broke"), now);
        }
    }

    /// Asks again for those who wait, and gives up those who waited too long.
    pub(super) fn fetches_retry(&mut self, now: Instant) {
        for id in self.fetches_at(|at| matches!(at, At::Nobody { .. })) {
            self.send_fetch(id, now);
        }
        let over = self.fetches.0.iter().filter(|(_, fetch)| fetch.deadline <= now);
        for id in over.map(|(&id, _)| id).collect::<Vec<_>>() {
            let Some(fetch) = self.fetches.0.remove(&id) else { continue };
            let why = match fetch.at {
                At::Nobody { why } => why,
                At::Here => "the shard did not answer".to_owned(),
                At::Node(node) => format!("{node} did not answer in time"),
            };
            self.finish(fetch.asker, &fetch.topic, Err(FetchError::Unavailable(why)), now);
        }
    }

    fn fetches_at(&self, at: impl Fn(&At) -> bool) -> Vec<u64> {
        self.fetches.0.iter().filter(|(_, fetch)| at(&fetch.at)).map(|(&id, _)| id).collect()
    }
}
