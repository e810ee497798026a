//! The writer thread: writes the queued changes of all groups to disk in one commit.
//!
//! Writes become durable in the order of submission. The queue is bounded in bytes; while it is full,
//! submission waits. A write that fails for lack of space is kept and retried until there is space; nothing
//! is acknowledged meanwhile. After any other failed write nothing is acknowledged any more: the fatal hook
//! runs, and the node must end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use pushonce_core::{AgreedVersion, ClusterVersion, CoverageMark};
use pushonce_telemetry::Histogram;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::backend::is_disk_full;
use super::{RaftStore, StoreChange, StoredGroup};
use crate::GroupId;
use crate::disk_reserve::DiskReserve;
use crate::metrics;
use crate::types::TypeConfig;

/// The capacity of the queue in units of [`UNIT_BYTES`]: 64 MiB, which a slow disk writes in a second.
const QUEUE_UNITS: u32 = 64 << 10;
const UNIT_BYTES: usize = 1 << 10;

/// Approximate maximum size of one commit. A larger commit would only increase latency.
const COMMIT_BYTES_MAX: usize = 8 << 20;

/// The delay before a write that failed for lack of space is retried, and the interval at which reads are
/// served meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Called once with the reason when the disk has failed. The process must end.
pub(crate) type FatalHook = Arc<dyn Fn(&str) + Send + Sync>;

/// The interface to the writer thread. Clones share it.
#[derive(Clone)]
pub(crate) struct StoreWriter {
    queue: mpsc::UnboundedSender<WriterJob>,
    queue_permits: Arc<Semaphore>,
    /// The node writes one snapshot piece at a time: more would make one long commit.
    piece_permit: Arc<Semaphore>,
    /// Writes that wait for disk space are aborted.
    aborted: Arc<AtomicBool>,
    /// The version in which records are written.
    agreed_version: AgreedVersion,
}

/// The writer of one group until the group is destroyed: later writes of a destroyed group are rejected.
#[derive(Clone)]
pub(crate) struct GroupWriter {
    group: GroupId,
    incarnation: u64,
    writer: StoreWriter,
}

/// The receiver of a write's completion.
pub(crate) enum WriteCompletion {
    /// openraft, for an append.
    RaftCallback(IOFlushed<TypeConfig>),
    /// A waiting task.
    Notify(oneshot::Sender<io::Result<()>>),
    /// No receiver.
    Ignore,
}

enum WriterJob {
    Write(QueuedWrite),
    Read { group: GroupId, reply: oneshot::Sender<io::Result<(u64, StoredGroup)>> },
    ReadPiece { group: GroupId, generation: u64, number: u32, reply: PieceReply },
    Destroy { group: GroupId, reply: oneshot::Sender<io::Result<()>> },
    SetVersion { version: ClusterVersion, reply: oneshot::Sender<io::Result<()>> },
    Close { reply: oneshot::Sender<()> },
}

type PieceReply = oneshot::Sender<io::Result<Option<Bytes>>>;

struct QueuedWrite {
    group: GroupId,
    incarnation: u64,
    changes: Vec<StoreChange>,
    completion: WriteCompletion,
    /// Released when the write is durable, which bounds the queue.
    _permit: Option<OwnedSemaphorePermit>,
}

struct WriterThread<S> {
    store: S,
    queue: mpsc::UnboundedReceiver<WriterJob>,
    /// Jobs that arrived while a write waited for space. They are processed before the queue.
    backlog: VecDeque<WriterJob>,
    on_fatal: FatalHook,
    disk_reserve: DiskReserve,
    aborted: Arc<AtomicBool>,
    /// How often each group was destroyed since the start.
    incarnations: HashMap<GroupId, u64>,
    fsync_seconds: Histogram,
}

