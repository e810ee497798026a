//! Many messages under way at once, answered in the order they came.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use pushonce_core::{ClusterView, Owners, Placed, Publish, PublishError, Refusal, ShardId};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::wrappers::WatchStream;

use crate::Router;
use crate::line::{Line, Outcome};

/// The answers to a stream of messages: see [`Router::ordered`].
#[must_use = "nothing is published unless it is polled"]
pub struct Ordered<S> {
    router: Router,
    /// `None` once it has ended.
    input: Option<S>,
    /// Messages that wait for this node's first current view, oldest first: without one nobody can say
    /// which shard a topic belongs to.
    unadmitted: VecDeque<Unadmitted>,
    lines: BTreeMap<ShardId, Line>,
    flights: FuturesUnordered<Flight>,
    /// One for each message without a delivered answer, in order; the ticket of the first is
    /// `first`.
    slots: VecDeque<Slot>,
    first: u64,
    bytes: usize,
    owners: Arc<Owners>,
    claims: WatchStream<Arc<Owners>>,
    views: WatchStream<Option<Arc<ClusterView>>>,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Scratch, empty between uses.
    outcomes: Vec<Outcome>,
}

struct Slot {
    bytes: usize,
    /// Whether the message, sent again, is recognised.
    repeatable: bool,
    answer: Option<Result<Placed, PublishError>>,
}

/// A message that was not checked yet; not admitted by `until`, it is refused.
struct Unadmitted {
    ticket: u64,
    publish: Publish,
    until: Instant,
}

/// A message on its way, by shard and number in the shard's line.
struct Flight {
    shard: ShardId,
    number: u64,
    answer: BoxFuture<'static, Result<Placed, PublishError>>,
}

/// So many messages are read at once before answers are given: neither side may starve the other.
const READ_AT_ONCE: usize = 256;

impl<S> Ordered<S> {
    /// So many messages may wait for their answers. Past that the input is not read.
    pub const WAITING_MAX: usize = 16_384;
    /// So many payload bytes may wait for their answers, 16 MiB, since a hundred streams may wait
    /// for one election. Past that the input is not read.
    pub const WAITING_BYTES_MAX: usize = 16 << 20;
}

