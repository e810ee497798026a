use std::sync::Mutex;
use std::sync::mpsc as gate;
use std::time::Duration;

use super::*;
use crate::store::StoreKey;

/// A store that writes only when allowed, and records the size of each commit.
struct GatedStore {
    allowed: gate::Receiver<io::Result<()>>,
    commits: Arc<Mutex<Vec<usize>>>,
    full: Arc<AtomicBool>,
}

impl RaftStore for GatedStore {
    fn write(&mut self, changes: &[(GroupId, StoreChange)]) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.allowed.recv().unwrap_or(Ok(()))?;
        self.commits.lock().unwrap().push(changes.len());
        Ok(())
    }

    fn read(&mut self, _group: GroupId) -> io::Result<StoredGroup> {
        Ok(StoredGroup::default())
    }

    fn read_piece(&mut self, _: GroupId, _: u64, _: u32) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

struct WriterRig {
    writer: StoreWriter,
    allow: gate::Sender<io::Result<()>>,
    commits: Arc<Mutex<Vec<usize>>>,
    fatal_messages: Arc<Mutex<Vec<String>>>,
    full: Arc<AtomicBool>,
}

fn rig() -> WriterRig {
    let (allow, allowed) = gate::channel();
    let (commits, fatal_messages) = (Arc::default(), Arc::<Mutex<Vec<String>>>::default());
    let messages = Arc::clone(&fatal_messages);
    let on_fatal: FatalHook =
        Arc::new(move |reason: &str| messages.lock().unwrap().push(reason.to_owned()));
    let full = Arc::<AtomicBool>::default();
    let store = GatedStore { allowed, commits: Arc::clone(&commits), full: Arc::clone(&full) };
    WriterRig {
        writer: StoreWriter::start(store, unlimited_reserve(), on_fatal).unwrap(),
        allow,
        commits,
        fatal_messages,
        full,
    }
}

fn unlimited_reserve() -> DiskReserve {
    let probe = |_: &std::path::Path| Ok(crate::DiskSpace { free: 1 << 40, total: 1 << 40 });
    DiskReserve::new(std::path::Path::new("/data"), None, Arc::new(probe))
}

fn vote() -> Vec<StoreChange> {
    vec![StoreChange::Set { key: StoreKey::Vote, record: Bytes::from_static(b"vote") }]
}

#[tokio::test]
async fn writes_complete_only_when_durable_and_queued_writes_share_a_commit() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    let (first, mut durable) = oneshot::channel();
    group.submit(vote(), WriteCompletion::Notify(first)).await.unwrap();
    // The thread is in the first commit or about to be: later writes wait for the second.
    while rig.writer.queue_permits.available_permits() == QUEUE_UNITS as usize {
        tokio::task::yield_now().await;
    }
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let group = group.clone();
            tokio::spawn(async move { group.write(vote()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(durable.try_recv().is_err(), "completed before it was durable");

    rig.allow.send(Ok(())).unwrap();
    durable.await.unwrap().unwrap();
    for _ in 0..5 {
        // More permits than commits.
        rig.allow.send(Ok(())).unwrap();
    }
    for write in waiting {
        write.await.unwrap().unwrap();
    }
    assert_eq!(rig.commits.lock().unwrap().iter().sum::<usize>(), 6);
}

#[tokio::test]
async fn failed_write_runs_fatal_hook_and_acknowledges_nothing() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    rig.allow.send(Err(io::Error::other("no space left"))).unwrap();
    let failed = group.write(vote()).await.unwrap_err();
    assert!(failed.to_string().contains("no space left"));
    assert!(group.write(vote()).await.is_err(), "a failed store accepted a write");
    let messages = rig.fatal_messages.lock().unwrap();
    assert!(matches!(messages.as_slice(), [message] if message.contains("no space left")));
    assert!(rig.commits.lock().unwrap().is_empty());
}

#[tokio::test]
async fn full_queue_blocks_writers() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    let record = Bytes::from(vec![0; QUEUE_UNITS as usize * UNIT_BYTES]);
    let large = vec![StoreChange::Set { key: StoreKey::Snapshot, record }];
    group.submit(large, WriteCompletion::Ignore).await.unwrap();
    let next = group.submit(vote(), WriteCompletion::Ignore);
    let early = tokio::time::timeout(Duration::from_millis(20), next).await;
    assert!(early.is_err(), "the queue is not bounded");
    rig.allow.send(Ok(())).unwrap();
    group.submit(vote(), WriteCompletion::Ignore).await.unwrap();
}

#[tokio::test]
async fn write_on_full_disk_is_retried_and_reads_are_served_meanwhile() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    rig.full.store(true, Ordering::SeqCst);
    let (sender, mut durable) = oneshot::channel();
    group.submit(vote(), WriteCompletion::Notify(sender)).await.unwrap();
    rig.writer.open(GroupId(2)).await.unwrap();
    assert!(durable.try_recv().is_err(), "completed before it was durable");
    rig.full.store(false, Ordering::SeqCst);
    rig.allow.send(Ok(())).unwrap();
    durable.await.unwrap().unwrap();
    assert_eq!(
        (rig.commits.lock().unwrap().len(), rig.fatal_messages.lock().unwrap().len()),
        (1, 0)
    );
}

#[tokio::test]
async fn writer_blocked_on_full_disk_closes_without_acknowledging() {
    let rig = rig();
    let (group, _) = rig.writer.open(GroupId(1)).await.unwrap();
    rig.full.store(true, Ordering::SeqCst);
    let (sender, durable) = oneshot::channel();
    group.submit(vote(), WriteCompletion::Notify(sender)).await.unwrap();
    rig.writer.abort_blocked_writes();
    assert!(durable.await.unwrap().is_err());
    rig.writer.close().await;
    assert!(rig.fatal_messages.lock().unwrap().is_empty(), "a full disk is not fatal");
}
