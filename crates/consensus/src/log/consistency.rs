//! Checks that the parts of a log are consistent.
//!
//! Each record has a checksum, but a checksum does not detect a missing record or an outdated one. Every
//! change of a group is written in one commit, so the relations below hold whenever a process may die. If one
//! does not hold, the store was changed by something else, and acknowledged data may be lost.

use std::fmt::Debug;
use std::io;

use pushonce_core::FailPoint;

use crate::types::{LogId, Vote};

/// The parts of a log as read from disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogParts {
    pub(crate) purged: Option<LogId>,
    pub(crate) committed: Option<LogId>,
    /// The last entry in the snapshot.
    pub(crate) snapshot: Option<LogId>,
    /// By index, increasing by one.
    pub(crate) entries: Vec<LogId>,
}

/// Checks that everything up to the last entry is in the snapshot or the log, that both agree, and that
/// neither ends before the committed index.
///
/// # Errors
/// `InvalidData` with the two parts that are inconsistent.
pub(crate) fn check_consistency(parts: &LogParts) -> io::Result<()> {
    if FailPoint::InconsistentLogAccepted.is_active() {
        return Ok(());
    }
    let &LogParts { purged, committed, snapshot, ref entries } = parts;
    if purged > snapshot {
        return inconsistent("purged entries are not in the snapshot", purged, snapshot);
    }
    if let Some(first) = entries.first()
        && (first.index != next_index(purged) || Some(*first) < purged)
    {
        return inconsistent("the log does not begin after the purged entries", first, purged);
    }
    if let Some(pair) = entries.windows(2).find(|pair| pair[0] > pair[1]) {
        return inconsistent("an entry has a lower term than its predecessor", pair[0], pair[1]);
    }
    for (subject, known) in [("the snapshot", snapshot), ("the commit mark", committed)] {
        let at = |known: &LogId| {
            let position = known.index.checked_sub(entries.first()?.index)?;
            entries.get(usize::try_from(position).ok()?).copied()
        };
        if let Some(known) = known
            && let Some(entry) = at(&known)
            && entry != known
        {
            return inconsistent(&format!("an entry contradicts {subject}"), entry, known);
        }
    }
    let end = entries.last().copied().max(purged).max(snapshot);
    let index_max = [entries.last().copied(), purged, snapshot].map(next_index).into_iter().max();
    if Some(next_index(committed)) > index_max || committed > end {
        return inconsistent("committed entries are missing", committed, end);
    }
    Ok(())
}

/// Checks that a vote is not older than the log: a replica follows or leads under a vote that is on disk
/// before any entry of its term. With an older vote it could vote twice.
///
/// # Errors
/// `InvalidData` with the vote and the newer entry.
pub(crate) fn check_vote(
    vote: Option<Vote>,
    known: impl IntoIterator<Item = LogId>,
) -> io::Result<()> {
    let term = vote.map_or(0, |vote| vote.leader_id.term);
    match known.into_iter().find(|id| id.leader_id.term > term) {
        Some(id) => inconsistent("the vote is older than the log", vote, id),
        None => Ok(()),
    }
}

fn next_index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index.saturating_add(1))
}

fn inconsistent(reason: &str, one: impl Debug, other: impl Debug) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{reason}: {one:?} and {other:?}")))
}

#[cfg(test)]
#[path = "consistency_test.rs"]
mod tests;