impl<S> Ordered<S>
where
    S: Stream<Item = Result<Publish, PublishError>> + Unpin,
{
    pub(crate) fn new(router: Router, input: S) -> Ordered<S> {
        let claims = router.owners();
        let owners = claims.borrow().clone();
        let views = WatchStream::from_changes(router.view());
        Ordered {
            router,
            input: Some(input),
            unadmitted: VecDeque::new(),
            lines: BTreeMap::new(),
            flights: FuturesUnordered::new(),
            slots: VecDeque::new(),
            first: 0,
            bytes: 0,
            owners,
            claims: WatchStream::from_changes(claims),
            views,
            alarm: None,
            outcomes: Vec::new(),
        }
    }

    fn full(&self) -> bool {
        self.slots.len() >= Self::WAITING_MAX || self.bytes >= Self::WAITING_BYTES_MAX
    }

    /// Reads what has come, and hands over what may go. Says whether anything came.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        for count in 0..READ_AT_ONCE {
            if self.full() {
                return count > 0;
            }
            let Some(input) = &mut self.input else { return count > 0 };
            match input.poll_next_unpin(cx) {
                Poll::Pending => return count > 0,
                Poll::Ready(None) => {
                    self.input = None;
                    return true;
                }
                Poll::Ready(Some(message)) => self.take(message, cx),
            }
        }
        true
    }

    fn take(&mut self, message: Result<Publish, PublishError>, cx: &mut Context<'_>) {
        let ticket = self.first + self.slots.len() as u64;
        let bytes = message.as_ref().map_or(0, |publish| publish.payload.len());
        let repeatable = message.as_ref().is_ok_and(Publish::is_repeatable);
        self.slots.push_back(Slot { bytes, repeatable, answer: None });
        self.bytes += bytes;
        match message {
            Err(refused) => self.answer((ticket, Err(refused))),
            Ok(publish) => {
                let until = Instant::now() + self.router.deadline();
                self.unadmitted.push_back(Unadmitted { ticket, publish, until });
                self.admit(cx);
            }
        }
    }

    /// Checks what waits for that and puts it in the lines of the shards, in its order; nothing while
    /// this node has no current view.
    fn admit(&mut self, cx: &mut Context<'_>) {
        while let Some(next) = self.unadmitted.front() {
            let Some(admitted) = self.router.admit(&next.publish) else { return };
            let Some(Unadmitted { ticket, publish, until }) = self.unadmitted.pop_front() else {
                return;
            };
            match admitted {
                Err(invalid) => self.answer((ticket, Err(invalid.into()))),
                Ok(shard) => {
                    let line = self.lines.entry(shard).or_insert_with(|| Line::new(shard));
                    line.push(ticket, publish, until);
                    self.advance(shard, cx);
                }
            }
        }
    }

    /// Refuses what has waited too long for a view.
    fn expire_unadmitted(&mut self, now: Instant) {
        while self.unadmitted.front().is_some_and(|next| next.until <= now) {
            let Some(expired) = self.unadmitted.pop_front() else { return };
            let why = "this node has no current view of its cluster yet".to_owned();
            self.answer((expired.ticket, Err(Refusal::Unavailable(why).into())));
        }
    }

    /// Hands over all that a line lets go.
    fn advance(&mut self, shard: ShardId, cx: &mut Context<'_>) {
        let now = Instant::now();
        while let Some(line) = self.lines.get_mut(&shard) {
            let Some(next) = line.submit(&self.owners, now) else { return };
            let answer = self.router.hand_over(next.to, next.publish);
            let mut flight = Flight { shard, number: next.number, answer };
            // Polled here, because the first poll puts it in line and the set promises no order.
            match flight.poll_unpin(cx) {
                Poll::Pending => self.flights.push(flight),
                Poll::Ready((_, number, result)) => {
                    line.landed(number, result, now, &mut self.outcomes);
                    self.settle();
                }
            }
        }
    }

    /// Takes the answers that have come. Says whether any has.
    fn land(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((shard, number, result))) = self.flights.poll_next_unpin(cx) {
            any = true;
            let Some(line) = self.lines.get_mut(&shard) else { continue };
            line.landed(number, result, Instant::now(), &mut self.outcomes);
            self.settle();
            self.advance(shard, cx);
        }
        any
    }

    /// Takes the newest owners and views, and hands over what waited for them. Says whether there were
    /// any.
    fn hear(&mut self, cx: &mut Context<'_>) -> bool {
        let mut news = false;
        while let Poll::Ready(Some(owners)) = self.claims.poll_next_unpin(cx) {
            self.owners = owners;
            news = true;
        }
        if news {
            self.advance_all(cx);
        }
        let mut viewed = false;
        while let Poll::Ready(Some(_)) = self.views.poll_next_unpin(cx) {
            viewed = true;
        }
        if viewed {
            self.admit(cx);
        }
        news || viewed
    }

    /// Sets the alarm for the first line that needs one. Says whether it rang.
    fn alarm(&mut self, cx: &mut Context<'_>) -> bool {
        let unadmitted = self.unadmitted.front().map(|next| next.until);
        let lines = self.lines.values().filter_map(Line::wake_at);
        let Some(at) = lines.chain(unadmitted).min() else {
            self.alarm = None;
            return false;
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        if alarm.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.alarm = None;
        let now = Instant::now();
        self.expire_unadmitted(now);
        self.lines.values_mut().for_each(|line| line.expire(now, &mut self.outcomes));
        self.settle();
        self.advance_all(cx);
        true
    }

    fn advance_all(&mut self, cx: &mut Context<'_>) {
        let shards: Vec<_> = self.lines.keys().copied().collect();
        shards.into_iter().for_each(|shard| self.advance(shard, cx));
    }

    fn settle(&mut self) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        outcomes.drain(..).for_each(|outcome| self.answer(outcome));
        self.outcomes = outcomes;
    }

    fn answer(&mut self, (ticket, result): Outcome) {
        self.router.count(&result);
        let slot = ticket.checked_sub(self.first).and_then(|i| self.slots.get_mut(i as usize));
        if let Some(slot) = slot {
            self.bytes -= slot.bytes;
            slot.answer = Some(result.map_err(|why| why.of(slot.repeatable)));
        }
    }

    fn pop(&mut self) -> Option<Result<Placed, PublishError>> {
        let answer = self.slots.front_mut()?.answer.take()?;
        self.slots.pop_front();
        self.first += 1;
        Some(answer)
    }
}

impl<S> Stream for Ordered<S>
where
    S: Stream<Item = Result<Publish, PublishError>> + Unpin,
{
    type Item = Result<Placed, PublishError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            // First what is there: no more than was read, and to look for more costs each of them.
            if let Some(answer) = this.pop() {
                return Poll::Ready(Some(answer));
            }
            if this.input.is_none() && this.slots.is_empty() {
                return Poll::Ready(None);
            }
            let moved = this.hear(cx) | this.read(cx) | this.land(cx);
            if !moved && !this.alarm(cx) {
                return Poll::Pending;
            }
        }
    }
}

impl Future for Flight {
    type Output = (ShardId, u64, Result<Placed, PublishError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.answer.poll_unpin(cx));
        Poll::Ready((self.shard, self.number, result))
    }
}
