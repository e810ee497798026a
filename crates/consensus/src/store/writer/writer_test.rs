use std::sync::Mutex;
use std::sync::mpsc as gate;
use std::time::Duration;

use super::*;
use crate::store::Key;

/// A disk that takes a write only when told, and notes how much came at once.
struct Slow {
    allowed: gate::Receiver<io::Result<()>>,
    commits: Arc<Mutex<Vec<usize>>>,
    full: Arc<AtomicBool>,
}

impl Store for Slow {
    fn write(&mut self, changes: &[(GroupId, Change)]) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.allowed.recv().unwrap_or(Ok(()))?;
        self.commits.lock().unwrap().push(changes.len());
        Ok(())
    }

    fn read(&mut self, _group: GroupId) -> io::Result<Stored> {
        Ok(Stored::default())
    }

    fn read_piece(&mut self, _: GroupId, _: u64, _: u32) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

struct Rig {
    writer: Writer,
    allow: gate::Sender<io::Result<()>>,
    commits: Arc<Mutex<Vec<usize>>>,
    said: Arc<Mutex<Vec<String>>>,
    full: Arc<AtomicBool>,
}

fn rig() -> Rig {
    let (allow, allowed) = gate::channel();
    let (commits, said) = (Arc::default(), Arc::<Mutex<Vec<String>>>::default());
    let heard = Arc::clone(&said);
    let fatal: Fatal = Arc::new(move |why: &str| heard.lock().unwrap().push(why.to_owned()));
    let full = Arc::<AtomicBool>::default();
    let store = Slow { allowed, commits: Arc::clone(&commits), full: Arc::clone(&full) };
    Rig { writer: Writer::start(store, roomy(), fatal).unwrap(), allow, commits, said, full }
}

fn roomy() -> Space {
    let room = |_: &std::path::Path| Ok(crate::Room { free: 1 << 40, total: 1 << 40 });
    Space::new(std::path::Path::new("/data"), None, Arc::new(room))
}

fn vote() -> Vec<Change> {
    vec![Change::Set { key: Key::Vote, record: Bytes::from_static(b"vote") }]
}

#[tokio::test]
async fn nobody_is_told_before_the_disk_has_it_and_who_waits_shares_the_next_commit() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    let (first, mut told) = oneshot::channel();
    group.submit(vote(), Done::Told(first)).await.unwrap();
    // The thread is in the first commit, or on its way: what comes now waits for the second.
    while rig.writer.room.available_permits() == QUEUE_UNITS as usize {
        tokio::task::yield_now().await;
    }
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let group = group.clone();
            tokio::spawn(async move { group.write(vote()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(told.try_recv().is_err(), "told before it was durable");

    rig.allow.send(Ok(())).unwrap();
    told.await.unwrap().unwrap();
    for _ in 0..5 {
        // More leave than there may be commits.
        rig.allow.send(Ok(())).unwrap();
    }
    for write in waiting {
        write.await.unwrap().unwrap();
    }
    assert_eq!(rig.commits.lock().unwrap().iter().sum::<usize>(), 6);
}

#[tokio::test]
async fn after_a_failed_write_the_fatal_hook_runs_and_nothing_is_acknowledged() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    rig.allow.send(Err(io::Error::other("no space left"))).unwrap();
    let failed = group.write(vote()).await.unwrap_err();
    assert!(failed.to_string().contains("no space left"));
    assert!(group.write(vote()).await.is_err(), "a store that failed was asked again");
    let said = rig.said.lock().unwrap();
    assert!(matches!(said.as_slice(), [why] if why.contains("no space left")));
    assert!(rig.commits.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_full_queue_makes_writers_wait() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    let record = Bytes::from(vec![0; QUEUE_UNITS as usize * UNIT]);
    let large = vec![Change::Set { key: Key::Snapshot, record }];
    group.submit(large, Done::Unheard).await.unwrap();
    let next = group.submit(vote(), Done::Unheard);
    let early = tokio::time::timeout(Duration::from_millis(20), next).await;
    assert!(early.is_err(), "the queue has no bound");
    rig.allow.send(Ok(())).unwrap();
    group.submit(vote(), Done::Unheard).await.unwrap();
}

#[tokio::test]
async fn a_write_without_room_is_kept_and_tried_again_and_reads_are_answered_meanwhile() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    rig.full.store(true, Ordering::SeqCst);
    let (told, mut durable) = oneshot::channel();
    group.submit(vote(), Done::Told(told)).await.unwrap();
    rig.writer.open(GroupId(2)).await.unwrap();
    assert!(durable.try_recv().is_err(), "told before it was durable");
    rig.full.store(false, Ordering::SeqCst);
    rig.allow.send(Ok(())).unwrap();
    durable.await.unwrap().unwrap();
    assert_eq!((rig.commits.lock().unwrap().len(), rig.said.lock().unwrap().len()), (1, 0));
}

#[tokio::test]
async fn a_writer_that_waits_for_room_can_be_closed_and_acknowledges_nothing() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    rig.full.store(true, Ordering::SeqCst);
    let (told, durable) = oneshot::channel();
    group.submit(vote(), Done::Told(told)).await.unwrap();
    rig.writer.give_up();
    assert!(durable.await.unwrap().is_err());
    rig.writer.close().await;
    assert!(rig.said.lock().unwrap().is_empty(), "a full disk is no reason to end the process");
}