impl StoreWriter {
    /// Starts the thread on a store. It ends with [`StoreWriter::close`], or after a failure.
    pub(crate) fn start<S: RaftStore>(
        store: S,
        disk_reserve: DiskReserve,
        on_fatal: FatalHook,
    ) -> io::Result<StoreWriter> {
        let (queue, jobs) = mpsc::unbounded_channel();
        let aborted = Arc::<AtomicBool>::default();
        let thread = WriterThread {
            store,
            queue: jobs,
            backlog: VecDeque::new(),
            on_fatal,
            disk_reserve,
            aborted: Arc::clone(&aborted),
            incarnations: HashMap::new(),
            fsync_seconds: metrics::FSYNC.register_histogram(&[]),
        };
        std::thread::Builder::new().name("pushonce-log".to_owned()).spawn(move || thread.run())?;
        let queue_permits = Arc::new(Semaphore::new(QUEUE_UNITS as usize));
        let (piece_permit, agreed_version) =
            (Arc::new(Semaphore::new(1)), AgreedVersion::default());
        Ok(StoreWriter { queue, queue_permits, piece_permit, aborted, agreed_version })
    }

    /// Writes in a version that others know as well.
    pub(crate) fn with_agreed_version(self, agreed_version: &AgreedVersion) -> StoreWriter {
        StoreWriter { agreed_version: agreed_version.clone(), ..self }
    }

    /// Reads a group and returns its writer.
    pub(crate) async fn open(&self, group: GroupId) -> io::Result<(GroupWriter, StoredGroup)> {
        let (incarnation, stored) =
            self.request(|reply| WriterJob::Read { group, reply }).await??;
        Ok((GroupWriter { group, incarnation, writer: self.clone() }, stored))
    }

    /// Deletes a group, except for its vote, after all writes submitted before.
    pub(crate) async fn destroy(&self, group: GroupId) -> io::Result<()> {
        self.request(|reply| WriterJob::Destroy { group, reply }).await?
    }

    /// The version in which records are currently written.
    pub(crate) fn agreed_version(&self) -> &AgreedVersion {
        &self.agreed_version
    }

    /// Stores the version of the cluster on disk and then writes in it. Builds that do not support it cannot
    /// open the store afterwards.
    pub(crate) async fn raise_version(&self, version: ClusterVersion) -> io::Result<()> {
        if version > self.agreed_version.get() {
            self.request(|reply| WriterJob::SetVersion { version, reply }).await??;
            self.agreed_version.raise(version);
        }
        Ok(())
    }

    /// Ends the wait for space on a full disk: blocked writes fail without acknowledgement, and nothing more
    /// is written.
    pub(crate) fn abort_blocked_writes(&self) {
        self.aborted.store(true, Ordering::SeqCst);
    }

    /// Writes the queued changes, closes the store and ends the thread.
    pub(crate) async fn close(&self) {
        // An error means that the thread has ended already.
        let _ended = self.request(|reply| WriterJob::Close { reply }).await;
    }

    async fn request<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> WriterJob) -> io::Result<T> {
        let (reply, response) = oneshot::channel();
        self.queue.send(job(reply)).map_err(|_| writer_closed())?;
        response.await.map_err(|_| writer_closed())
    }
}

impl GroupWriter {
    /// The group.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// Encodes a record of the group in the agreed version.
    pub(crate) fn encode_record<T: Serialize>(&self, value: &T) -> io::Result<Bytes> {
        super::encode_record(self.group, self.writer.agreed_version.get(), value)
    }

    /// Like [`GroupWriter::encode_record`], with data after the value.
    pub(crate) fn encode_record_with_data<T: Serialize>(
        &self,
        value: &T,
        data: &[u8],
    ) -> io::Result<Bytes> {
        super::encode_record_with_data(self.group, self.writer.agreed_version.get(), value, data)
    }

    /// Submits changes, waiting for room in the queue. `Ok` means that they are queued.
    pub(crate) async fn submit(
        &self,
        changes: Vec<StoreChange>,
        completion: WriteCompletion,
    ) -> io::Result<()> {
        let bytes: usize = changes.iter().map(StoreChange::approximate_bytes).sum();
        let units = u32::try_from(bytes / UNIT_BYTES + 1).unwrap_or(QUEUE_UNITS).min(QUEUE_UNITS);
        let permit = Arc::clone(&self.writer.queue_permits)
            .acquire_many_owned(units)
            .await
            .map_err(|_| writer_closed())?;
        self.enqueue(changes, completion, Some(permit))
    }

