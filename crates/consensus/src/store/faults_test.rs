//! The real store on a disk that fails between any two operations.

use std::sync::{Arc, Mutex, MutexGuard};

use pushonce_core::{ClusterId, NodeId};
use redb::StorageBackend;

use super::backend::{Watched, is_full};
use super::disk::{builder, claim};
use super::*;

/// A disk in memory: what was written is seen at once, and is there after a power cut once it was
/// synced, or by chance.
#[derive(Clone, Debug, Default)]
struct Platter(Arc<Mutex<Sectors>>);

#[derive(Debug, Default)]
struct Sectors {
    seen: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Touch>,
    /// Writes, changes of length and syncs so far.
    operations: u64,
    fault: Option<(u64, Fault)>,
}

#[derive(Debug, Clone)]
enum Touch {
    Length(usize),
    Write(usize, Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// From then on there is no room.
    NoRoom,
    /// From then on there is no room for more than there is.
    NoGrowth,
    /// From then on nothing works.
    Broken,
}

impl Platter {
    fn sectors(&self) -> MutexGuard<'_, Sectors> {
        self.0.lock().unwrap()
    }

    /// The power goes and comes back: of what was not synced, what `kept` says is there.
    fn power_cut(&self, mut kept: impl FnMut() -> bool) {
        let mut sectors = self.sectors();
        let mut after = std::mem::take(&mut sectors.synced);
        for touch in std::mem::take(&mut sectors.unsynced) {
            if kept() {
                touch.apply(&mut after);
            }
        }
        *sectors = Sectors { seen: after.clone(), synced: after, ..Sectors::default() };
    }
}

