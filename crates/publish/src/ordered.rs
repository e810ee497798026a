//! Publishing of a stream of messages: many in flight at once, replies in order.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use pushonce_core::{
    Acknowledgement, ClusterView, CoverageMark, Publish, PublishError, ShardId, ShardOwners,
    UnavailableReason,
};
use pushonce_telemetry::Histogram;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::wrappers::WatchStream;

use crate::Router;
use crate::shard_window::{PublishOutcome, ShardWindow};

/// The replies to a stream of messages: see [`Router::publish_ordered`].
#[must_use = "nothing is published unless it is polled"]
pub struct OrderedPublish<S> {
    router: Router,
    /// `None` once it has ended.
    input: Option<S>,
    /// Messages that wait for this node's first current view, oldest first: without one the shard of a
    /// topic is unknown.
    unrouted: VecDeque<UnroutedPublish>,
    windows: BTreeMap<ShardId, ShardWindow>,
    in_flight: FuturesUnordered<InFlightPublish>,
    /// One for each message without a delivered reply, in order; the stream index of the first is
    /// `first_index`.
    reply_slots: VecDeque<ReplySlot>,
    first_index: u64,
    pending_bytes: usize,
    owners: Arc<ShardOwners>,
    owner_updates: WatchStream<Arc<ShardOwners>>,
    view_updates: WatchStream<Option<Arc<ClusterView>>>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Records the time from the receipt of each message to its reply.
    latency: Option<Histogram>,
    /// Buffer, empty between uses.
    outcomes: Vec<PublishOutcome>,
}

struct ReplySlot {
    received_at: Instant,
    bytes: usize,
    /// Whether the shard recognises the message when it is sent again.
    is_idempotent: bool,
    reply: Option<Result<Acknowledgement, PublishError>>,
}

/// A message that was not validated yet; rejected if it has no shard by `deadline`.
struct UnroutedPublish {
    stream_index: u64,
    publish: Publish,
    deadline: Instant,
}

/// A message in flight, with its shard and its number in the shard's window.
struct InFlightPublish {
    shard: ShardId,
    number: u64,
    reply: BoxFuture<'static, Result<Acknowledgement, PublishError>>,
}

/// Maximum number of messages read before replies are processed: neither may starve the other.
const INPUT_BATCH_MAX: usize = 256;

impl<S> OrderedPublish<S> {
    /// Maximum number of messages without a reply. At the limit the input is not read.
    pub const PENDING_MAX: usize = 16_384;
    /// Maximum number of payload bytes without a reply, 16 MiB, because a hundred streams may wait for one
    /// election. At the limit the input is not read.
    pub const PENDING_BYTES_MAX: usize = 16 << 20;
}