    fn enqueue(
        &self,
        changes: Vec<StoreChange>,
        completion: WriteCompletion,
        permit: Option<OwnedSemaphorePermit>,
    ) -> io::Result<()> {
        let write = QueuedWrite {
            group: self.group,
            incarnation: self.incarnation,
            changes,
            completion,
            _permit: permit,
        };
        self.writer.queue.send(WriterJob::Write(write)).map_err(|_| writer_closed())
    }

    /// Submits changes and waits until they are durable.
    pub(crate) async fn write(&self, changes: Vec<StoreChange>) -> io::Result<()> {
        let (notify, durable) = oneshot::channel();
        self.submit(changes, WriteCompletion::Notify(notify)).await?;
        durable.await.map_err(|_| writer_closed())?
    }

    /// Like [`GroupWriter::write`], after the piece that another snapshot of the node writes.
    pub(crate) async fn write_piece(&self, piece: StoreChange) -> io::Result<()> {
        let _permit = self.writer.piece_permit.acquire().await.map_err(|_| writer_closed())?;
        self.write(vec![piece]).await
    }

    /// Deletes the pieces of a snapshot eventually. The change is small and does not wait for room in the
    /// queue.
    pub(crate) fn delete_pieces(&self, generation: u64) {
        // If the writer has ended, the next start deletes them.
        let _ = self.enqueue(
            vec![StoreChange::DeletePieces { generation }],
            WriteCompletion::Ignore,
            None,
        );
    }

    /// Reads a piece of a snapshot.
    pub(crate) async fn read_piece(
        &self,
        generation: u64,
        number: u32,
    ) -> io::Result<Option<Bytes>> {
        let group = self.group;
        self.writer
            .request(|reply| WriterJob::ReadPiece { group, generation, number, reply })
            .await?
    }

    /// Whether both write to the same group of the same store.
    pub(crate) fn targets_same_group(&self, other: &GroupWriter) -> bool {
        self.group == other.group && self.writer.queue.same_channel(&other.writer.queue)
    }
}

impl<S: RaftStore> WriterThread<S> {
    fn run(mut self) {
        while let Some(first) = self.backlog.pop_front().or_else(|| self.queue.blocking_recv()) {
            let (writes, other) = self.collect_batch(first);
            match other {
                Some(job) if !writes.is_empty() => self.backlog.push_front(job),
                Some(WriterJob::Close { reply }) => return self.close(reply),
                Some(job) => self.run_job(job),
                None => {}
            }
            if self.commit(writes).is_err() {
                return;
            }
        }
    }

