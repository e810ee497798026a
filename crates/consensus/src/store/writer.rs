//! The one thread that writes: whatever waits, of all groups, goes to disk in one commit.
//!
//! What was handed over first is durable first. The queue is bounded in bytes; when it is full,
//! handing over waits. A write that finds no room is kept and tried again until there is some; nobody
//! is told anything meanwhile. After any other failed write nobody is told that anything is durable:
//! the fatal hook runs, and the node has to end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use pushonce_core::{AgreedVersion, ClusterVersion};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::backend::is_full;
use super::{Change, Store, Stored};
use crate::GroupId;
use crate::space::Space;
use crate::types::Types;

/// What may wait for the disk, in units of [`UNIT`]: 64 MiB. A second of a slow disk.
const QUEUE_UNITS: u32 = 64 << 10;
const UNIT: usize = 1 << 10;

/// One commit holds no more than about this: more would only make everybody wait longer.
const COMMIT_BYTES: usize = 8 << 20;

/// How long a write that found no room waits before it is tried again, and how often whoever reads
/// is looked after meanwhile.
const RETRY: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);

/// Called once when the disk has failed, with the reason. The process must not go on.
pub(crate) type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Hands work to the writer thread. Clones share it.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::UnboundedSender<Job>,
    room: Arc<Semaphore>,
    /// One piece of a snapshot of the whole node waits at a time: more would make one long commit.
    pieces: Arc<Semaphore>,
    /// What waits for room on the disk is given up.
    given_up: Arc<AtomicBool>,
    /// In which version records are written.
    agreed: AgreedVersion,
}

/// The writer for one group, until the group is destroyed: what a leftover of a destroyed group
/// still wants to write is refused.
#[derive(Clone)]
pub(crate) struct GroupWriter {
    group: GroupId,
    life: u64,
    writer: Writer,
}

/// Who is told when a write is durable.
pub(crate) enum Done {
    /// openraft, for an append.
    Flushed(IOFlushed<Types>),
    /// A task that waits.
    Told(oneshot::Sender<io::Result<()>>),
    /// Nobody waits.
    Unheard,
}

enum Job {
    Write(Write),
    Read { group: GroupId, reply: oneshot::Sender<io::Result<(u64, Stored)>> },
    Piece { group: GroupId, generation: u64, number: u32, reply: Piece },
    Destroy { group: GroupId, reply: oneshot::Sender<io::Result<()>> },
    Version { version: ClusterVersion, reply: oneshot::Sender<io::Result<()>> },
    Close { reply: oneshot::Sender<()> },
}

type Piece = oneshot::Sender<io::Result<Option<Bytes>>>;

struct Write {
    group: GroupId,
    life: u64,
    changes: Vec<Change>,
    done: Done,
    /// Given back when the write is durable: this is what bounds the queue.
    _room: Option<OwnedSemaphorePermit>,
}

struct Thread<S> {
    store: S,
    queue: mpsc::UnboundedReceiver<Job>,
    /// What came while a write waited for room: it is looked at before the queue.
    backlog: VecDeque<Job>,
    fatal: Fatal,
    space: Space,
    given_up: Arc<AtomicBool>,
    /// How often each group was destroyed since the start.
    lives: HashMap<GroupId, u64>,
}

impl Writer {
    /// Starts the thread on a store. It ends with [`Writer::close`], or after a failure.
    pub(crate) fn start<S: Store>(store: S, space: Space, fatal: Fatal) -> io::Result<Writer> {
        let (queue, jobs) = mpsc::unbounded_channel();
        #[cfg(feature = "planted-bugs")]
        let store = super::planted::Behind::over(store);
        let given_up = Arc::<AtomicBool>::default();
        let thread = Thread {
            store,
            queue: jobs,
            backlog: VecDeque::new(),
            fatal,
            space,
            given_up: Arc::clone(&given_up),
            lives: HashMap::new(),
        };
        std::thread::Builder::new().name("pushonce-log".to_owned()).spawn(move || thread.run())?;
        let room = Arc::new(Semaphore::new(QUEUE_UNITS as usize));
        let (pieces, agreed) = (Arc::new(Semaphore::new(1)), AgreedVersion::default());
        Ok(Writer { queue, room, pieces, given_up, agreed })
    }

    /// Reads a group, and gives the writer for it.
    pub(crate) async fn open(&self, group: GroupId) -> io::Result<(GroupWriter, Stored)> {
        let (life, stored) = self.ask(|reply| Job::Read { group, reply }).await??;
        Ok((GroupWriter { group, life, writer: self.clone() }, stored))
    }

