//! Tests of the redb store on a disk that fails between any two operations.

use std::sync::{Arc, Mutex, MutexGuard};

use pushonce_core::{ClusterId, NodeId};
use redb::StorageBackend;

use super::backend::{TrackedBackend, is_disk_full};
use super::redb_store::{redb_builder, write_identity};
use super::*;

/// A disk in memory. Writes are visible at once; after a power cut the synced ones remain, and a random part
/// of the others.
#[derive(Clone, Debug, Default)]
struct FaultyBackend(Arc<Mutex<FaultyBackendState>>);

#[derive(Debug, Default)]
struct FaultyBackendState {
    visible: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<DiskOperation>,
    /// Writes, changes of length and syncs so far.
    operations: u64,
    fault: Option<(u64, InjectedFault)>,
}

#[derive(Debug, Clone)]
enum DiskOperation {
    Length(usize),
    Write(usize, Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum InjectedFault {
    /// All later writes fail for lack of space.
    DiskFull,
    /// All later writes that grow the file fail for lack of space.
    NoGrowth,
    /// All later operations fail.
    Broken,
}

impl FaultyBackend {
    fn state(&self) -> MutexGuard<'_, FaultyBackendState> {
        self.0.lock().unwrap()
    }

    /// Simulates a power cut. `is_kept` decides for each operation that was not synced.
    fn power_cut(&self, mut is_kept: impl FnMut() -> bool) {
        let mut state = self.state();
        let mut after = std::mem::take(&mut state.synced);
        for operation in std::mem::take(&mut state.unsynced) {
            if is_kept() {
                operation.apply(&mut after);
            }
        }
        *state = FaultyBackendState {
            visible: after.clone(),
            synced: after,
            ..FaultyBackendState::default()
        };
    }
}

impl DiskOperation {
    fn end(&self) -> usize {
        match self {
            DiskOperation::Length(len) => *len,
            DiskOperation::Write(at, data) => at + data.len(),
        }
    }

    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            DiskOperation::Length(len) => to.resize(*len, 0),
            DiskOperation::Write(at, data) => {
                to.resize(to.len().max(at + data.len()), 0);
                to[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl FaultyBackendState {
    fn perform(&mut self, operation: DiskOperation) -> io::Result<()> {
        self.operations += 1;
        match self.fault {
            Some((at, fault)) if self.operations > at => match fault {
                InjectedFault::DiskFull => return Err(io::ErrorKind::StorageFull.into()),
                InjectedFault::NoGrowth if operation.end() <= self.visible.len() => {}
                InjectedFault::NoGrowth => return Err(io::ErrorKind::StorageFull.into()),
                InjectedFault::Broken => return Err(io::Error::other("the disk is broken")),
            },
            _ => {}
        }
        operation.apply(&mut self.visible);
        self.unsynced.push(operation);
        Ok(())
    }
}

impl StorageBackend for FaultyBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().visible.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let state = self.state();
        let there = state.visible.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state().perform(DiskOperation::Length(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operations += 1;
        match state.fault {
            Some((at, InjectedFault::Broken)) if state.operations > at => {
                return Err(io::Error::other("the disk is broken"));
            }
            _ => {}
        }
        for operation in std::mem::take(&mut state.unsynced) {
            operation.apply(&mut state.synced);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state().perform(DiskOperation::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}

/// Deterministic pseudo-random decisions.
struct SeededCoin(u64);

impl SeededCoin {
    fn two_of_three(&mut self) -> bool {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        !(self.0 >> 33).is_multiple_of(3)
    }
}

const GROUPS: [GroupId; 2] = [GroupId(0), GroupId(1)];

/// A new store that is synced.
fn new_backend() -> FaultyBackend {
    let backend = FaultyBackend::default();
    let database = redb_builder().create_with_backend(backend.clone()).unwrap();
    write_identity(&database, ClusterId(7), NodeId(1)).unwrap();
    drop(database);
    backend.power_cut(|| true);
    backend
}

fn open(backend: &FaultyBackend) -> RedbStore {
    try_open(backend).unwrap()
}

fn try_open(backend: &FaultyBackend) -> Result<RedbStore, redb::DatabaseError> {
    let backend = backend.clone();
    RedbStore::with_opener(move |failed| {
        redb_builder().create_with_backend(TrackedBackend::new(backend.clone(), failed))
    })
}

/// A representative sequence of writes: votes, entries, truncations, a snapshot, a purge.
fn write_sequence() -> Vec<Vec<(GroupId, StoreChange)>> {
    let record = |byte: u8, len: usize| Bytes::from(vec![byte; len]);
    let [one, two] = GROUPS;
    let append = |index: u64| StoreChange::Append { index, record: record(index as u8, 2_000) };
    let piece =
        |number: u32| StoreChange::PutPiece { generation: 1, number, record: record(9, 200_000) };
    vec![
        vec![(one, StoreChange::Set { key: StoreKey::Vote, record: record(1, 20) })],
        (0..20).map(|index| (one, append(index))).collect(),
        vec![(two, append(0)), (one, StoreChange::Truncate { from: 15 }), (two, append(1))],
        vec![(one, piece(0)), (one, append(15))],
        vec![(one, piece(1))],
        vec![(one, StoreChange::Set { key: StoreKey::Snapshot, record: record(3, 50) })],
        vec![(one, StoreChange::Purge { upto: 9, record: record(4, 20) }), (two, append(2))],
        vec![(one, StoreChange::DeletePieces { generation: 1 })],
        vec![(two, StoreChange::Destroy), (one, append(16))],
    ]
}

fn read_all(disk: &mut RedbStore) -> Vec<StoredGroup> {
    GROUPS.iter().map(|group| disk.read(*group).unwrap()).collect()
}

/// The content of the store after each write when nothing fails, and the number of operations.
fn expected() -> (Vec<Vec<StoredGroup>>, u64) {
    let backend = new_backend();
    let mut disk = open(&backend);
    let mut after = vec![read_all(&mut disk)];
    for changes in write_sequence() {
        disk.write(&changes).unwrap();
        after.push(read_all(&mut disk));
    }
    let operations = backend.state().operations;
    (after, operations)
}

#[test]
fn acknowledged_writes_survive_power_cut_after_any_operation() {
    let (expected, operations) = expected();
    for at in 0..=operations {
        let backend = new_backend();
        backend.state().fault = Some((at, InjectedFault::Broken));
        let mut acknowledged = 0;
        if let Ok(mut disk) = std::panic::catch_unwind(|| open(&backend)) {
            for changes in write_sequence() {
                let written = disk.write(&changes);
                if let Err(error) = written {
                    assert!(!is_disk_full(&error), "a broken disk is reported as full");
                    break;
                }
                acknowledged += 1;
            }
        }
        let mut coin = SeededCoin(at);
        backend.power_cut(|| coin.two_of_three());
        let found = read_all(&mut open(&backend));
        let current = &expected[acknowledged];
        let next = expected.get(acknowledged + 1);
        assert!(
            found == *current || next.is_some_and(|next| found == *next),
            "cut after operation {at}: {acknowledged} parts were acknowledged"
        );
    }
}

#[test]
fn write_on_full_disk_is_atomic_and_succeeds_on_retry() {
    let (expected, operations) = expected();
    let mut refused = 0;
    for at in 0..operations {
        let backend = new_backend();
        let mut disk = open(&backend);
        backend.state().operations = 0;
        backend.state().fault = Some((at, InjectedFault::DiskFull));
        for (part, changes) in write_sequence().iter().enumerate() {
            while let Err(error) = disk.write(changes) {
                assert!(is_disk_full(&error), "after operation {at}: {error}");
                refused += 1;
                backend.state().fault = None;
                let seen = read_all(&mut disk);
                assert!(
                    seen == expected[part] || seen == expected[part + 1],
                    "after operation {at} part {part} was written partially"
                );
            }
            assert!(read_all(&mut disk) == expected[part + 1], "part {part} after operation {at}");
        }
        drop(disk);
        backend.power_cut(|| false);
        let found = read_all(&mut open(&backend));
        assert!(found == *expected.last().unwrap(), "after operation {at} and a power cut");
    }
    assert!(refused > 40, "only {refused} writes met a full disk");
}

#[test]
fn existing_store_opens_on_full_disk() {
    let backend = new_backend();
    let mut disk = open(&backend);
    disk.write(&write_sequence()[1]).unwrap();
    drop(disk);
    let before = read_all(&mut open(&backend));
    backend.state().fault = Some((0, InjectedFault::NoGrowth));
    assert!(read_all(&mut open(&backend)) == before);
}

/// redb returns an error for some damage and panics at other. The store returns an error for all of it.
#[test]
fn damaged_page_is_an_error_and_never_a_panic() {
    let backend = new_backend();
    let mut disk = open(&backend);
    for changes in write_sequence() {
        disk.write(&changes).unwrap();
    }
    drop(disk);
    let intact = backend.state().visible.clone();
    let is_panic = |error: &str| error.contains("cannot use a damaged page");
    let (mut panics_at_open, mut panics_later) = (0, 0);
    // The fifth page has the state of the allocator, which is used by writes only.
    let allocator_state = (16_384..17_408).step_by(3);
    for at in (0..intact.len()).step_by(509).chain(allocator_state) {
        let damaged = FaultyBackend::default();
        damaged.state().visible = intact.clone();
        damaged.state().visible[at] ^= 4;
        let mut disk = match try_open(&damaged) {
            Ok(disk) => disk,
            Err(error) => {
                panics_at_open += usize::from(is_panic(&error.to_string()));
                continue;
            }
        };
        let errors = write_sequence().into_iter().filter_map(|changes| disk.write(&changes).err());
        let mut errors = errors.map(|error| error.to_string());
        if let Some(panic) = errors.find(|error| is_panic(error)) {
            panics_later += 1;
            let again = disk.read(GROUPS[0]).map_err(|again| (again.kind(), again.to_string()));
            assert_eq!(again, Err((io::ErrorKind::InvalidData, panic)));
        }
    }
    assert!(panics_at_open > 0 && panics_later > 0, "{panics_at_open}, {panics_later}");
}
