//! Entries and snapshots that builds of neighbouring versions exchange.

use proptest::prelude::*;
use pushonce_core::UnsupportedVersion;

use super::state_test::entries;
use super::*;
use crate::rules::ShardRules;

/// A build that supports only the first version, and one that also supports the next.
const OLD: VersionRange = VersionRange { min: ClusterVersion(1), max: ClusterVersion(1) };
const NEW: VersionRange = VersionRange { min: ClusterVersion(1), max: ClusterVersion(2) };

fn apply(
    build: VersionRange,
    state: &mut ShardState,
    index: u64,
    entry: &[u8],
) -> Result<(), VersionedDecodeError> {
    let (version, batch) = EntryBatch::decode_within(build, entry)?;
    state.raise_version(version);
    state.apply(index, batch);
    Ok(())
}

proptest! {
    #[test]
    fn old_and_new_builds_agree_on_entries_and_snapshots_of_the_old_version(
        batches in entries(0..50u64, true), cut in 0..30usize,
    ) {
        let (mut old, mut new) = (ShardState::new(ShardId(0)), ShardState::new(ShardId(0)));
        for (nth, batch) in batches.iter().enumerate() {
            let (index, entry) = (nth as u64 + 1, batch.encode(OLD.max));
            prop_assert_eq!(apply(OLD, &mut old, index, &entry), Ok(()));
            prop_assert_eq!(apply(NEW, &mut new, index, &entry), Ok(()));
            prop_assert_eq!(old.snapshot(), new.snapshot());
            if nth == cut {
                // Each build continues from the snapshot of the other: an upgrade and a downgrade.
                let written = (old.snapshot(), new.snapshot());
                old = ShardState::restore_within(OLD, &written.1).unwrap();
                new = ShardState::restore_within(NEW, &written.0).unwrap();
            }
        }
        prop_assert_eq!(old.digest(), new.digest());
        prop_assert_eq!(old, new);
    }

    #[test]
    fn old_build_stops_at_the_first_entry_of_a_new_version_and_a_new_build_continues(
        batches in entries(0..50u64, true), raised in 0..30usize,
    ) {
        let raised = raised.min(batches.len() - 1);
        let written = |nth: usize| if nth < raised { OLD.max } else { NEW.max };
        let log: Vec<_> =
            batches.iter().enumerate().map(|(nth, batch)| batch.encode(written(nth))).collect();
        let mut whole = ShardState::new(ShardId(0));
        for (nth, entry) in log.iter().enumerate() {
            prop_assert_eq!(apply(NEW, &mut whole, nth as u64 + 1, entry), Ok(()));
        }

        let mut state = ShardState::new(ShardId(0));
        let first_rejected = log.iter().enumerate().find_map(|(nth, entry)| {
            let before = state.clone();
            let rejection = apply(OLD, &mut state, nth as u64 + 1, entry).err()?;
            assert_eq!(state, before, "an unreadable entry changed the state");
            Some((nth, rejection))
        });
        let error = UnsupportedVersion { found: NEW.max, supported: OLD };
        prop_assert_eq!(first_rejected, Some((raised, VersionedDecodeError::Unsupported(error))));
        let mut state = ShardState::restore_within(NEW, &state.snapshot()).unwrap();
        for (nth, entry) in log.iter().enumerate().skip(raised) {
            prop_assert_eq!(apply(NEW, &mut state, nth as u64 + 1, entry), Ok(()));
        }
        prop_assert_eq!(state.digest(), whole.digest());
        let rejection = ShardState::restore_within(OLD, &whole.snapshot());
        prop_assert_eq!(rejection, Err(VersionedDecodeError::Unsupported(error)));
    }

    /// For a while after an upgrade, an owner that does not know the new version writes in the version
    /// before.
    #[test]
    fn state_uses_the_rules_of_the_highest_version_applied(
        batches in entries(0..50u64, true), flips in prop::collection::vec(any::<bool>(), 30),
    ) {
        let mut state = ShardState::new(ShardId(0));
        let mut highest = OLD.max;
        for (nth, (batch, flip)) in batches.iter().zip(flips).enumerate() {
            let version = if flip { NEW.max } else { OLD.max };
            highest = highest.max(version);
            prop_assert_eq!(apply(NEW, &mut state, nth as u64 + 1, &batch.encode(version)), Ok(()));
            prop_assert_eq!(state.version(), highest);
            prop_assert_eq!(ShardState::restore_within(NEW, &state.snapshot()).unwrap(), state.clone());
        }
    }
}

#[test]
fn next_version_has_different_rules() {
    let (old, new) = (ShardRules::for_version(OLD.max), ShardRules::for_version(NEW.max));
    assert_eq!(old != new, VersionRange::HAS_TEST_VERSIONS);
    assert_eq!(VersionRange::readable().min, OLD.min);
}

/// Also in a build that supports no cluster of the first version any more: it may have to apply entries of
/// that version.
#[test]
fn empty_state_uses_the_rules_of_the_first_version() {
    let state = ShardState::new(ShardId(0));
    assert_eq!(state.version(), ClusterVersion::FIRST);
    assert_eq!(ShardState::restore(&state.snapshot()), Ok(state));
}
