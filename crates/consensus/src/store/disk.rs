//! The store on redb.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pushonce_core::{ClusterId, ClusterVersion, NodeId, UnsupportedVersion, VersionRange};
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, Table,
    TableDefinition, WriteTransaction,
};

use super::backend::{Failed, Watched, is_full};
use super::{Change, Key, LogMark, Store, Stored, Writes};
use crate::{GroupId, OpenError};

/// (group, index) to entry.
const ENTRIES: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("entries");
/// (group, key) to value.
const VALUES: TableDefinition<(u32, u8), &[u8]> = TableDefinition::new("values");
/// (group, generation, number) to a piece of a snapshot.
const PIECES: TableDefinition<(u32, u64, u32), &[u8]> = TableDefinition::new("pieces");
/// Which log this is, and how many commits it has had.
const MARK: TableDefinition<&str, u64> = TableDefinition::new("mark");
/// Whose store this is, and the version of its cluster.
const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");
/// Keys of [`IDENTITY`].
const OWNER: &str = "owner";
const VERSION: &str = "version";

/// The store of a node.
const FILE: &str = "raft.redb";
/// The store while it is made: a process may die between any two writes of that.
const DRAFT: &str = "raft.redb.new";

/// Entries lie in memory until they are purged and are read back only at a start: the page cache
/// has little to do, and redb's own default is a gigabyte.
const CACHE_BYTES: usize = 32 << 20;

/// The redb file of a node, locked while it is open.
pub(crate) struct Disk {
    open: Box<Opener>,
    /// Closed after a write that found no room: redb refuses everything then, and what it has in
    /// memory is of a commit that never was.
    database: Option<Database>,
    failed: Failed,
    version: ClusterVersion,
    writes: Writes,
}

/// Opens the file again, noting what fails.
type Opener = dyn Fn(Failed) -> Result<Database, DatabaseError> + Send;

impl Disk {
    /// Makes `raft.redb` in a directory for this node of this cluster, whole or not at all. `Ok` when
    /// it is there already.
    pub(crate) fn create(dir: &Path, cluster: ClusterId, me: NodeId) -> Result<(), OpenError> {
        let path = dir.join(FILE);
        if fs::exists(&path).map_err(|error| io_at(&path, &error))? {
            return Disk::open(dir, cluster, me).map(drop);
        }
        fs::create_dir_all(dir).map_err(|error| io_at(dir, &error))?;
        let draft = dir.join(DRAFT);
        // Of a try that was cut short. Nothing was ever written to it but whose it was to be.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_at(&draft, &error));
            }
            _ => {}
        }
        let database = builder().create(&draft).map_err(|error| refused(&draft, error))?;
        claim(&database, cluster, me).map_err(|error| damaged(&draft, error))?;
        drop(database);
        put_in_place(&draft, &path).map_err(|error| io_at(&path, &error))
    }

    /// Whether `raft.redb` is in place. A path that cannot be read counts as present: the caller must
    /// not make a second store there.
    pub(crate) fn exists(dir: &Path) -> bool {
        fs::exists(dir.join(FILE)).unwrap_or(true)
    }

    /// Opens the `raft.redb` of this node of this cluster.
    ///
    /// A file that is missing is not made anew: its votes are gone, and a node that votes twice in
    /// one term can elect two leaders.
    pub(crate) fn open(dir: &Path, cluster: ClusterId, me: NodeId) -> Result<Disk, OpenError> {
        let path = dir.join(FILE);
        if !fs::exists(&path).map_err(|error| io_at(&path, &error))? {
            return Err(OpenError::Missing { path });
        }
        let file = path.clone();
        let disk = Disk::over(move |failed| open_file(&file, failed));
        let mut disk = disk.map_err(|error| refused(&path, error))?;
        let found = disk.ready().and_then(|database| owner(database).map_err(io::Error::other));
        let (owner, version) = found.map_err(|error| io_at(&path, &error))?;
        check(&path, owner.as_deref().unwrap_or("nobody"), &identity(cluster, me))?;
        disk.version = supported(&path, version)?;
        let mark = disk.mark().map_err(|why| OpenError::Damaged { path, why: why.to_string() })?;
        disk.writes.set(mark.writes);
        Ok(disk)
    }

    /// What the log says of itself, as it is on disk.
    pub(crate) fn mark(&mut self) -> io::Result<LogMark> {
        let mark = mark(self.ready()?).map_err(io::Error::other)?;
        mark.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its mark is missing"))
    }

    /// The number of commits that are durable, as it rises.
    pub(crate) fn writes(&self) -> Writes {
        self.writes.clone()
    }

    pub(super) fn over(
        open: impl Fn(Failed) -> Result<Database, DatabaseError> + Send + 'static,
    ) -> Result<Disk, DatabaseError> {
        let failed = Failed::default();
        let database = Some(open(failed.clone())?);
        let (version, writes) = (VersionRange::SUPPORTED.min, Writes::default());
        Ok(Disk { open: Box::new(open), database, failed, version, writes })
    }

    /// The version of the cluster, as it was noted when the store was opened.
    pub(crate) fn version(&self) -> ClusterVersion {
        self.version
    }

    /// The groups there is a replica of.
    pub(crate) fn groups(&mut self) -> io::Result<Vec<GroupId>> {
        groups(self.ready()?).map_err(io::Error::other)
    }

    /// The database, opened again if need be.
    fn ready(&mut self) -> io::Result<&Database> {
        if self.database.is_none() {
            self.failed = Failed::default();
            let opened = (self.open)(self.failed.clone());
            self.database = Some(opened.map_err(|error| failure(&self.failed, error.into()))?);
        }
        self.database.as_ref().ok_or_else(|| io::Error::other("the store is closed"))
    }
}

