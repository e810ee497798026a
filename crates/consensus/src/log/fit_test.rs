use openraft::vote::leader_id_std::CommittedLeaderId;
use proptest::prelude::*;

use super::*;

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// What happens to the log of a replica.
#[derive(Clone, Debug)]
enum Act {
    /// Entries are appended, under the term or a later one.
    Append { entries: u8, new_term: bool },
    /// Some of what is not committed is replaced by an entry of a new leader.
    Replace { dropped: u8 },
    /// A part of the log is committed.
    Commit { entries: u8 },
    /// A part of what is committed goes into a snapshot.
    Snapshot { back: u8 },
    /// Entries that are in the snapshot are dropped.
    Purge { kept: u8 },
    /// A snapshot that is ahead of the log comes from the leader; the log it replaces is dropped a
    /// moment later.
    Install { ahead: u8 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1u8..5, any::<bool>()).prop_map(|(entries, new_term)| Act::Append { entries, new_term }),
        1 => (0u8..4).prop_map(|dropped| Act::Replace { dropped }),
        3 => (1u8..6).prop_map(|entries| Act::Commit { entries }),
        2 => (0u8..4).prop_map(|back| Act::Snapshot { back }),
        2 => (0u8..4).prop_map(|kept| Act::Purge { kept }),
        1 => (1u8..4).prop_map(|ahead| Act::Install { ahead }),
    ]
}

/// A replica, and all that was ever committed.
#[derive(Default)]
struct History {
    term: u64,
    now: Parts,
    truth: Vec<LogId>,
    moments: Vec<Parts>,
}

impl History {
    fn of(acts: &[Act]) -> History {
        let mut history = History::default();
        history.note();
        acts.iter().for_each(|act| history.act(act));
        history
    }

    fn note(&mut self) {
        self.moments.push(self.now.clone());
    }

    fn end(&self) -> u64 {
        next_index(self.now.entries.last().copied().or(self.now.purged))
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Append { entries, new_term } => {
                self.term += u64::from(new_term || self.term == 0);
                for _ in 0..entries {
                    self.now.entries.push(id(self.term, self.end()));
                }
            }
            Act::Replace { dropped } => {
                self.term += 1;
                let end =
                    self.end().saturating_sub(u64::from(dropped)).max(self.truth.len() as u64);
                self.now.entries.retain(|entry| entry.index < end);
                self.now.entries.push(id(self.term, self.end()));
            }
            Act::Commit { entries } => {
                let known = self.truth.len() as u64;
                let ready = self.now.entries.iter().filter(|entry| entry.index >= known);
                let ready: Vec<LogId> = ready.take(entries.into()).copied().collect();
                self.truth.extend(ready);
                self.now.committed = self.truth.last().copied().filter(|_| self.term > 0);
            }
            Act::Snapshot { back } => {
                let at = self.truth.len().checked_sub(1 + usize::from(back));
                let taken = at.map(|at| self.truth[at]);
                self.now.snapshot = self.now.snapshot.max(taken);
            }
            Act::Purge { kept } => {
                let upto = next_index(self.now.snapshot).saturating_sub(u64::from(kept));
                let mut dropped = self.now.entries.iter().filter(|entry| entry.index < upto);
                self.now.purged = self.now.purged.max(dropped.next_back().copied());
                self.now.entries.retain(|entry| entry.index >= upto);
            }
            Act::Install { ahead } => {
                self.term += 1;
                let end = self.end() + u64::from(ahead);
                let known = self.truth.len() as u64;
                // What of the log is committed meanwhile is another leader's.
                self.now.entries.retain(|entry| entry.index < known);
                self.truth.extend((known..end).map(|index| id(self.term, index)));
                self.now.snapshot = self.truth.last().copied();
                self.note();
                self.now.purged = self.now.snapshot;
                self.now.entries.clear();
            }
        }
        self.note();
    }
}

