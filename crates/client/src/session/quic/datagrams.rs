//! Messages that come as datagrams: in any order, or not at all.
//!
//! They are read as soon as they are there, for what the transport has no room for it throws away and
//! the server takes for delivered. What the caller has no time for yet waits here, the newest of each
//! topic alone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{Epoch, Message, Topic};
use pushonce_proto::client::{Encoding, Event, InvalidFrame};

use super::Shared;
use crate::session::Ended;

/// As many as a session may have topics.
const WAITING_MAX: usize = 1024;

/// What waits to be told, in the order in which the topics came.
#[derive(Default)]
struct Waiting(VecDeque<(Topic, Arc<Message>)>);

/// Reads datagrams to the end of the connection.
pub(super) async fn read(shared: Shared) {
    let mut begun = shared.begun.subscribe();
    let mut waiting = Waiting::default();
    loop {
        let ready = waiting.ready(&begun.borrow_and_update());
        tokio::select! {
            datagram = shared.connection.read_datagram() => {
                // The end of the connection is told by who accepts its streams.
                let Ok(datagram) = datagram else { return };
                if let Err(why) = waiting.take(&datagram) {
                    return shared.end(Ended::again(why)).await;
                }
            }
            room = shared.events.reserve(), if ready.is_some() => {
                // Whoever is gone does not want to know.
                let Ok(room) = room else { return };
                if let Some((topic, message)) = ready.and_then(|index| waiting.0.remove(index)) {
                    room.send(Ok(Event::Message { topic, message }));
                }
            }
            Ok(()) = begun.changed() => {}
        }
    }
}

impl Waiting {
    fn take(&mut self, datagram: &Bytes) -> Result<(), InvalidFrame> {
        match Encoding::Proto.decode_event(datagram) {
            Ok(Event::Message { topic, message }) => self.add(topic, message),
            Err(why) if why.broken => return Err(why),
            // From a newer server: not for us.
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    fn add(&mut self, topic: Topic, message: Arc<Message>) {
        if let Some((_, waiting)) = self.0.iter_mut().find(|(waiting, _)| *waiting == topic) {
            if waiting.position < message.position {
                *waiting = message;
            }
        } else if self.0.len() < WAITING_MAX {
            self.0.push_back((topic, message));
        }
    }

    /// The first that may be told: one that has not overtaken what its topic's stream has to say before
    /// the first message of a subscription, or of an epoch.
    fn ready(&self, begun: &HashMap<Topic, Epoch>) -> Option<usize> {
        self.0.iter().position(|(topic, message)| {
            begun.get(topic).is_some_and(|epoch| message.position.epoch <= *epoch)
        })
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{ContentType, Position, Timestamp};

    use super::*;

    fn waiting(messages: &[(&str, u64, u64)]) -> Waiting {
        let mut waiting = Waiting::default();
        for (name, epoch, offset) in messages {
            let (position, time) = (Position::new(*epoch, *offset), Timestamp(0));
            let (content_type, payload) = (ContentType::Text, Bytes::new());
            let message = Message { position, time, content_type, key: None, payload };
            waiting.add(topic(name), Arc::new(message));
        }
        waiting
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).expect("valid")
    }

    #[test]
    fn the_newest_of_each_topic_waits_in_the_place_of_the_first() {
        let waiting = waiting(&[("a", 1, 5), ("b", 1, 1), ("a", 1, 7), ("a", 1, 6), ("a", 1, 7)]);
        let left: Vec<_> = waiting.0.iter().map(|(name, m)| (name.as_str(), m.position)).collect();
        assert_eq!(left, [("a", Position::new(1, 7)), ("b", Position::new(1, 1))]);
    }

    #[test]
    fn what_overtakes_its_stream_waits_and_holds_up_no_other() {
        let waiting = waiting(&[("a", 2, 1), ("b", 1, 1), ("c", 1, 1)]);
        let ready = |epochs: &[(&str, u64)]| {
            let begun = epochs.iter().map(|(name, epoch)| (topic(name), Epoch(*epoch)));
            waiting.ready(&begun.collect())
        };
        assert_eq!(ready(&[]), None);
        assert_eq!(ready(&[("a", 1), ("b", 0)]), None);
        assert_eq!(ready(&[("a", 1), ("b", 0), ("c", 1)]), Some(2));
        assert_eq!(ready(&[("a", 3), ("b", 0)]), Some(0));
    }

    #[test]
    fn what_waits_is_bounded() {
        let names: Vec<String> = (0..WAITING_MAX + 9).map(|n| format!("match/{n}")).collect();
        let messages: Vec<_> = names.iter().map(|name| (name.as_str(), 1, 1)).collect();
        assert_eq!(waiting(&messages).0.len(), WAITING_MAX);
    }
}
