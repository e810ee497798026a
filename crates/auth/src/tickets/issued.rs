//! The tickets of a node that were not redeemed yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pushonce_core::Timestamp;

use super::{TICKETS_MAX, TICKETS_PER_SUBJECT_MAX};
use crate::Caller;

/// Tickets by id, with the orders that their bounds need. No step walks over all of them: a caller may ask for
/// tickets as often as for anything else.
#[derive(Default)]
pub(super) struct IssuedTickets {
    by_id: BTreeMap<u64, IssuedTicket>,
    by_expiry: BTreeSet<(Timestamp, u64)>,
    count_by_subject: HashMap<SubjectKey, usize>,
}

/// A ticket that was not redeemed yet. Only the hash of its secret is kept.
pub(super) struct IssuedTicket {
    pub(super) secret_hash: [u8; 32],
    pub(super) expires_at: Timestamp,
    pub(super) caller: Caller,
}

/// The issuer and the subject of a caller.
type SubjectKey = (Option<Arc<str>>, Option<Arc<str>>);

impl IssuedTickets {
    pub(super) fn get(&self, id: u64) -> Option<&IssuedTicket> {
        self.by_id.get(&id)
    }

    /// Whether there is room for one more ticket of the caller.
    pub(super) fn has_room(&self, caller: &Caller) -> bool {
        let of_subject = self.count_by_subject.get(&subject_key(caller)).copied();
        self.by_id.len() < TICKETS_MAX && of_subject.unwrap_or(0) < TICKETS_PER_SUBJECT_MAX
    }

    pub(super) fn insert(&mut self, id: u64, ticket: IssuedTicket) {
        // An id is random. If it is in use, the earlier ticket ends.
        self.remove(id);
        self.by_expiry.insert((ticket.expires_at, id));
        *self.count_by_subject.entry(subject_key(&ticket.caller)).or_default() += 1;
        self.by_id.insert(id, ticket);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<IssuedTicket> {
        let ticket = self.by_id.remove(&id)?;
        self.by_expiry.remove(&(ticket.expires_at, id));
        let key = subject_key(&ticket.caller);
        if let Some(count) = self.count_by_subject.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.count_by_subject.remove(&key);
            }
        }
        Some(ticket)
    }

    pub(super) fn remove_expired(&mut self, now: Timestamp) {
        while let Some(&(expires_at, id)) = self.by_expiry.first()
            && expires_at <= now
        {
            self.remove(id);
        }
    }
}

fn subject_key(caller: &Caller) -> SubjectKey {
    (caller.issuer().map(Arc::from), caller.subject().map(Arc::from))
}

#[cfg(test)]
mod tests {
    use super::super::tickets_test::caller;
    use super::*;

    fn ticket(subject: &str, expires_at: u64) -> IssuedTicket {
        let (secret_hash, expires_at) = ([0; 32], Timestamp(expires_at));
        IssuedTicket { secret_hash, expires_at, caller: caller(subject) }
    }

    #[test]
    fn redeemed_expired_and_replaced_tickets_leave_nothing_behind() {
        let mut issued = IssuedTickets::default();
        for (id, expires_at) in [(1, 30), (2, 10), (3, 20)] {
            issued.insert(id, ticket("alice", expires_at));
        }
        issued.insert(3, ticket("bob", 40));
        assert!(issued.remove(1).is_some() && issued.remove(1).is_none());
        issued.remove_expired(Timestamp(9));
        assert_eq!(issued.by_id.len(), 2);
        issued.remove_expired(Timestamp(40));
        assert!(issued.by_id.is_empty() && issued.by_expiry.is_empty());
        assert!(issued.count_by_subject.is_empty());
    }
}