    /// Collects all queued writes. A job of another kind ends the batch, so that the order is kept.
    fn collect_batch(&mut self, first: WriterJob) -> (Vec<QueuedWrite>, Option<WriterJob>) {
        let mut writes = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                WriterJob::Write(write) => {
                    bytes +=
                        write.changes.iter().map(StoreChange::approximate_bytes).sum::<usize>();
                    writes.push(write);
                }
                other => return (writes, Some(other)),
            }
            if bytes >= COMMIT_BYTES_MAX {
                break;
            }
            next = self.backlog.pop_front().or_else(|| self.queue.try_recv().ok());
        }
        (writes, None)
    }

    fn commit(&mut self, writes: Vec<QueuedWrite>) -> io::Result<()> {
        let mut changes = Vec::new();
        let mut waiting = Vec::with_capacity(writes.len());
        for write in writes {
            if self.incarnation(write.group) != write.incarnation {
                write.completion.complete(Err(group_destroyed()));
                continue;
            }
            changes.extend(write.changes.into_iter().map(|change| (write.group, change)));
            waiting.push((write.completion, write._permit));
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let result = self.write(&changes);
        self.fsync_seconds.record(started.elapsed());
        match result {
            Ok(()) => {
                waiting.into_iter().for_each(|(done, _)| done.complete(Ok(())));
                Ok(())
            }
            Err(error) => {
                CoverageMark::DiskFailed.reach();
                self.report_fatal(&error);
                waiting.into_iter().for_each(|(done, _)| done.complete(Err(clone_error(&error))));
                Err(error)
            }
        }
    }

    /// Writes the changes, waiting for space while there is none.
    fn write(&mut self, changes: &[(GroupId, StoreChange)]) -> io::Result<()> {
        loop {
            match self.store.write(changes) {
                Err(error) if is_disk_full(&error) && !self.aborted.load(Ordering::SeqCst) => {
                    CoverageMark::WriteWaitsForSpace.reach();
                    self.disk_reserve.set_write_blocked(true);
                    self.wait_for_space(changes);
                }
                written => {
                    self.disk_reserve.set_write_blocked(false);
                    return written;
                }
            }
        }
    }

    /// Serves reads while a write waits for space, unless the group has a pending write.
    fn wait_for_space(&mut self, blocked: &[(GroupId, StoreChange)]) {
        let deadline = Instant::now() + RETRY_INTERVAL;
        let has_pending_write = |group: GroupId, backlog: &VecDeque<WriterJob>| {
            let queued = |job: &WriterJob| matches!(job, WriterJob::Write(QueuedWrite { group: g, .. }) | WriterJob::Destroy { group: g, .. } if *g == group);
            blocked.iter().any(|(g, _)| *g == group) || backlog.iter().any(queued)
        };
        while Instant::now() < deadline && !self.aborted.load(Ordering::SeqCst) {
            let mut jobs = std::mem::take(&mut self.backlog);
            jobs.extend(std::iter::from_fn(|| self.queue.try_recv().ok()));
            for job in jobs {
                match job {
                    WriterJob::Read { group, .. } if !has_pending_write(group, &self.backlog) => {
                        self.run_job(job)
                    }
                    // A requested piece is durable already.
                    WriterJob::ReadPiece { .. } => self.run_job(job),
                    job => self.backlog.push_back(job),
                }
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn run_job(&mut self, job: WriterJob) {
        // The requester may have stopped waiting.
        match job {
            WriterJob::Read { group, reply } => {
                let incarnation = self.incarnation(group);
                let _ = reply.send(self.store.read(group).map(|stored| (incarnation, stored)));
            }
            WriterJob::ReadPiece { group, generation, number, reply } => {
                let _ = reply.send(self.store.read_piece(group, generation, number));
            }
            WriterJob::Destroy { group, reply } => {
                let _ = reply.send(self.destroy(group));
            }
            WriterJob::SetVersion { version, reply } => {
                let _ = reply.send(self.write_version(version));
            }
            WriterJob::Write(_) | WriterJob::Close { .. } => {}
        }
    }

    fn destroy(&mut self, group: GroupId) -> io::Result<()> {
        *self.incarnations.entry(group).or_default() += 1;
        let result = self.write(&[(group, StoreChange::Destroy)]);
        if let Err(error) = &result {
            self.report_fatal(error);
        }
        result
    }

    fn write_version(&mut self, version: ClusterVersion) -> io::Result<()> {
        let result = self.write(&[(GroupId::CONTROL, StoreChange::SetVersion(version))]);
        if let Err(error) = &result {
            self.report_fatal(error);
        }
        result
    }

    fn close(self, reply: oneshot::Sender<()>) {
        // The file is unlocked before the close is reported.
        drop(self.store);
        let _ = reply.send(());
    }

    fn report_fatal(&self, error: &io::Error) {
        if is_disk_full(error) {
            // Aborted: nothing was written partially.
            return;
        }
        let remedy = match error.kind() {
            io::ErrorKind::InvalidData => {
                "; restore the data directory, or remove this node from the cluster and join again as a new node \
                 with an empty one"
            }
            _ => "",
        };
        (self.on_fatal)(&format!("the log could not be written: {error}{remedy}"));
    }

    fn incarnation(&self, group: GroupId) -> u64 {
        self.incarnations.get(&group).copied().unwrap_or_default()
    }
}

impl WriteCompletion {
    fn complete(self, result: io::Result<()>) {
        match self {
            WriteCompletion::RaftCallback(flushed) => flushed.io_completed(result),
            // The waiter may have been dropped; the write is durable nevertheless.
            WriteCompletion::Notify(sender) => drop(sender.send(result)),
            WriteCompletion::Ignore => {}
        }
    }
}

fn clone_error(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn writer_closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log writer has stopped")
}

fn group_destroyed() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the group was destroyed")
}

#[cfg(test)]
#[path = "writer/writer_test.rs"]
mod tests;
