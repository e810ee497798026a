use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_peer::PeerAddresses;
use tokio::time::timeout;

use super::*;
use crate::store::{RaftStore, StoreChange, StoredGroup};
use crate::{EntryId, StateMachine, StateSnapshot};

/// A store whose disk becomes full on request.
#[derive(Clone, Default)]
struct FillableStore(Arc<AtomicBool>);

impl RaftStore for FillableStore {
    fn write(&mut self, _: &[(GroupId, StoreChange)]) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn read(&mut self, _: GroupId) -> io::Result<StoredGroup> {
        Ok(StoredGroup::default())
    }

    fn read_piece(&mut self, _: GroupId, _: u64, _: u32) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

struct NoopMachine;

impl StateMachine for NoopMachine {
    fn apply(&mut self, _: EntryId, _: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        Ok(Bytes::new())
    }

    fn check_entry(_: &Bytes) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn check_snapshot(_: GroupId, _: &[u8]) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn snapshot(&self) -> StateSnapshot {
        Bytes::new().into()
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), VersionedDecodeError> {
        Ok(())
    }
}

fn engine(disk: &FillableStore) -> ConsensusEngine {
    let room = |_: &Path| Ok(DiskSpace { free: 1 << 40, total: 1 << 40 });
    let disk_reserve = DiskReserve::new(Path::new("/data"), None, Arc::new(room));
    let on_fatal = Arc::new(|reason: &str| panic!("{reason}"));
    let writer = StoreWriter::start(disk.clone(), disk_reserve.clone(), on_fatal).unwrap();
    let (log_mark, write_counter) = (LogMark { log: 7, writes: 0 }, WriteCounter::default());
    let opened = OpenedStore {
        writer,
        stored_groups: Vec::new(),
        log_mark,
        write_counter,
        log_key: None,
        fence: Fence::default(),
    };
    let settings = Arc::new(ConsensusSettings::lan());
    let config = Arc::new(settings.raft_config().unwrap());
    let addresses = PeerAddresses::default();
    let transport = PeerTransport::new(ClusterId(7), NodeId(1), addresses, &settings.times());
    ConsensusEngine::from_store(opened, disk_reserve, settings, config, transport)
}

const WAIT_MAX: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_stops_while_replica_is_being_destroyed_on_full_disk() {
    let disk = FillableStore::default();
    let engine = engine(&disk);
    let group = engine.start(GroupId(1), NoopMachine).await.unwrap();
    group.initialize().await.unwrap();
    let mut status = group.status();
    timeout(WAIT_MAX, status.wait_for(|status| status.is_leader)).await.unwrap().unwrap();

    disk.0.store(true, Ordering::SeqCst);
    let (destroying, proposing) = (engine.clone(), group.clone());
    let destroyed = tokio::spawn(async move { destroying.destroy(GroupId(2), 0).await });
    let proposed = tokio::spawn(async move { proposing.propose(Bytes::from("x")).await });
    while engine.check_disk_space().is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        !destroyed.is_finished() && !proposed.is_finished(),
        "a write completed on the full disk"
    );
    timeout(WAIT_MAX, engine.stop()).await.expect("stop waits for disk space");
    assert!(destroyed.await.unwrap().is_err(), "a replica was destroyed on the full disk");
    assert!(proposed.await.unwrap().is_err());
}
