//! Bounds how far a peer may move the term of a replica.
//!
//! A replica adopts and stores every higher term that it receives, and openraft adds 1 to it at the next
//! election. One absurd term would end the group for good, across restarts.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pushonce_core::FailPoint;

use crate::offline::{INDEX_STEP, TERM_STEP};

/// Maximum term and index. An election a second needs 146 billion years to reach it, and adding to it never
/// overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// Maximum increase of the term by one request. With an election every second a replica that was away for 194
/// days returns within it; with pre-votes the term increases only when a leader is elected. A peer that
/// sends ever higher terms needs 2^38 of them to reach [`NUMBER_MAX`], each of which is one fsync here: over
/// eight years at 1 ms.
pub(crate) const TERM_JUMP_MAX: u64 = 1 << 24;

/// Number of recoveries of a group ([`OfflineGroup::new_history_start`](crate::OfflineGroup)) that a replica
/// may have missed. Each moves the group by one step.
const RECOVERIES_MAX: u64 = 16;

/// Maximum increase of the index of the log: a lagging replica may have missed recoveries.
pub(crate) const INDEX_JUMP_MAX: u64 = RECOVERIES_MAX * INDEX_STEP;

/// Maximum increase of the term by the leader of a group that was recovered.
const RECOVERY_TERM_JUMP_MAX: u64 = RECOVERIES_MAX * TERM_STEP;

/// Minimum time between two such increases: an operator makes them. With them alone [`NUMBER_MAX`] is reached
/// after 127 years.
const RECOVERY_JUMP_INTERVAL: Duration = Duration::from_secs(60);

/// The bound of one replica.
#[derive(Debug, Default)]
pub(crate) struct TermGuard {
    last_recovery_jump: Mutex<Option<Instant>>,
}

/// Where a term comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TermSource {
    /// A candidate, or the reply of a replica.
    Replica,
    /// A leader, whose group may have been recovered.
    Leader,
}

/// The term is higher than any that the group can have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("term {term} is implausible: this replica is at term {known}")]
pub(crate) struct ImplausibleTerm {
    term: u64,
    known: u64,
}

impl TermGuard {
    /// Checks a term against that of this replica; 0 for a replica that has none yet, which accepts the term of
    /// its first leader.
    pub(crate) fn check(
        &self,
        known: u64,
        term: u64,
        source: TermSource,
        now: Instant,
    ) -> Result<(), ImplausibleTerm> {
        let error = Err(ImplausibleTerm { term, known });
        if FailPoint::TermJumpUnchecked.is_active() {
            return Ok(());
        }
        if term > NUMBER_MAX {
            return error;
        }
        let jump = term.saturating_sub(known);
        if jump <= TERM_JUMP_MAX || known == 0 {
            return Ok(());
        }
        if source != TermSource::Leader || jump > RECOVERY_TERM_JUMP_MAX {
            return error;
        }
        let mut last = self.last_recovery_jump.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now.saturating_duration_since(last) < RECOVERY_JUMP_INTERVAL) {
            return error;
        }
        *last = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLICA: TermSource = TermSource::Replica;

    #[test]
    fn term_moves_by_elections_and_not_by_absurd_numbers() {
        let (guard, now) = (TermGuard::default(), Instant::now());
        for (known, term) in [(5, 1), (5, 5), (5, 6), (5, 5 + TERM_JUMP_MAX), (0, NUMBER_MAX)] {
            assert_eq!(guard.check(known, term, REPLICA, now), Ok(()), "{known} to {term}");
        }
        for term in [6 + TERM_JUMP_MAX, NUMBER_MAX, u64::MAX] {
            assert!(guard.check(5, term, REPLICA, now).is_err(), "{term}");
        }
        assert!(guard.check(0, NUMBER_MAX + 1, REPLICA, now).is_err());
    }

    #[test]
    fn leader_of_recovered_group_moves_the_term_once_a_minute() {
        let (guard, now) = (TermGuard::default(), Instant::now());
        let check = |known, term, at| guard.check(known, term, TermSource::Leader, at);
        let recovered = 5 + RECOVERY_TERM_JUMP_MAX;
        assert!(guard.check(5, recovered, REPLICA, now).is_err(), "a candidate");
        assert!(check(5, recovered + 1, now).is_err());
        assert_eq!(check(5, recovered, now), Ok(()));
        assert_eq!(check(recovered, recovered + 1, now), Ok(()));
        let again = recovered + RECOVERY_TERM_JUMP_MAX;
        assert!(check(recovered, again, now).is_err());
        assert_eq!(check(recovered, again, now + RECOVERY_JUMP_INTERVAL), Ok(()));
    }
}
