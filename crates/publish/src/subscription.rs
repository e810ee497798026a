//! What a back end hears of a topic: what there is, and in between that the node lives.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream, Stream};
use pushonce_core::{From, Item, Position};
use pushonce_proto::publisher::Event;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::Subscribed;

/// The items of a topic, and how far they brought the caller.
struct Subscription {
    items: BoxStream<'static, Item>,
    /// `None` before the first item of a past that was asked for.
    reached: Option<Position>,
    stale: bool,
    beats: Interval,
}

/// Everything the caller is told, in order.
pub(crate) fn events(
    from: From,
    begun: Subscribed,
    items: BoxStream<'static, Item>,
    heartbeat: Duration,
) -> impl Stream<Item = Event> {
    let mut beats = interval_at(Instant::now() + heartbeat, heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reached = begins(from, begun);
    let subscription = Subscription { items, reached, stale: false, beats };
    let first = Event::Subscribed { position: begun.position, recovered: begun.recovered };
    let rest = stream::unfold(subscription, |mut subscription| async move {
        Some((subscription.next().await?, subscription))
    });
    stream::iter([first]).chain(rest)
}

/// Where the caller stands before the first item.
fn begins(from: From, begun: Subscribed) -> Option<Position> {
    match from {
        From::Position(position) if begun.recovered => Some(position),
        From::Now | From::Last(0) => Some(begun.position),
        _ if begun.position == Position::ZERO => Some(Position::ZERO),
        _ => None,
    }
}

impl Subscription {
    async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            // What there is goes first: a heartbeat counts it.
            biased;
            item = self.items.next() => {
                let item = item?;
                self.see(&item);
                Some(Event::Item(item))
            }
            _ = self.beats.tick() => {
                Some(Event::Heartbeat { position: self.reached.filter(|_| !self.stale) })
            }
        }
    }

    fn see(&mut self, item: &Item) {
        match item {
            Item::Message(message) => self.reached = Some(message.position),
            Item::Gap(gap) => self.reached = Some(gap.to),
            Item::Stale(_) => self.stale = true,
            Item::Live(_) => self.stale = false,
        }
    }
}