/// Whether all that is said to be committed is there, and nothing else in its place.
fn is_whole(parts: &Parts, truth: &[LogId]) -> bool {
    let in_snapshot = next_index(parts.snapshot);
    (in_snapshot..next_index(parts.committed)).all(|index| {
        let entry = parts.entries.iter().find(|entry| entry.index == index);
        entry == truth.get(usize::try_from(index).unwrap())
    })
}

proptest! {
    #[test]
    fn every_moment_of_a_history_fits(acts in prop::collection::vec(act(), 1..40)) {
        let history = History::of(&acts);
        for moment in &history.moments {
            prop_assert!(check(moment).is_ok(), "{:?}: {moment:?}", check(moment));
            prop_assert!(is_whole(moment, &history.truth));
        }
    }

    /// Each part is of one of two moments, and an entry may be missing.
    #[test]
    fn a_mixture_of_moments_that_fits_has_all_that_was_committed(
        acts in prop::collection::vec(act(), 1..40),
        moments in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        of_first in any::<[bool; 4]>(),
        missing in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let history = History::of(&acts);
        let pick = |index: &prop::sample::Index| index.get(&history.moments).clone();
        let (first, second) = (pick(&moments.0), pick(&moments.1));
        let of = |n: usize| if of_first[n] { &first } else { &second };
        let mut entries = of(3).entries.clone();
        if let Some(missing) = missing.filter(|_| !entries.is_empty()) {
            entries.remove(missing.index(entries.len()));
        }
        // The log itself refuses a hole, when it is filled.
        prop_assume!(entries.windows(2).all(|pair| pair[0].index + 1 == pair[1].index));
        let mixed = Parts {
            purged: of(0).purged,
            committed: of(1).committed,
            snapshot: of(2).snapshot,
            entries,
        };
        if check(&mixed).is_ok() {
            prop_assert!(is_whole(&mixed, &history.truth), "{mixed:?}");
        }
    }
}

fn refusal(parts: &Parts) -> String {
    check(parts).map_or_else(|why| why.to_string(), |()| "it fits".to_owned())
}

#[test]
fn each_part_that_does_not_fit_is_named() {
    let whole = Parts {
        purged: Some(id(1, 3)),
        committed: Some(id(2, 6)),
        snapshot: Some(id(1, 4)),
        entries: vec![id(1, 4), id(2, 5), id(2, 6), id(2, 7)],
    };
    assert_eq!(refusal(&whole), "it fits");
    let with = |change: fn(&mut Parts)| {
        let mut parts = whole.clone();
        change(&mut parts);
        refusal(&parts)
    };
    assert!(with(|it| it.snapshot = None).starts_with("entries were dropped that no snapshot"));
    assert!(with(|it| it.purged = None).starts_with("the log does not begin"));
    assert!(with(|it| _ = it.entries.remove(0)).starts_with("the log does not begin"));
    assert!(with(|it| it.entries[3] = id(1, 7)).starts_with("an entry has a lower term"));
    assert!(with(|it| it.snapshot = Some(id(2, 4))).starts_with("an entry contradicts the snap"));
    assert!(with(|it| it.committed = Some(id(3, 6))).starts_with("an entry contradicts what was"));
    assert!(with(|it| it.committed = Some(id(2, 8))).starts_with("entries that were committed"));
    assert!(with(|it| it.entries.truncate(2)).starts_with("entries that were committed"));
}

#[test]
fn a_vote_that_is_older_than_the_log_is_refused() {
    let logs = || [id(1, 3), id(2, 4)];
    assert!(check_vote(Some(Vote::new_committed(2, 1)), logs()).is_ok());
    assert!(check_vote(Some(Vote::new(5, 1)), logs()).is_ok());
    let why = check_vote(Some(Vote::new(1, 1)), logs()).unwrap_err().to_string();
    assert!(why.starts_with("the vote is older than the log"), "{why}");
    assert!(check_vote(None, logs()).is_err());
    assert!(check_vote(None, [id(0, 0)]).is_ok(), "a group begins with an entry of no term");
}