impl<S> OrderedPublish<S>
where
    S: Stream<Item = Result<Publish, PublishError>> + Unpin,
{
    pub(crate) fn new(router: Router, input: S) -> OrderedPublish<S> {
        let owner_updates = router.owners();
        let owners = owner_updates.borrow().clone();
        let view_updates = WatchStream::from_changes(router.view());
        OrderedPublish {
            router,
            input: Some(input),
            unrouted: VecDeque::new(),
            windows: BTreeMap::new(),
            in_flight: FuturesUnordered::new(),
            reply_slots: VecDeque::new(),
            first_index: 0,
            pending_bytes: 0,
            owners,
            owner_updates: WatchStream::from_changes(owner_updates),
            view_updates,
            timer: None,
            latency: None,
            outcomes: Vec::new(),
        }
    }

    /// Records the time from the receipt of each message to its reply. Replies are in order, so this
    /// includes the wait for the replies before.
    pub(crate) fn with_latency(self, latency: Histogram) -> OrderedPublish<S> {
        OrderedPublish { latency: Some(latency), ..self }
    }

    fn is_full(&self) -> bool {
        self.reply_slots.len() >= Self::PENDING_MAX || self.pending_bytes >= Self::PENDING_BYTES_MAX
    }

    /// Reads the available input and sends what may be sent. Returns whether there was any input.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> bool {
        for count in 0..INPUT_BATCH_MAX {
            if self.is_full() {
                return count > 0;
            }
            let Some(input) = &mut self.input else { return count > 0 };
            match input.poll_next_unpin(cx) {
                Poll::Pending => return count > 0,
                Poll::Ready(None) => {
                    self.input = None;
                    return true;
                }
                Poll::Ready(Some(message)) => self.accept(message, cx),
            }
        }
        true
    }

    fn accept(&mut self, message: Result<Publish, PublishError>, cx: &mut Context<'_>) {
        let stream_index = self.first_index + self.reply_slots.len() as u64;
        let bytes = message.as_ref().map_or(0, |publish| publish.payload.len());
        let is_idempotent = message.as_ref().is_ok_and(Publish::is_idempotent);
        let received_at = Instant::now();
        self.reply_slots.push_back(ReplySlot { received_at, bytes, is_idempotent, reply: None });
        self.pending_bytes += bytes;
        match message {
            Err(error) => self.set_reply((stream_index, Err(error))),
            Ok(publish) => {
                let deadline = received_at + self.router.deadline();
                self.unrouted.push_back(UnroutedPublish { stream_index, publish, deadline });
                self.route_pending(cx);
            }
        }
    }

    /// Validates unrouted messages in order and adds them to the windows of their shards; does nothing
    /// while this node has no current view.
    fn route_pending(&mut self, cx: &mut Context<'_>) {
        while let Some(next) = self.unrouted.front() {
            let Some(validated) = self.router.validate(&next.publish) else {
                CoverageMark::PublishWaitsForView.reach();
                return;
            };
            let Some(UnroutedPublish { stream_index, publish, deadline }) =
                self.unrouted.pop_front()
            else {
                return;
            };
            match validated {
                Err(invalid) => self.set_reply((stream_index, Err(invalid.into()))),
                Ok(shard) => {
                    let window =
                        self.windows.entry(shard).or_insert_with(|| ShardWindow::new(shard));
                    window.push(stream_index, publish, deadline);
                    self.submit_ready(shard, cx);
                }
            }
        }
    }

    /// Rejects messages that waited too long for a view.
    fn expire_unrouted(&mut self, now: Instant) {
        while self.unrouted.front().is_some_and(|next| next.deadline <= now) {
            let Some(expired) = self.unrouted.pop_front() else { return };
            self.set_reply((expired.stream_index, Err(UnavailableReason::NoView.into())));
        }
    }

    /// Sends all messages that a window releases.
    fn submit_ready(&mut self, shard: ShardId, cx: &mut Context<'_>) {
        let now = Instant::now();
        while let Some(window) = self.windows.get_mut(&shard) {
            let Some(submission) = window.next_submission(&self.owners, now) else { return };
            let reply = self.router.send_to_owner(submission.node, submission.publish);
            let mut in_flight = InFlightPublish { shard, number: submission.number, reply };
            // Polled here, because the first poll enqueues the message and `FuturesUnordered` polls in any
            // order.
            match in_flight.poll_unpin(cx) {
                Poll::Pending => self.in_flight.push(in_flight),
                Poll::Ready((_, number, result)) => {
                    window.on_reply(number, result, now, &mut self.outcomes);
                    self.apply_outcomes();
                }
            }
        }
    }

    /// Processes the available replies. Returns whether there was any.
    fn poll_replies(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any_reply = false;
        while let Poll::Ready(Some((shard, number, result))) = self.in_flight.poll_next_unpin(cx) {
            any_reply = true;
            let Some(window) = self.windows.get_mut(&shard) else { continue };
            window.on_reply(number, result, Instant::now(), &mut self.outcomes);
            self.apply_outcomes();
            self.submit_ready(shard, cx);
        }
        any_reply
    }

    /// Processes the newest owners and views, and sends the messages that waited for them. Returns whether
    /// there was any update.
    fn poll_updates(&mut self, cx: &mut Context<'_>) -> bool {
        let mut owners_changed = false;
        while let Poll::Ready(Some(owners)) = self.owner_updates.poll_next_unpin(cx) {
            self.owners = owners;
            owners_changed = true;
        }
        if owners_changed {
            self.submit_all_ready(cx);
        }
        let mut view_changed = false;
        while let Poll::Ready(Some(_)) = self.view_updates.poll_next_unpin(cx) {
            view_changed = true;
        }
        if view_changed {
            self.route_pending(cx);
        }
        owners_changed || view_changed
    }

    /// Sets the timer for the first window that needs one. Returns whether it fired.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let unrouted_deadline = self.unrouted.front().map(|next| next.deadline);
        let window_wakes = self.windows.values().filter_map(ShardWindow::wake_at);
        let Some(wake_at) = window_wakes.chain(unrouted_deadline).min() else {
            self.timer = None;
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(wake_at)));
        if timer.deadline() != wake_at {
            timer.as_mut().reset(wake_at);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.timer = None;
        let now = Instant::now();
        self.expire_unrouted(now);
        self.windows.values_mut().for_each(|window| window.expire(now, &mut self.outcomes));
        self.apply_outcomes();
        self.submit_all_ready(cx);
        true
    }

    fn submit_all_ready(&mut self, cx: &mut Context<'_>) {
        let shards: Vec<_> = self.windows.keys().copied().collect();
        shards.into_iter().for_each(|shard| self.submit_ready(shard, cx));
    }

    fn apply_outcomes(&mut self) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        outcomes.drain(..).for_each(|outcome| self.set_reply(outcome));
        self.outcomes = outcomes;
    }

    fn set_reply(&mut self, (stream_index, result): PublishOutcome) {
        self.router.record_outcome(&result);
        let slot = stream_index
            .checked_sub(self.first_index)
            .and_then(|i| self.reply_slots.get_mut(i as usize));
        if let Some(slot) = slot {
            self.pending_bytes -= slot.bytes;
            slot.reply = Some(result.map_err(|error| error.with_idempotency(slot.is_idempotent)));
        }
    }

    fn pop_reply(&mut self) -> Option<Result<Acknowledgement, PublishError>> {
        let slot = self.reply_slots.front_mut()?;
        let reply = slot.reply.take()?;
        if let Some(latency) = &self.latency {
            latency.record(slot.received_at.elapsed());
        }
        self.reply_slots.pop_front();
        self.first_index += 1;
        Some(reply)
    }
}

impl<S> Stream for OrderedPublish<S>
where
    S: Stream<Item = Result<Publish, PublishError>> + Unpin,
{
    type Item = Result<Acknowledgement, PublishError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            // Available replies first: there are no more than messages read, and polling the other sources
            // for each of them would cost more.
            if let Some(reply) = this.pop_reply() {
                return Poll::Ready(Some(reply));
            }
            if this.input.is_none() && this.reply_slots.is_empty() {
                return Poll::Ready(None);
            }
            let progressed = this.poll_updates(cx) | this.poll_input(cx) | this.poll_replies(cx);
            if !progressed && !this.poll_timer(cx) {
                return Poll::Pending;
            }
        }
    }
}

impl Future for InFlightPublish {
    type Output = (ShardId, u64, Result<Acknowledgement, PublishError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.reply.poll_unpin(cx));
        Poll::Ready((self.shard, self.number, result))
    }
}
