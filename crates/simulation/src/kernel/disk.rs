//! The disk of a host: what a loss of power leaves of its files.
//!
//! The files themselves are those of the system. The disk remembers every change that was not synced, with the bytes
//! before and after it; a loss of power undoes a random part of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::random::Random;

/// The unit that a disk writes at once.
const SECTOR_BYTES: u64 = 512;

/// The disk of one host.
#[derive(Default)]
pub(super) struct Disk {
    /// Where its files are.
    pub(super) root: PathBuf,
    /// No space is left.
    pub(super) is_full: bool,
    /// The time that a sync takes.
    pub(super) sync_ns: u64,
    /// Number of syncs that fail from now on.
    pub(super) failing_syncs: u32,
    /// Number of changes and syncs before the host loses its power.
    pub(super) operations_before_power_cut: Option<u32>,
    unsynced: BTreeMap<PathBuf, Vec<Change>>,
    renames: Vec<Rename>,
    /// The open files of the process, by the descriptor of the system.
    open: BTreeMap<i32, PathBuf>,
}

/// A change of a file that was not synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Bytes were written.
    Write { offset: u64, before: Vec<u8>, after: Vec<u8>, length_before: u64 },
    /// The length was set.
    SetLength { before: u64, after: u64, tail_before: Vec<u8> },
}

/// A rename whose directory was not synced.
struct Rename {
    from: PathBuf,
    to: PathBuf,
    /// The content of the file that it replaced.
    replaced: Option<Vec<u8>>,
}

/// An operation on a file of the system that carries out a loss of power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    SetLength(PathBuf, u64),
    Write(PathBuf, u64, Vec<u8>),
    Rename(PathBuf, PathBuf),
    Create(PathBuf, Vec<u8>),
}

/// How a sync ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SyncStart {
    /// It fails, and the system has dropped these changes.
    Fails(Vec<Repair>),
    /// It takes this time, and covers this number of changes.
    Takes { ns: u64, changes: usize },
}

impl Disk {
    /// Whether a file is on this disk.
    pub(super) fn holds(&self, path: &Path) -> bool {
        !self.root.as_os_str().is_empty() && path.starts_with(&self.root)
    }

    pub(super) fn on_open(&mut self, descriptor: i32, path: PathBuf) {
        self.open.insert(descriptor, path);
    }

    pub(super) fn on_close(&mut self, descriptor: i32) {
        self.open.remove(&descriptor);
    }

    pub(super) fn path_of(&self, descriptor: i32) -> Option<&PathBuf> {
        self.open.get(&descriptor)
    }

    /// The descriptors of a process that has ended.
    pub(super) fn take_open(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.open).into_keys().collect()
    }

    /// Remembers a change.
    pub(super) fn on_change(&mut self, path: &Path, change: Change) {
        self.unsynced.entry(path.to_owned()).or_default().push(change);
    }

    pub(super) fn on_rename(&mut self, from: &Path, to: &Path, replaced: Option<Vec<u8>>) {
        if let Some(changes) = self.unsynced.remove(from) {
            self.unsynced.insert(to.to_owned(), changes);
        }
        self.renames.push(Rename { from: from.to_owned(), to: to.to_owned(), replaced });
    }

    pub(super) fn on_remove(&mut self, path: &Path) {
        self.unsynced.remove(path);
    }

    pub(super) fn begin_sync(&mut self, path: &Path, random: &mut Random) -> SyncStart {
        if self.failing_syncs > 0 {
            self.failing_syncs -= 1;
            return SyncStart::Fails(self.lose_changes(path, random));
        }
        let changes = self.unsynced.get(path).map_or(0, Vec::len);
        SyncStart::Takes { ns: self.sync_ns + random.below(self.sync_ns + 1), changes }
    }

    /// The first `changes` of a file are durable, or the renames in a directory.
    pub(super) fn finish_sync(&mut self, path: &Path, changes: usize) {
        if let Some(unsynced) = self.unsynced.get_mut(path) {
            unsynced.drain(..changes.min(unsynced.len()));
        }
        self.renames.retain(|rename| rename.to.parent() != Some(path));
    }

    /// Everything is durable.
    pub(super) fn settle(&mut self) {
        self.unsynced.clear();
        self.renames.clear();
    }

    /// The power is lost: what remains of each change is up to chance.
    pub(super) fn cut_power(&mut self, random: &mut Random) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let files: Vec<_> = self.unsynced.keys().cloned().collect();
        for path in files {
            repairs.extend(self.lose_changes(&path, random));
        }
        while let Some(Rename { from, to, replaced }) = self.renames.pop() {
            // A later rename is undone before an earlier one.
            if random.chance(500) {
                self.renames.clear();
                break;
            }
            repairs.push(Repair::Rename(to.clone(), from));
            repairs.extend(replaced.map(|content| Repair::Create(to, content)));
        }
        repairs
    }

    /// Takes all changes of a file back, then makes some of them again, each in whole or in part.
    fn lose_changes(&mut self, path: &Path, random: &mut Random) -> Vec<Repair> {
        let changes = self.unsynced.remove(path).unwrap_or_default();
        let mut repairs = Vec::new();
        for change in changes.iter().rev() {
            match change {
                Change::Write { offset, before, length_before, .. } => {
                    repairs.push(Repair::Write(path.to_owned(), *offset, before.clone()));
                    repairs.push(Repair::SetLength(path.to_owned(), *length_before));
                }
                Change::SetLength { before, after, tail_before } => {
                    repairs.push(Repair::SetLength(path.to_owned(), *before));
                    if !tail_before.is_empty() {
                        repairs.push(Repair::Write(path.to_owned(), *after, tail_before.clone()));
                    }
                }
            }
        }
        // Everything, nothing, or any part: the system writes pages in any order.
        let kept_per_mille = [0, 1_000, 300, 700][random.below(4) as usize];
        for change in &changes {
            if !random.chance(kept_per_mille) {
                continue;
            }
            match change {
                Change::Write { offset, after, .. } => {
                    let kept = kept_bytes(*offset, after.len(), kept_per_mille, random);
                    repairs.push(Repair::Write(path.to_owned(), *offset, after[..kept].to_vec()));
                }
                Change::SetLength { after, .. } => {
                    repairs.push(Repair::SetLength(path.to_owned(), *after));
                }
            }
        }
        repairs
    }
}

