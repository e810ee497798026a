use openraft::vote::leader_id_std::CommittedLeaderId;
use proptest::prelude::*;

use super::*;

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// A step in the life of a replica's log.
#[derive(Clone, Debug)]
enum LogAction {
    /// Entries are appended, in the current term or a later one.
    Append { entries: u8, new_term: bool },
    /// Uncommitted entries are replaced by an entry of a new leader.
    Replace { dropped: u8 },
    /// Part of the log is committed.
    Commit { entries: u8 },
    /// Part of the committed entries is saved in a snapshot.
    Snapshot { back: u8 },
    /// Entries that are in the snapshot are purged.
    Purge { kept: u8 },
    /// A snapshot ahead of the log arrives from the leader; the log that it replaces is purged a moment
    /// later.
    Install { ahead: u8 },
}

fn log_action() -> impl Strategy<Value = LogAction> {
    prop_oneof![
        3 => (1u8..5, any::<bool>()).prop_map(|(entries, new_term)| LogAction::Append { entries, new_term }),
        1 => (0u8..4).prop_map(|dropped| LogAction::Replace { dropped }),
        3 => (1u8..6).prop_map(|entries| LogAction::Commit { entries }),
        2 => (0u8..4).prop_map(|back| LogAction::Snapshot { back }),
        2 => (0u8..4).prop_map(|kept| LogAction::Purge { kept }),
        1 => (1u8..4).prop_map(|ahead| LogAction::Install { ahead }),
    ]
}

/// The log of a replica, and all entries that were ever committed.
#[derive(Default)]
struct LogHistory {
    term: u64,
    current: LogParts,
    committed_log: Vec<LogId>,
    states: Vec<LogParts>,
}

impl LogHistory {
    fn from_actions(actions: &[LogAction]) -> LogHistory {
        let mut history = LogHistory::default();
        history.record();
        actions.iter().for_each(|action| history.apply(action));
        history
    }

    fn record(&mut self) {
        self.states.push(self.current.clone());
    }

    fn end(&self) -> u64 {
        next_index(self.current.entries.last().copied().or(self.current.purged))
    }

    fn apply(&mut self, action: &LogAction) {
        match *action {
            LogAction::Append { entries, new_term } => {
                self.term += u64::from(new_term || self.term == 0);
                for _ in 0..entries {
                    self.current.entries.push(id(self.term, self.end()));
                }
            }
            LogAction::Replace { dropped } => {
                self.term += 1;
                let end = self
                    .end()
                    .saturating_sub(u64::from(dropped))
                    .max(self.committed_log.len() as u64);
                self.current.entries.retain(|entry| entry.index < end);
                self.current.entries.push(id(self.term, self.end()));
            }
            LogAction::Commit { entries } => {
                let known = self.committed_log.len() as u64;
                let ready = self.current.entries.iter().filter(|entry| entry.index >= known);
                let ready: Vec<LogId> = ready.take(entries.into()).copied().collect();
                self.committed_log.extend(ready);
                self.current.committed =
                    self.committed_log.last().copied().filter(|_| self.term > 0);
            }
            LogAction::Snapshot { back } => {
                let at = self.committed_log.len().checked_sub(1 + usize::from(back));
                let taken = at.map(|at| self.committed_log[at]);
                self.current.snapshot = self.current.snapshot.max(taken);
            }
            LogAction::Purge { kept } => {
                let upto = next_index(self.current.snapshot).saturating_sub(u64::from(kept));
                let mut dropped = self.current.entries.iter().filter(|entry| entry.index < upto);
                self.current.purged = self.current.purged.max(dropped.next_back().copied());
                self.current.entries.retain(|entry| entry.index >= upto);
            }
            LogAction::Install { ahead } => {
                self.term += 1;
                let end = self.end() + u64::from(ahead);
                let known = self.committed_log.len() as u64;
                // Log entries beyond the known commits belong to another leader.
                self.current.entries.retain(|entry| entry.index < known);
                self.committed_log.extend((known..end).map(|index| id(self.term, index)));
                self.current.snapshot = self.committed_log.last().copied();
                self.record();
                self.current.purged = self.current.snapshot;
                self.current.entries.clear();
            }
        }
        self.record();
    }
}

