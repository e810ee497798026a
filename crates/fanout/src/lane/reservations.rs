//! The subscriptions of a lane that are not established yet.

use std::collections::BTreeMap;

use pushonce_core::Topic;

use super::SessionKey;

/// Identifies a subscription that is not established yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reservation {
    session: SessionKey,
    number: u64,
}

/// The reservations of all sessions of a lane. There are few at any time: in a table of its own they take no memory
/// of an idle session.
#[derive(Default)]
pub(super) struct Reservations {
    entries: BTreeMap<Reservation, ReservedTopic>,
    last_number: u64,
}

struct ReservedTopic {
    topic: Topic,
    token: u32,
}

impl Reservations {
    /// Adds the reservation of a session that has none for this topic.
    pub(super) fn add(&mut self, session: SessionKey, topic: &Topic, token: u32) -> Reservation {
        self.last_number += 1;
        let reservation = Reservation { session, number: self.last_number };
        self.entries.insert(reservation, ReservedTopic { topic: topic.clone(), token });
        reservation
    }

    /// The reserved topics of a session.
    pub(super) fn topics(&self, session: SessionKey) -> impl Iterator<Item = &Topic> {
        self.of(session).map(|(_, entry)| &entry.topic)
    }

    /// Removes a reservation. Returns whether it still existed.
    pub(super) fn remove(&mut self, reservation: Reservation) -> bool {
        self.entries.remove(&reservation).is_some()
    }

    /// Removes the reservation of a topic. Returns its token, if there is one.
    pub(super) fn cancel(&mut self, session: SessionKey, topic: &Topic) -> Option<u32> {
        let reservation = *self.of(session).find(|(_, entry)| entry.topic == *topic)?.0;
        self.entries.remove(&reservation).map(|entry| entry.token)
    }

    /// Removes all reservations of a session.
    pub(super) fn close_session(&mut self, session: SessionKey) {
        let reserved: Vec<_> = self.of(session).map(|(reservation, _)| *reservation).collect();
        for reservation in reserved {
            self.entries.remove(&reservation);
        }
    }

    fn of(&self, session: SessionKey) -> impl Iterator<Item = (&Reservation, &ReservedTopic)> {
        let bound = |number| Reservation { session, number };
        self.entries.range(bound(0)..=bound(u64::MAX))
    }
}