impl Touch {
    fn end(&self) -> usize {
        match self {
            Touch::Length(len) => *len,
            Touch::Write(at, data) => at + data.len(),
        }
    }

    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Touch::Length(len) => to.resize(*len, 0),
            Touch::Write(at, data) => {
                to.resize(to.len().max(at + data.len()), 0);
                to[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Sectors {
    fn touch(&mut self, touch: Touch) -> io::Result<()> {
        self.operations += 1;
        match self.fault {
            Some((at, fault)) if self.operations > at => match fault {
                Fault::NoRoom => return Err(io::ErrorKind::StorageFull.into()),
                Fault::NoGrowth if touch.end() <= self.seen.len() => {}
                Fault::NoGrowth => return Err(io::ErrorKind::StorageFull.into()),
                Fault::Broken => return Err(io::Error::other("the disk is broken")),
            },
            _ => {}
        }
        touch.apply(&mut self.seen);
        self.unsynced.push(touch);
        Ok(())
    }
}

impl StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.sectors().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let sectors = self.sectors();
        let there = sectors.seen.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.sectors().touch(Touch::Length(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sectors = self.sectors();
        sectors.operations += 1;
        match sectors.fault {
            Some((at, Fault::Broken)) if sectors.operations > at => {
                return Err(io::Error::other("the disk is broken"));
            }
            _ => {}
        }
        for touch in std::mem::take(&mut sectors.unsynced) {
            touch.apply(&mut sectors.synced);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.sectors().touch(Touch::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}

/// Coins that fall the same way in every run.
struct Chance(u64);

impl Chance {
    fn two_of_three(&mut self) -> bool {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        !(self.0 >> 33).is_multiple_of(3)
    }
}

const GROUPS: [GroupId; 2] = [GroupId(0), GroupId(1)];

/// A store that was made, and is synced.
fn fresh() -> Platter {
    let platter = Platter::default();
    let database = builder().create_with_backend(platter.clone()).unwrap();
    claim(&database, ClusterId(7), NodeId(1)).unwrap();
    drop(database);
    platter.power_cut(|| true);
    platter
}

fn open(platter: &Platter) -> Disk {
    let platter = platter.clone();
    Disk::over(move |failed| builder().create_with_backend(Watched::new(platter.clone(), failed)))
        .unwrap()
}

/// What a node writes in its life: votes, entries, truncations, a snapshot, a purge.
fn life() -> Vec<Vec<(GroupId, Change)>> {
    let record = |byte: u8, len: usize| Bytes::from(vec![byte; len]);
    let [one, two] = GROUPS;
    let append = |index: u64| Change::Append { index, record: record(index as u8, 2_000) };
    let piece = |number: u32| Change::Piece { generation: 1, number, record: record(9, 200_000) };
    vec![
        vec![(one, Change::Set { key: Key::Vote, record: record(1, 20) })],
        (0..20).map(|index| (one, append(index))).collect(),
        vec![(two, append(0)), (one, Change::Truncate { from: 15 }), (two, append(1))],
        vec![(one, piece(0)), (one, append(15))],
        vec![(one, piece(1))],
        vec![(one, Change::Set { key: Key::Snapshot, record: record(3, 50) })],
        vec![(one, Change::Purge { upto: 9, record: record(4, 20) }), (two, append(2))],
        vec![(one, Change::Forget { generation: 1 })],
        vec![(two, Change::Destroy), (one, append(16))],
    ]
}

fn content(disk: &mut Disk) -> Vec<Stored> {
    GROUPS.iter().map(|group| disk.read(*group).unwrap()).collect()
}

/// What the store holds after each part of a life in which nothing fails, and the operations of
/// that life.
fn expected() -> (Vec<Vec<Stored>>, u64) {
    let platter = fresh();
    let mut disk = open(&platter);
    let mut after = vec![content(&mut disk)];
    for changes in life() {
        disk.write(&changes).unwrap();
        after.push(content(&mut disk));
    }
    let operations = platter.sectors().operations;
    (after, operations)
}

#[test]
fn after_a_power_cut_between_any_two_operations_what_was_acknowledged_is_there() {
    let (expected, operations) = expected();
    for at in 0..=operations {
        let platter = fresh();
        platter.sectors().fault = Some((at, Fault::Broken));
        let mut acknowledged = 0;
        if let Ok(mut disk) = std::panic::catch_unwind(|| open(&platter)) {
            for changes in life() {
                let written = disk.write(&changes);
                if let Err(error) = written {
                    assert!(!is_full(&error), "a broken disk is asked again");
                    break;
                }
                acknowledged += 1;
            }
        }
        let mut chance = Chance(at);
        platter.power_cut(|| chance.two_of_three());
        let found = content(&mut open(&platter));
        let whole = &expected[acknowledged];
        let next = expected.get(acknowledged + 1);
        assert!(
            found == *whole || next.is_some_and(|next| found == *next),
            "cut after operation {at}: {acknowledged} parts were acknowledged"
        );
    }
}

#[test]
fn a_write_without_room_is_whole_or_not_at_all_and_is_taken_when_there_is_some() {
    let (expected, operations) = expected();
    let mut refused = 0;
    for at in 0..operations {
        let platter = fresh();
        let mut disk = open(&platter);
        platter.sectors().operations = 0;
        platter.sectors().fault = Some((at, Fault::NoRoom));
        for (part, changes) in life().iter().enumerate() {
            while let Err(error) = disk.write(changes) {
                assert!(is_full(&error), "after operation {at}: {error}");
                refused += 1;
                platter.sectors().fault = None;
                let seen = content(&mut disk);
                assert!(
                    seen == expected[part] || seen == expected[part + 1],
                    "after operation {at} half of part {part} is there"
                );
            }
            assert!(content(&mut disk) == expected[part + 1], "part {part} after operation {at}");
        }
        drop(disk);
        platter.power_cut(|| false);
        let found = content(&mut open(&platter));
        assert!(found == *expected.last().unwrap(), "after operation {at} and a power cut");
    }
    assert!(refused > 40, "the room has run out {refused} times only");
}

#[test]
fn a_store_opens_without_room_once_it_was_made() {
    let platter = fresh();
    let mut disk = open(&platter);
    disk.write(&life()[1]).unwrap();
    drop(disk);
    let whole = content(&mut open(&platter));
    platter.sectors().fault = Some((0, Fault::NoGrowth));
    assert!(content(&mut open(&platter)) == whole);
}