/// How much of a write reaches the disk: all of it, or the sectors before a random one.
fn kept_bytes(offset: u64, length: usize, kept_per_mille: u32, random: &mut Random) -> usize {
    if kept_per_mille == 1_000 || random.chance(700) {
        return length;
    }
    let sectors = length as u64 / SECTOR_BYTES + 1;
    let end = (offset / SECTOR_BYTES + random.below(sectors)) * SECTOR_BYTES;
    usize::try_from(end.saturating_sub(offset)).unwrap_or(length).min(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, before: &[u8], after: &[u8], length_before: u64) -> Change {
        Change::Write { offset, before: before.to_vec(), after: after.to_vec(), length_before }
    }

    /// The content of the only file after the repairs.
    fn repaired(mut content: Vec<u8>, repairs: &[Repair]) -> Vec<u8> {
        for repair in repairs {
            match repair {
                Repair::SetLength(_, length) => content.resize(*length as usize, 0),
                Repair::Write(_, offset, bytes) => {
                    let end = *offset as usize + bytes.len();
                    content.resize(content.len().max(end), 0);
                    content[*offset as usize..end].copy_from_slice(bytes);
                }
                other => panic!("{other:?}"),
            }
        }
        content
    }

    #[test]
    fn loss_of_power_keeps_synced_changes_and_a_part_of_the_others() {
        let file = Path::new("/d/log");
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let (mut disk, mut random) = (Disk::default(), Random::new(seed));
            disk.on_change(file, write(0, b"", b"aaaa", 0));
            disk.finish_sync(file, 1);
            disk.on_change(file, write(2, b"aa", b"bbbb", 4));
            disk.on_change(file, write(0, b"aa", b"c", 6));
            let repairs = disk.cut_power(&mut random);
            let content = repaired(b"cabbbb".to_vec(), &repairs);
            assert!(content.starts_with(b"aa") || content.starts_with(b"ca"), "{content:?}");
            outcomes.insert(content);
        }
        for content in [&b"aaaa"[..], b"cabbbb", b"aabbbb", b"caaa"] {
            assert!(outcomes.contains(content), "{content:?} is not in {outcomes:?}");
        }
    }

    #[test]
    fn sync_that_fails_drops_changes_and_the_next_one_succeeds() {
        let (mut disk, mut random) = (Disk { failing_syncs: 1, ..Disk::default() }, Random::new(1));
        disk.on_change(Path::new("/d/log"), write(0, b"", b"a", 0));
        assert!(matches!(disk.begin_sync(Path::new("/d/log"), &mut random), SyncStart::Fails(_)));
        let next = disk.begin_sync(Path::new("/d/log"), &mut random);
        assert!(matches!(next, SyncStart::Takes { changes: 0, .. }), "{next:?}");
    }

    #[test]
    fn rename_can_be_undone_until_its_folder_is_synced() {
        let is_undone = |sync: bool, seed| {
            let (mut disk, mut random) = (Disk::default(), Random::new(seed));
            disk.on_rename(Path::new("/d/new"), Path::new("/d/log"), Some(b"old".to_vec()));
            if sync {
                disk.finish_sync(Path::new("/d"), 0);
            }
            !disk.cut_power(&mut random).is_empty()
        };
        assert!((0..50).any(|seed| is_undone(false, seed)));
        assert!(!(0..50).any(|seed| is_undone(true, seed)));
    }
}
