//! The tickets of a node that were not redeemed yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pushonce_core::{CallerKey, Timestamp};

use super::LIFETIME_MS;
use crate::Caller;

/// Maximum of the tickets that are not redeemed yet: 16 MiB.
pub(super) const TOTAL_MAX: TicketLoad = TicketLoad { count: 16_384, bytes: 16 << 20 };

/// Maximum of those of one caller, so that it cannot use up the tickets of others: 256, or 27 with as many and as
/// long topics as possible.
pub(super) const CALLER_MAX: TicketLoad = TicketLoad { count: 256, bytes: 1 << 20 };

/// Tickets by id, with the orders that their bounds need. No step walks over all of them: a caller may ask for
/// tickets as often as for anything else.
#[derive(Default)]
pub(super) struct IssuedTickets {
    by_id: BTreeMap<u64, IssuedTicket>,
    by_issue: BTreeSet<(Timestamp, u64)>,
    total: TicketLoad,
    by_payer: HashMap<CallerKey, TicketLoad>,
}

/// A ticket that was not redeemed yet. Only the hash of its secret is kept.
pub(super) struct IssuedTicket {
    pub(super) secret_hash: [u8; 32],
    pub(super) issued_at: Timestamp,
    /// The caller to whose limit it counts.
    pub(super) payer: CallerKey,
    /// The memory that it takes, roughly.
    pub(super) bytes: usize,
    pub(super) caller: Caller,
}

/// How many tickets there are, and what memory they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TicketLoad {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl IssuedTickets {
    pub(super) fn get(&self, id: u64) -> Option<&IssuedTicket> {
        self.by_id.get(&id)
    }

    #[cfg(test)]
    pub(super) fn total(&self) -> TicketLoad {
        self.total
    }

    /// Whether there is room for one more ticket of this size.
    pub(super) fn has_room(&self, payer: &CallerKey, bytes: usize) -> bool {
        let of_payer = self.by_payer.get(payer).copied().unwrap_or_default();
        self.total.has_room(bytes, TOTAL_MAX) && of_payer.has_room(bytes, CALLER_MAX)
    }

    pub(super) fn insert(&mut self, id: u64, ticket: IssuedTicket) {
        // An id is random. If it is in use, the earlier ticket ends.
        self.remove(id);
        self.by_issue.insert((ticket.issued_at, id));
        self.total.add(&ticket);
        self.by_payer.entry(ticket.payer).or_default().add(&ticket);
        self.by_id.insert(id, ticket);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<IssuedTicket> {
        let ticket = self.by_id.remove(&id)?;
        self.by_issue.remove(&(ticket.issued_at, id));
        self.total.subtract(&ticket);
        if let Some(load) = self.by_payer.get_mut(&ticket.payer) {
            load.subtract(&ticket);
            if load.count == 0 {
                self.by_payer.remove(&ticket.payer);
            }
        }
        Some(ticket)
    }

    /// Removes the tickets that are not valid at `now`.
    pub(super) fn remove_expired(&mut self, now: Timestamp) {
        while let Some(&(issued_at, id)) = self.by_issue.first()
            && issued_at <= now
            && !is_valid(issued_at, now)
        {
            self.remove(id);
        }
        // A clock that was set back.
        while let Some(&(issued_at, id)) = self.by_issue.last()
            && issued_at > now
        {
            self.remove(id);
        }
    }
}

impl IssuedTicket {
    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        is_valid(self.issued_at, now)
    }
}

impl TicketLoad {
    fn add(&mut self, ticket: &IssuedTicket) {
        self.count += 1;
        self.bytes += ticket.bytes;
    }

    fn subtract(&mut self, ticket: &IssuedTicket) {
        self.count -= 1;
        self.bytes -= ticket.bytes;
    }

    fn has_room(self, bytes: usize, max: TicketLoad) -> bool {
        self.count < max.count && self.bytes + bytes <= max.bytes
    }
}

/// Not before its issue either: a clock that is set back must not lengthen the life of a ticket.
fn is_valid(issued_at: Timestamp, now: Timestamp) -> bool {
    now.0.checked_sub(issued_at.0).is_some_and(|age_ms| age_ms < LIFETIME_MS)
}

#[cfg(test)]
mod tests {
    use pushonce_core::ClientAddress;

    use super::super::tickets_test::caller;
    use super::*;

    fn ticket(subject: &str, issued_at: u64) -> IssuedTicket {
        let caller = caller(subject);
        let payer = caller.key(ClientAddress::LOCALHOST);
        let (secret_hash, issued_at) = ([0; 32], Timestamp(issued_at));
        IssuedTicket { secret_hash, issued_at, payer, bytes: 100, caller }
    }

    #[test]
    fn redeemed_expired_and_replaced_tickets_leave_nothing_behind() {
        let mut issued = IssuedTickets::default();
        for (id, issued_at) in [(1, 30), (2, 10), (3, 20)] {
            issued.insert(id, ticket("alice", issued_at));
        }
        issued.insert(3, ticket("bob", 40));
        assert!(issued.remove(1).is_some() && issued.remove(1).is_none());
        issued.remove_expired(Timestamp(10 + LIFETIME_MS - 1));
        assert_eq!(issued.total, TicketLoad { count: 2, bytes: 200 });
        issued.remove_expired(Timestamp(10 + LIFETIME_MS));
        assert_eq!(issued.total, TicketLoad { count: 1, bytes: 100 });
        issued.remove_expired(Timestamp(39));
        assert!(issued.by_id.is_empty() && issued.by_issue.is_empty());
        assert!(issued.by_payer.is_empty());
        assert_eq!(issued.total, TicketLoad::default());
    }
}
