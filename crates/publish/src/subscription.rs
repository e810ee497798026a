//! The events of a back end's subscription: the topic's events, with heartbeats in between.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream, Stream};
use pushonce_core::{Position, StartFrom, SubscribeAck, TopicEvent};
use pushonce_proto::publisher::SubscribeEvent;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// The events of a topic, and the position that the caller has reached.
struct EventStream {
    items: BoxStream<'static, TopicEvent>,
    /// `None` before the first event of a subscription that requested history.
    position: Option<Position>,
    is_stale: bool,
    heartbeat: Interval,
}

/// All events for the caller, in order.
pub(crate) fn event_stream(
    from: StartFrom,
    start: SubscribeAck,
    items: BoxStream<'static, TopicEvent>,
    heartbeat_interval: Duration,
) -> impl Stream<Item = SubscribeEvent> {
    let mut heartbeat = interval_at(Instant::now() + heartbeat_interval, heartbeat_interval);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let position = initial_position(from, start);
    let events = EventStream { items, position, is_stale: false, heartbeat };
    let first = SubscribeEvent::Subscribed { position: start.position, recovered: start.recovered };
    let following =
        stream::unfold(events, |mut events| async move { Some((events.next().await?, events)) });
    stream::iter([first]).chain(following)
}

/// The position of the caller before the first event.
fn initial_position(from: StartFrom, start: SubscribeAck) -> Option<Position> {
    match from {
        StartFrom::Position(position) if start.recovered => Some(position),
        StartFrom::Now | StartFrom::Last(0) => Some(start.position),
        _ if start.position == Position::ZERO => Some(Position::ZERO),
        _ => None,
    }
}

impl EventStream {
    async fn next(&mut self) -> Option<SubscribeEvent> {
        tokio::select! {
            // Events come before a heartbeat, which carries their position.
            biased;
            item = self.items.next() => {
                let item = item?;
                self.track(&item);
                Some(SubscribeEvent::Item(item))
            }
            _ = self.heartbeat.tick() => {
                Some(SubscribeEvent::Heartbeat { position: self.position.filter(|_| !self.is_stale) })
            }
        }
    }

    fn track(&mut self, item: &TopicEvent) {
        match item {
            TopicEvent::Message(message) => self.position = Some(message.position),
            TopicEvent::Gap(gap) => self.position = Some(gap.to),
            TopicEvent::Stale(_) => self.is_stale = true,
            TopicEvent::Live(_) => self.is_stale = false,
        }
    }
}