/// Whether all entries up to the commit mark are present and correct.
fn is_complete(parts: &LogParts, committed_log: &[LogId]) -> bool {
    let in_snapshot = next_index(parts.snapshot);
    (in_snapshot..next_index(parts.committed)).all(|index| {
        let entry = parts.entries.iter().find(|entry| entry.index == index);
        entry == committed_log.get(usize::try_from(index).unwrap())
    })
}

proptest! {
    #[test]
    fn every_state_of_a_history_is_consistent(acts in prop::collection::vec(log_action(), 1..40)) {
        let history = LogHistory::from_actions(&acts);
        for moment in &history.states {
            prop_assert!(check_consistency(moment).is_ok(), "{:?}: {moment:?}", check_consistency(moment));
            prop_assert!(is_complete(moment, &history.committed_log));
        }
    }

    /// Each part is from one of two states, and an entry may be missing.
    #[test]
    fn consistent_mixture_of_states_holds_all_committed_entries(
        acts in prop::collection::vec(log_action(), 1..40),
        moments in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        of_first in any::<[bool; 4]>(),
        missing in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let history = LogHistory::from_actions(&acts);
        let pick = |index: &prop::sample::Index| index.get(&history.states).clone();
        let (first, second) = (pick(&moments.0), pick(&moments.1));
        let of = |n: usize| if of_first[n] { &first } else { &second };
        let mut entries = of(3).entries.clone();
        if let Some(missing) = missing.filter(|_| !entries.is_empty()) {
            entries.remove(missing.index(entries.len()));
        }
        // The log itself rejects a hole when it is restored.
        prop_assume!(entries.windows(2).all(|pair| pair[0].index + 1 == pair[1].index));
        let mixed = LogParts {
            purged: of(0).purged,
            committed: of(1).committed,
            snapshot: of(2).snapshot,
            entries,
        };
        if check_consistency(&mixed).is_ok() {
            prop_assert!(is_complete(&mixed, &history.committed_log), "{mixed:?}");
        }
    }
}

fn error_message(parts: &LogParts) -> String {
    check_consistency(parts).map_or_else(|error| error.to_string(), |()| "consistent".to_owned())
}

#[test]
fn error_names_inconsistent_part() {
    let whole = LogParts {
        purged: Some(id(1, 3)),
        committed: Some(id(2, 6)),
        snapshot: Some(id(1, 4)),
        entries: vec![id(1, 4), id(2, 5), id(2, 6), id(2, 7)],
    };
    assert_eq!(error_message(&whole), "consistent");
    let with = |change: fn(&mut LogParts)| {
        let mut parts = whole.clone();
        change(&mut parts);
        error_message(&parts)
    };
    assert!(with(|it| it.snapshot = None).starts_with("purged entries are not"));
    assert!(with(|it| it.purged = None).starts_with("the log does not begin"));
    assert!(with(|it| _ = it.entries.remove(0)).starts_with("the log does not begin"));
    assert!(with(|it| it.entries[3] = id(1, 7)).starts_with("an entry has a lower term"));
    assert!(with(|it| it.snapshot = Some(id(2, 4))).starts_with("an entry contradicts the snap"));
    assert!(
        with(|it| it.committed = Some(id(3, 6))).starts_with("an entry contradicts the commit")
    );
    assert!(with(|it| it.committed = Some(id(2, 8))).starts_with("committed entries are missing"));
    assert!(with(|it| it.entries.truncate(2)).starts_with("committed entries are missing"));
}

#[test]
fn vote_older_than_log_is_rejected() {
    let logs = || [id(1, 3), id(2, 4)];
    assert!(check_vote(Some(Vote::new_committed(2, 1)), logs()).is_ok());
    assert!(check_vote(Some(Vote::new(5, 1)), logs()).is_ok());
    let message = check_vote(Some(Vote::new(1, 1)), logs()).unwrap_err().to_string();
    assert!(message.starts_with("the vote is older than the log"), "{message}");
    assert!(check_vote(None, logs()).is_err());
    assert!(check_vote(None, [id(0, 0)]).is_ok(), "a group begins with an entry of term 0");
}