    /// Drops all of a group, after everything that was handed over before.
    pub(crate) async fn destroy(&self, group: GroupId) -> io::Result<()> {
        self.ask(|reply| Job::Destroy { group, reply }).await?
    }

    /// In which version records are written now.
    pub(crate) fn agreed(&self) -> &AgreedVersion {
        &self.agreed
    }

    /// Notes on disk that the cluster has this version, and then writes in it. A build that does not
    /// support it does not open the store any more.
    pub(crate) async fn raise(&self, version: ClusterVersion) -> io::Result<()> {
        if version > self.agreed.get() {
            self.ask(|reply| Job::Version { version, reply }).await??;
            self.agreed.raise(version);
        }
        Ok(())
    }

    /// Ends the wait for room on a full disk: what waits for it fails, unacknowledged, and nothing
    /// more is written.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// Writes what waits, closes the store and ends the thread.
    pub(crate) async fn close(&self) {
        // An error means that the thread has ended already.
        let _ended = self.ask(|reply| Job::Close { reply }).await;
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> io::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(job(reply)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

impl GroupWriter {
    /// The group.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// A value as a record of the group, in the version that nodes agreed on.
    pub(crate) fn seal<T: Serialize>(&self, value: &T) -> io::Result<Bytes> {
        super::seal(self.group, self.writer.agreed.get(), value)
    }

    /// As [`GroupWriter::seal`], with bytes behind the value.
    pub(crate) fn seal_with<T: Serialize>(&self, value: &T, data: &[u8]) -> io::Result<Bytes> {
        super::seal_with(self.group, self.writer.agreed.get(), value, data)
    }

    /// Hands changes over, waiting for room in the queue. `Ok` says that they are queued.
    pub(crate) async fn submit(&self, changes: Vec<Change>, done: Done) -> io::Result<()> {
        let bytes: usize = changes.iter().map(Change::size).sum();
        let units = u32::try_from(bytes / UNIT + 1).unwrap_or(QUEUE_UNITS).min(QUEUE_UNITS);
        let room =
            Arc::clone(&self.writer.room).acquire_many_owned(units).await.map_err(|_| closed())?;
        self.queue(changes, done, Some(room))
    }

    fn queue(
        &self,
        changes: Vec<Change>,
        done: Done,
        room: Option<OwnedSemaphorePermit>,
    ) -> io::Result<()> {
        let write = Write { group: self.group, life: self.life, changes, done, _room: room };
        self.writer.queue.send(Job::Write(write)).map_err(|_| closed())
    }

    /// Hands changes over and waits until they are durable.
    pub(crate) async fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        let (told, durable) = oneshot::channel();
        self.submit(changes, Done::Told(told)).await?;
        durable.await.map_err(|_| closed())?
    }

    /// As [`GroupWriter::write`], when the piece that another snapshot of the node writes is durable.
    pub(crate) async fn write_piece(&self, piece: Change) -> io::Result<()> {
        let _turn = self.writer.pieces.acquire().await.map_err(|_| closed())?;
        self.write(vec![piece]).await
    }

    /// Drops the pieces of a snapshot, some time. They are few: it waits for no room.
    pub(crate) fn forget(&self, generation: u64) {
        // A writer that has ended leaves them to the next start.
        let _ = self.queue(vec![Change::Forget { generation }], Done::Unheard, None);
    }

    /// Reads a piece of a snapshot.
    pub(crate) async fn piece(&self, generation: u64, number: u32) -> io::Result<Option<Bytes>> {
        let group = self.group;
        self.writer.ask(|reply| Job::Piece { group, generation, number, reply }).await?
    }

    /// Whether both write to the same place.
    pub(crate) fn is(&self, other: &GroupWriter) -> bool {
        self.group == other.group && self.writer.queue.same_channel(&other.writer.queue)
    }
}

impl<S: Store> Thread<S> {
    fn run(mut self) {
        while let Some(first) = self.backlog.pop_front().or_else(|| self.queue.blocking_recv()) {
            let (writes, other) = self.collect(first);
            match other {
                Some(job) if !writes.is_empty() => self.backlog.push_front(job),
                Some(Job::Close { reply }) => return self.close(reply),
                Some(job) => self.answer(job),
                None => {}
            }
            if self.commit(writes).is_err() {
                return;
            }
        }
    }

    /// Takes all writes that wait; another kind of job ends them, so that order holds.
    fn collect(&mut self, first: Job) -> (Vec<Write>, Option<Job>) {
        let mut writes = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Write(write) => {
                    bytes += write.changes.iter().map(Change::size).sum::<usize>();
                    writes.push(write);
                }
                other => return (writes, Some(other)),
            }
            if bytes >= COMMIT_BYTES {
                break;
            }
            next = self.backlog.pop_front().or_else(|| self.queue.try_recv().ok());
        }
        (writes, None)
    }

