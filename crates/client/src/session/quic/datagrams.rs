//! Messages in datagrams, which arrive in any order or not at all.
//!
//! Datagrams are read immediately: the transport drops those for which its buffer has no room, and the
//! server considers them delivered. Only the newest message of each topic is kept until the caller is
//! ready.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{Epoch, Message, Topic};
use pushonce_proto::client::{Encoding, InvalidFrame, ServerEvent};

use super::ReaderContext;
use crate::session::SessionEnd;

/// The maximum number of topics of a session.
const PENDING_MAX: usize = 1024;

/// Pending messages in the order in which their topics arrived.
#[derive(Default)]
struct PendingDatagrams(VecDeque<(Topic, Arc<Message>)>);

/// Reads datagrams to the end of the connection.
pub(super) async fn read(shared: ReaderContext) {
    let mut topics = shared.topics.subscribe();
    let mut pending = PendingDatagrams::default();
    loop {
        let ready = pending.first_ready(&topics.borrow_and_update().epochs);
        tokio::select! {
            datagram = shared.connection.read_datagram() => {
                // The end of the connection is reported by `accept_streams`.
                let Ok(datagram) = datagram else { return };
                if let Err(error) = pending.on_datagram(&datagram) {
                    return shared.close(SessionEnd::retryable(error)).await;
                }
            }
            permit = shared.events.reserve(), if ready.is_some() => {
                // Fails only when the session was dropped.
                let Ok(permit) = permit else { return };
                if let Some((topic, message)) = ready.and_then(|index| pending.0.remove(index)) {
                    permit.send(Ok(ServerEvent::Message { topic, message }));
                }
            }
            Ok(()) = topics.changed() => {}
        }
    }
}

impl PendingDatagrams {
    fn on_datagram(&mut self, datagram: &Bytes) -> Result<(), InvalidFrame> {
        match Encoding::Proto.decode_event(datagram) {
            Ok(ServerEvent::Message { topic, message }) => self.insert(topic, message),
            Err(error) if error.is_fatal => return Err(error),
            // A frame of a newer server: ignored.
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    fn insert(&mut self, topic: Topic, message: Arc<Message>) {
        if let Some((_, pending_message)) =
            self.0.iter_mut().find(|(pending_topic, _)| *pending_topic == topic)
        {
            if pending_message.position < message.position {
                *pending_message = message;
            }
        } else if self.0.len() < PENDING_MAX {
            self.0.push_back((topic, message));
        }
    }

    /// The index of the first message that can be delivered: one whose topic's stream has already delivered
    /// the event that starts the subscription or the epoch.
    fn first_ready(&self, stream_epochs: &HashMap<Topic, Epoch>) -> Option<usize> {
        self.0.iter().position(|(topic, message)| {
            stream_epochs.get(topic).is_some_and(|epoch| message.position.epoch <= *epoch)
        })
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::Position;
    use pushonce_core::test_util::{message, topic};

    use super::*;

    fn pending(messages: &[(&str, u64, u64)]) -> PendingDatagrams {
        let mut pending = PendingDatagrams::default();
        for (name, epoch, offset) in messages {
            pending.insert(topic(name), Arc::new(message(*epoch, *offset)));
        }
        pending
    }

    #[test]
    fn newest_message_of_each_topic_keeps_the_place_of_the_first() {
        let pending = pending(&[("a", 1, 5), ("b", 1, 1), ("a", 1, 7), ("a", 1, 6), ("a", 1, 7)]);
        let kept: Vec<_> = pending.0.iter().map(|(name, m)| (name.as_str(), m.position)).collect();
        assert_eq!(kept, [("a", Position::new(1, 7)), ("b", Position::new(1, 1))]);
    }

    #[test]
    fn datagram_ahead_of_its_stream_waits_and_blocks_no_other_topic() {
        let pending = pending(&[("a", 2, 1), ("b", 1, 1), ("c", 1, 1)]);
        let first_ready = |epochs: &[(&str, u64)]| {
            let stream_epochs = epochs.iter().map(|(name, epoch)| (topic(name), Epoch(*epoch)));
            pending.first_ready(&stream_epochs.collect())
        };
        assert_eq!(first_ready(&[]), None);
        assert_eq!(first_ready(&[("a", 1), ("b", 0)]), None);
        assert_eq!(first_ready(&[("a", 1), ("b", 0), ("c", 1)]), Some(2));
        assert_eq!(first_ready(&[("a", 3), ("b", 0)]), Some(0));
    }

    #[test]
    fn pending_datagrams_are_bounded() {
        let names: Vec<String> = (0..PENDING_MAX + 9).map(|n| format!("match/{n}")).collect();
        let messages: Vec<_> = names.iter().map(|name| (name.as_str(), 1, 1)).collect();
        assert_eq!(pending(&messages).0.len(), PENDING_MAX);
    }
}