fn mark(database: &Database) -> Result<Option<LogMark>, redb::Error> {
    let table = database.begin_read()?.open_table(MARK)?;
    let value = |key| table.get(key).map(|value| value.map(|value| value.value()));
    Ok(value("log")?.zip(value("writes")?).map(|(log, writes)| LogMark { log, writes }))
}

/// Whose the store is, and the version of its cluster as two bytes.
fn owner(database: &Database) -> Result<(Option<String>, Option<Vec<u8>>), redb::Error> {
    let read = database.begin_read()?;
    let table = match read.open_table(IDENTITY) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, None)),
        Err(error) => return Err(error.into()),
    };
    let owner = table.get(OWNER)?;
    let owner = owner.map(|value| String::from_utf8_lossy(value.value()).into_owned());
    let version = table.get(VERSION)?.map(|value| value.value().to_vec());
    Ok((owner, version))
}

pub(super) fn claim(
    database: &Database,
    cluster: ClusterId,
    me: NodeId,
) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(IDENTITY)?;
        table.insert(OWNER, identity(cluster, me).as_bytes())?;
        // The oldest that this build writes: whatever the cluster has, it has no lower version.
        table.insert(VERSION, VersionRange::SUPPORTED.min.prefix().as_slice())?;
    }
    let mut mark = write.open_table(MARK)?;
    mark.insert("log", rand::random::<u64>())?;
    mark.insert("writes", 0)?;
    drop(mark);
    // Made here, so that no reader has to care whether they exist.
    write.open_table(ENTRIES)?;
    write.open_table(VALUES)?;
    write.open_table(PIECES)?;
    write.commit()?;
    Ok(())
}

/// Opens a file that is there: an empty one is a file that was cut off, and redb would begin anew in
/// it.
fn open_file(path: &Path, failed: Failed) -> Result<Database, DatabaseError> {
    let file = File::options().read(true).write(true).open(path).map_err(StorageError::Io)?;
    if file.metadata().map_err(StorageError::Io)?.len() == 0 {
        return Err(StorageError::Corrupted("the file is empty".to_owned()).into());
    }
    builder().create_with_backend(Watched::new(FileBackend::new(file)?, failed))
}

/// What went wrong, as whoever writes has to know it.
fn failure(failed: &Failed, error: redb::Error) -> io::Error {
    match failed.for_want_of_room() {
        true => io::Error::new(io::ErrorKind::StorageFull, error.to_string()),
        false => io::Error::other(error),
    }
}