    fn commit(&mut self, writes: Vec<Write>) -> io::Result<()> {
        let mut changes = Vec::new();
        let mut waiting = Vec::with_capacity(writes.len());
        for write in writes {
            if self.life(write.group) != write.life {
                write.done.tell(Err(destroyed()));
                continue;
            }
            changes.extend(write.changes.into_iter().map(|change| (write.group, change)));
            waiting.push((write.done, write._room));
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let written = self.write(&changes);
        metrics::histogram!("pushonce_log_commit_seconds").record(begun.elapsed());
        match written {
            Ok(()) => {
                waiting.into_iter().for_each(|(done, _)| done.tell(Ok(())));
                Ok(())
            }
            Err(error) => {
                self.fail(&error);
                waiting.into_iter().for_each(|(done, _)| done.tell(Err(copy(&error))));
                Err(error)
            }
        }
    }

    /// Writes, and waits for room as long as there is none.
    fn write(&mut self, changes: &[(GroupId, Change)]) -> io::Result<()> {
        loop {
            match self.store.write(changes) {
                Err(error) if is_full(&error) && !self.given_up.load(Ordering::SeqCst) => {
                    self.space.set_stuck(true);
                    self.wait_for_room(changes);
                }
                written => {
                    self.space.set_stuck(false);
                    return written;
                }
            }
        }
    }

    /// Meanwhile whoever reads is answered, unless what is read is about to change.
    fn wait_for_room(&mut self, stuck: &[(GroupId, Change)]) {
        let until = Instant::now() + RETRY;
        let waits = |group: GroupId, backlog: &VecDeque<Job>| {
            let queued = |job: &Job| matches!(job, Job::Write(Write { group: g, .. }) | Job::Destroy { group: g, .. } if *g == group);
            stuck.iter().any(|(g, _)| *g == group) || backlog.iter().any(queued)
        };
        while Instant::now() < until && !self.given_up.load(Ordering::SeqCst) {
            let mut jobs = std::mem::take(&mut self.backlog);
            jobs.extend(std::iter::from_fn(|| self.queue.try_recv().ok()));
            for job in jobs {
                match job {
                    Job::Read { group, .. } if !waits(group, &self.backlog) => self.answer(job),
                    // A piece that is asked for is durable already.
                    Job::Piece { .. } => self.answer(job),
                    job => self.backlog.push_back(job),
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    fn answer(&mut self, job: Job) {
        // Whoever asked may have gone; then nobody wants the answer.
        match job {
            Job::Read { group, reply } => {
                let life = self.life(group);
                let _ = reply.send(self.store.read(group).map(|stored| (life, stored)));
            }
            Job::Piece { group, generation, number, reply } => {
                let _ = reply.send(self.store.read_piece(group, generation, number));
            }
            Job::Destroy { group, reply } => {
                let _ = reply.send(self.destroy(group));
            }
            Job::Version { version, reply } => {
                let _ = reply.send(self.note(version));
            }
            Job::Write(_) | Job::Close { .. } => {}
        }
    }

    fn destroy(&mut self, group: GroupId) -> io::Result<()> {
        *self.lives.entry(group).or_default() += 1;
        let destroyed = self.write(&[(group, Change::Destroy)]);
        if let Err(error) = &destroyed {
            self.fail(error);
        }
        destroyed
    }

    fn note(&mut self, version: ClusterVersion) -> io::Result<()> {
        let noted = self.write(&[(GroupId::CONTROL, Change::Version(version))]);
        if let Err(error) = &noted {
            self.fail(error);
        }
        noted
    }

    fn close(self, reply: oneshot::Sender<()>) {
        // The lock on the file is gone before anybody hears that the writer is.
        drop(self.store);
        let _ = reply.send(());
    }

    fn fail(&self, error: &io::Error) {
        if is_full(error) {
            // Given up: nothing is half written.
            return;
        }
        (self.fatal)(&format!("the log could not be written: {error}"));
    }

    fn life(&self, group: GroupId) -> u64 {
        self.lives.get(&group).copied().unwrap_or_default()
    }
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Done::Flushed(flushed) => flushed.io_completed(result),
            // The waiter may have been dropped; the write stands all the same.
            Done::Told(told) => drop(told.send(result)),
            Done::Unheard => {}
        }
    }
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log writer has ended")
}

fn destroyed() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the group was destroyed")
}

#[cfg(test)]
#[path = "writer/writer_test.rs"]
mod tests;
