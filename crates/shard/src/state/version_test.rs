//! What builds of neighbouring versions make of each other's entries and snapshots.

use proptest::prelude::*;
use pushonce_core::UnsupportedVersion;

use super::state_test::entries;
use super::*;

/// A build that supports the first version only, and one that supports the next, too.
const OLD: VersionRange = VersionRange { min: ClusterVersion(1), max: ClusterVersion(1) };
const NEW: VersionRange = VersionRange { min: ClusterVersion(1), max: ClusterVersion(2) };

fn apply(
    build: VersionRange,
    state: &mut State,
    index: u64,
    entry: &[u8],
) -> Result<(), Unreadable> {
    let (version, batch) = Batch::decode_within(build, entry)?;
    state.adopt(version);
    state.apply(index, batch);
    Ok(())
}

proptest! {
    #[test]
    fn old_and_new_builds_agree_on_every_entry_and_snapshot_of_the_old_version(
        batches in entries(0..50u64, true), cut in 0..30usize,
    ) {
        let (mut old, mut new) = (State::new(ShardId(0)), State::new(ShardId(0)));
        for (nth, batch) in batches.iter().enumerate() {
            let (index, entry) = (nth as u64 + 1, batch.encode(OLD.max));
            prop_assert_eq!(apply(OLD, &mut old, index, &entry), Ok(()));
            prop_assert_eq!(apply(NEW, &mut new, index, &entry), Ok(()));
            prop_assert_eq!(old.snapshot(), new.snapshot());
            if nth == cut {
                // Either goes on from what the other wrote: forward, and back.
                let written = (old.snapshot(), new.snapshot());
                old = State::restore_within(OLD, &written.1).unwrap();
                new = State::restore_within(NEW, &written.0).unwrap();
            }
        }
        prop_assert_eq!(old.digest(), new.digest());
        prop_assert_eq!(old, new);
    }

    #[test]
    fn an_old_build_stops_before_the_first_entry_of_the_new_version_and_a_new_one_goes_on_there(
        batches in entries(0..50u64, true), raised in 0..30usize,
    ) {
        let raised = raised.min(batches.len() - 1);
        let written = |nth: usize| if nth < raised { OLD.max } else { NEW.max };
        let log: Vec<_> =
            batches.iter().enumerate().map(|(nth, batch)| batch.encode(written(nth))).collect();
        let mut whole = State::new(ShardId(0));
        for (nth, entry) in log.iter().enumerate() {
            prop_assert_eq!(apply(NEW, &mut whole, nth as u64 + 1, entry), Ok(()));
        }

        let mut state = State::new(ShardId(0));
        let met = log.iter().enumerate().find_map(|(nth, entry)| {
            let before = state.clone();
            let refused = apply(OLD, &mut state, nth as u64 + 1, entry).err()?;
            assert_eq!(state, before, "an entry that is not read changes nothing");
            Some((nth, refused))
        });
        let why = UnsupportedVersion { found: NEW.max, supported: OLD };
        prop_assert_eq!(met, Some((raised, Unreadable::Version(why))));
        let mut state = State::restore_within(NEW, &state.snapshot()).unwrap();
        for (nth, entry) in log.iter().enumerate().skip(raised) {
            prop_assert_eq!(apply(NEW, &mut state, nth as u64 + 1, entry), Ok(()));
        }
        prop_assert_eq!(state.digest(), whole.digest());
        let refused = State::restore_within(OLD, &whole.snapshot());
        prop_assert_eq!(refused, Err(Unreadable::Version(why)));
    }

    /// An owner that has not heard of the raise yet writes in the version before for a while.
    #[test]
    fn a_state_keeps_to_the_rules_of_the_highest_version_it_has_met(
        batches in entries(0..50u64, true), flips in prop::collection::vec(any::<bool>(), 30),
    ) {
        let mut state = State::new(ShardId(0));
        let mut highest = OLD.max;
        for (nth, (batch, flip)) in batches.iter().zip(flips).enumerate() {
            let version = if flip { NEW.max } else { OLD.max };
            highest = highest.max(version);
            prop_assert_eq!(apply(NEW, &mut state, nth as u64 + 1, &batch.encode(version)), Ok(()));
            prop_assert_eq!(state.version(), highest);
            prop_assert_eq!(State::restore_within(NEW, &state.snapshot()).unwrap(), state.clone());
        }
    }
}

#[cfg(feature = "next-version")]
#[test]
fn the_next_version_has_rules_of_its_own() {
    use crate::rules::Rules;
    assert_ne!(Rules::of(OLD.max), Rules::of(NEW.max));
    assert_eq!(VersionRange::READABLE.min, OLD.min);
}

/// Also in a build that takes part in no cluster of the first version any more: it may have to apply what
/// was written then.
#[test]
fn state_without_entries_keeps_to_the_rules_of_the_first_version() {
    let state = State::new(ShardId(0));
    assert_eq!(state.version(), ClusterVersion::FIRST);
    assert_eq!(State::restore(&state.snapshot()), Ok(state));
}