pub(super) fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Synced, renamed, and the directory synced: there after a power cut, or not.
pub(crate) fn put_in_place(draft: &Path, path: &Path) -> io::Result<()> {
    File::open(draft)?.sync_all()?;
    fs::rename(draft, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

impl Store for Disk {
    fn write(&mut self, changes: &[(GroupId, Change)]) -> io::Result<()> {
        let written = commit(self.ready()?, changes);
        let writes = written.map_err(|error| {
            self.database = None;
            failure(&self.failed, error)
        })?;
        self.writes.set(writes);
        Ok(())
    }

    fn read(&mut self, group: GroupId) -> io::Result<Stored> {
        stored(self.ready()?, group).map_err(io::Error::other)
    }

    fn read_piece(
        &mut self,
        group: GroupId,
        generation: u64,
        number: u32,
    ) -> io::Result<Option<Bytes>> {
        piece(self.ready()?, (group.0, generation, number)).map_err(io::Error::other)
    }
}

/// Makes the changes durable. Returns how many commits there are now.
fn commit(database: &Database, changes: &[(GroupId, Change)]) -> Result<u64, redb::Error> {
    let write = database.begin_write()?;
    apply(&write, changes)?;
    let writes = count(&write)?;
    // redb's default durability: `commit` returns after the fsync.
    write.commit()?;
    Ok(writes)
}

/// Counts the commit that is being made.
fn count(write: &WriteTransaction) -> Result<u64, redb::Error> {
    let mut mark = write.open_table(MARK)?;
    let before = mark.get("writes")?.map_or(0, |writes| writes.value());
    let writes = before.saturating_add(1);
    mark.insert("writes", writes)?;
    Ok(writes)
}

fn apply(write: &WriteTransaction, changes: &[(GroupId, Change)]) -> Result<(), redb::Error> {
    let mut entries = write.open_table(ENTRIES)?;
    let mut values = write.open_table(VALUES)?;
    let mut pieces = write.open_table(PIECES)?;
    for (group, change) in changes {
        let GroupId(id) = *group;
        match change {
            Change::Append { index, record } => {
                entries.insert((id, *index), record.as_ref())?;
            }
            Change::Truncate { from } => drop_entries(&mut entries, id, *from, u64::MAX)?,
            Change::Purge { upto, record } => {
                values.insert((id, Key::Purged as u8), record.as_ref())?;
                drop_entries(&mut entries, id, 0, *upto)?;
            }
            Change::Set { key, record } => {
                values.insert((id, *key as u8), record.as_ref())?;
            }
            Change::Piece { generation, number, record } => {
                pieces.insert((id, *generation, *number), record.as_ref())?;
            }
            Change::Forget { generation } => {
                let all = (id, *generation, 0)..=(id, *generation, u32::MAX);
                pieces.retain_in(all, |_, _| false)?;
            }
            Change::Clear => {
                drop_entries(&mut entries, id, 0, u64::MAX)?;
                for key in [Key::Committed, Key::Purged, Key::Snapshot] {
                    values.remove((id, key as u8))?;
                }
                pieces.retain_in((id, 0, 0)..=(id, u64::MAX, u32::MAX), |_, _| false)?;
            }
            Change::Unset { key } => {
                values.remove((id, *key as u8))?;
            }
            Change::Version(version) => {
                write.open_table(IDENTITY)?.insert(VERSION, version.prefix().as_slice())?;
            }
            Change::Destroy => {
                drop_entries(&mut entries, id, 0, u64::MAX)?;
                values.retain_in((id, 0)..=(id, u8::MAX), |(_, key), _| key == Key::Vote as u8)?;
                values.insert((id, Key::Left as u8), [].as_slice())?;
                pieces.retain_in((id, 0, 0)..=(id, u64::MAX, u32::MAX), |_, _| false)?;
            }
        }
    }
    Ok(())
}

fn drop_entries(
    entries: &mut Table<'_, (u32, u64), &'static [u8]>,
    group: u32,
    from: u64,
    upto: u64,
) -> Result<(), redb::Error> {
    entries.retain_in((group, from)..=(group, upto), |_, _| false)?;
    Ok(())
}

fn groups(database: &Database) -> Result<Vec<GroupId>, redb::Error> {
    let read = database.begin_read()?;
    let (entries, values) = (read.open_table(ENTRIES)?, read.open_table(VALUES)?);
    let mut found = Vec::new();
    let mut next = 0;
    // From group to group, not from record to record: a log may have many.
    loop {
        let entry = entries.range((next, 0)..)?.next().transpose()?.map(|(key, _)| key.value().0);
        let value = values.range((next, 0)..)?.next().transpose()?.map(|(key, _)| key.value().0);
        let Some(group) = entry.into_iter().chain(value).min() else { return Ok(found) };
        let has = |key: Key| values.get((group, key as u8)).map(|value| value.is_some());
        // A build that knows of no mark may have begun the replica again, and left the mark.
        let is_here = entry == Some(group) || has(Key::Purged)? || has(Key::Snapshot)?;
        if is_here || !has(Key::Left)? {
            found.push(GroupId(group));
        }
        let Some(after) = group.checked_add(1) else { return Ok(found) };
        next = after;
    }
}

fn stored(database: &Database, group: GroupId) -> Result<Stored, redb::Error> {
    let read = database.begin_read()?;
    let values = read.open_table(VALUES)?;
    let table = read.open_table(ENTRIES)?;
    let mut entries = Vec::new();
    for entry in table.range((group.0, 0)..=(group.0, u64::MAX))? {
        entries.push(Bytes::copy_from_slice(entry?.1.value()));
    }
    Ok(Stored {
        vote: value(&values, group, Key::Vote)?,
        committed: value(&values, group, Key::Committed)?,
        purged: value(&values, group, Key::Purged)?,
        snapshot: value(&values, group, Key::Snapshot)?,
        recovering: value(&values, group, Key::Recovering)?,
        left: value(&values, group, Key::Left)?,
        generations: generations(&read, group)?,
        entries,
    })
}

fn generations(read: &ReadTransaction, group: GroupId) -> Result<Vec<u64>, redb::Error> {
    let pieces = read.open_table(PIECES)?;
    let mut found = Vec::new();
    let mut next = 0;
    // From the first piece of one to the first of the next.
    while let Some(first) =
        pieces.range((group.0, next, 0)..=(group.0, u64::MAX, u32::MAX))?.next().transpose()?
    {
        let (_, generation, _) = first.0.value();
        found.push(generation);
        next = generation.saturating_add(1);
    }
    Ok(found)
}

fn piece(database: &Database, place: (u32, u64, u32)) -> Result<Option<Bytes>, redb::Error> {
    let pieces = database.begin_read()?.open_table(PIECES)?;
    let piece = pieces.get(place)?;
    Ok(piece.map(|piece| Bytes::copy_from_slice(piece.value())))
}

fn value(
    values: &impl ReadableTable<(u32, u8), &'static [u8]>,
    group: GroupId,
    key: Key,
) -> Result<Option<Bytes>, redb::Error> {
    let value = values.get((group.0, key as u8))?;
    Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
}

fn identity(cluster: ClusterId, me: NodeId) -> String {
    format!("cluster {cluster}, node {me}")
}

fn check(path: &Path, found: &str, wanted: &str) -> Result<(), OpenError> {
    if found == wanted {
        return Ok(());
    }
    // How stores named their owner before there were cluster versions.
    if found.starts_with("format ") {
        return Err(OpenError::Unversioned { path: path.to_owned() });
    }
    Err(OpenError::Foreign {
        path: path.to_owned(),
        found: found.to_owned(),
        wanted: wanted.to_owned(),
    })
}

/// A store without a version is older than cluster versions.
fn supported(path: &Path, version: Option<Vec<u8>>) -> Result<ClusterVersion, OpenError> {
    let version = version.as_deref().and_then(ClusterVersion::split).map(|(version, _)| version);
    let version = version.ok_or_else(|| OpenError::Unversioned { path: path.to_owned() })?;
    let unsupported = |why: UnsupportedVersion| OpenError::Version { path: path.to_owned(), why };
    VersionRange::SUPPORTED.accept(version).map_err(unsupported)
}

fn refused(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::AlreadyOpen { path }
        }
        // redb reports a file that is not one of its own as invalid data.
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != io::ErrorKind::InvalidData
                && error.kind() != io::ErrorKind::UnexpectedEof =>
        {
            io_at(&path, &error)
        }
        error => OpenError::Damaged { path, why: error.to_string() },
    }
}

fn io_at(path: &Path, error: &io::Error) -> OpenError {
    let path = path.to_owned();
    if is_full(error) {
        OpenError::Full { path }
    } else {
        OpenError::Io { path, why: error.to_string() }
    }
}

fn damaged(path: &Path, error: redb::Error) -> OpenError {
    match error {
        redb::Error::Io(error) => io_at(path, &error),
        error => OpenError::Damaged { path: PathBuf::from(path), why: error.to_string() },
    }
}
