use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pushonce_core::versioned::Unreadable;
use tokio::time::timeout;

use super::*;
use crate::store::{Change, Store, Stored};
use crate::{At, Capture, Machine};

/// A disk that has room until it has none.
#[derive(Clone, Default)]
struct Filling(Arc<AtomicBool>);

impl Store for Filling {
    fn write(&mut self, _: &[(GroupId, Change)]) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn read(&mut self, _: GroupId) -> io::Result<Stored> {
        Ok(Stored::default())
    }

    fn read_piece(&mut self, _: GroupId, _: u64, _: u32) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _: At, _: &Bytes) -> Result<Bytes, Unreadable> {
        Ok(Bytes::new())
    }

    fn check(_: &Bytes) -> Result<(), Unreadable> {
        Ok(())
    }

    fn snapshot(&self) -> Capture {
        Bytes::new().into()
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), Unreadable> {
        Ok(())
    }
}

fn engine(disk: &Filling) -> Engine {
    let room = |_: &Path| Ok(Room { free: 1 << 40, total: 1 << 40 });
    let space = Space::new(Path::new("/data"), None, Arc::new(room));
    let fatal = Arc::new(|why: &str| panic!("{why}"));
    let writer = Writer::start(disk.clone(), space.clone(), fatal).unwrap();
    let (mark, writes) = (LogMark { log: 7, writes: 0 }, Writes::default());
    let opened = Opened { writer, found: Vec::new(), mark, writes, fence: Fence::default() };
    let settings = Arc::new(Settings::lan());
    let config = Arc::new(settings.raft().unwrap());
    let book = AddressBook::default();
    Engine::over(opened, space, ClusterId(7), NodeId(1), settings, config, book)
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_stops_although_a_replica_is_being_destroyed_on_a_full_disk() {
    let disk = Filling::default();
    let engine = engine(&disk);
    let group = engine.start(GroupId(1), Nothing).await.unwrap();
    group.initialize().await.unwrap();
    let mut status = group.status();
    timeout(PATIENCE, status.wait_for(|status| status.leads)).await.unwrap().unwrap();

    disk.0.store(true, Ordering::SeqCst);
    let (destroying, proposing) = (engine.clone(), group.clone());
    let destroyed = tokio::spawn(async move { destroying.destroy(GroupId(2), 0).await });
    let proposed = tokio::spawn(async move { proposing.propose(Bytes::from("x")).await });
    while engine.room().is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!destroyed.is_finished() && !proposed.is_finished(), "the disk was not full");
    timeout(PATIENCE, engine.stop()).await.expect("it hangs until there is room");
    assert!(destroyed.await.unwrap().is_err(), "what has no room is not done");
    assert!(proposed.await.unwrap().is_err());
}
