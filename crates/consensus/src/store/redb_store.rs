//! The store of a node in a redb file.

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

use super::backend::{FirstFailure, TrackedBackend, is_disk_full};
use super::redb_panic::{RedbPanic, catch_redb_panic};
use super::{LogMark, RaftStore, StoreChange, StoreKey, StoredGroup, WriteCounter};
use crate::network::LogKey;
use crate::{EngineOpenError, GroupId};

/// (group, index) to entry.
const ENTRIES: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("entries");
/// (group, key) to value.
const VALUES: TableDefinition<(u32, u8), &[u8]> = TableDefinition::new("values");
/// (group, generation, number) to a piece of a snapshot.
const PIECES: TableDefinition<(u32, u64, u32), &[u8]> = TableDefinition::new("pieces");
/// The random id of the log and its number of commits.
const LOG_MARK: TableDefinition<&str, u64> = TableDefinition::new("mark");
/// The owner of the store and the version of its cluster.
const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");
/// Keys of [`IDENTITY`].
const OWNER_KEY: &str = "owner";
const VERSION_KEY: &str = "version";
/// A secret of the store, since its creation.
const LOG_KEY: &str = "log-key";

/// The store file of a node.
pub(crate) const STORE_FILE: &str = "raft.redb";
/// The store file during creation, because a process may die between any two writes.
const STORE_TEMP_FILE: &str = "raft.redb.new";

/// Entries stay in memory until they are purged and are read only at a start: the page cache has little use,
/// and redb's default is one gigabyte.
const CACHE_BYTES: usize = 32 << 20;

/// The redb file of a node, locked while it is open.
pub(crate) struct RedbStore {
    opener: Box<Opener>,
    database: DatabaseState,
    first_failure: FirstFailure,
    version: ClusterVersion,
    write_counter: WriteCounter,
}

enum DatabaseState {
    Open(Database),
    /// A write failed for lack of space: redb then rejects all calls, and its memory holds a commit that did not
    /// happen. Opened again with the next call.
    Closed,
    /// redb panicked: the file is damaged.
    Damaged(RedbPanic),
}

/// Opens the file and tracks failures.
type Opener = dyn Fn(FirstFailure) -> Result<Database, DatabaseError> + Send;

impl RedbStore {
    /// Creates the store file of this node of this cluster, atomically. `Ok` when it exists already.
    pub(crate) fn create(
        dir: &Path,
        cluster: ClusterId,
        me: NodeId,
    ) -> Result<(), EngineOpenError> {
        let path = dir.join(STORE_FILE);
        if fs::exists(&path).map_err(|error| io_error(&path, &error))? {
            return RedbStore::open(dir, cluster, me).map(drop);
        }
        fs::create_dir_all(dir).map_err(|error| io_error(dir, &error))?;
        let temp_path = dir.join(STORE_TEMP_FILE);
        // Left by an attempt that was interrupted. It contains only the identity.
        match fs::remove_file(&temp_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(&temp_path, &error));
            }
            _ => {}
        }
        let database =
            redb_builder().create(&temp_path).map_err(|error| open_error(&temp_path, error))?;
        write_identity(&database, cluster, me).map_err(|error| create_error(&temp_path, error))?;
        drop(database);
        rename_durably(&temp_path, &path).map_err(|error| io_error(&path, &error))
    }

    /// Whether the store file exists. A path that cannot be read counts as present, because the caller must
    /// not create a second store there.
    pub(crate) fn exists(dir: &Path) -> bool {
        fs::exists(dir.join(STORE_FILE)).unwrap_or(true)
    }

    /// Opens the store file of this node of this cluster.
    ///
    /// A missing file is not created again: its votes are lost, and a node that votes twice in one term can
    /// elect two leaders.
    pub(crate) fn open(
        dir: &Path,
        cluster: ClusterId,
        me: NodeId,
    ) -> Result<RedbStore, EngineOpenError> {
        let path = dir.join(STORE_FILE);
        if !fs::exists(&path).map_err(|error| io_error(&path, &error))? {
            return Err(EngineOpenError::Missing { path });
        }
        let file = path.clone();
        let store = RedbStore::with_opener(move |failed| open_file(&file, failed));
        let mut store = store.map_err(|error| open_error(&path, error))?;
        let stored_identity = store.with_database(read_identity);
        let (owner, version) = stored_identity.map_err(|error| read_error(&path, &error))?;
        check_identity(
            &path,
            owner.as_deref().unwrap_or("no owner"),
            &format_identity(cluster, me),
        )?;
        store.version = check_version(&path, version)?;
        let log_mark = store
            .read_log_mark()
            .map_err(|error| EngineOpenError::Damaged { path, reason: error.to_string() })?;
        store.write_counter.set(log_mark.writes);
        Ok(store)
    }

    /// Reads the log mark on disk.
    pub(crate) fn read_log_mark(&mut self) -> io::Result<LogMark> {
        let log_mark = self.with_database(read_log_mark)?;
        log_mark
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the log mark is missing"))
    }

    /// The key of the store; `None` for one that an earlier build created.
    pub(crate) fn read_log_key(&mut self) -> io::Result<Option<LogKey>> {
        self.with_database(read_log_key)
    }

    /// The number of durable commits, updated with each commit.
    pub(crate) fn write_counter(&self) -> WriteCounter {
        self.write_counter.clone()
    }

    pub(super) fn with_opener(
        opener: impl Fn(FirstFailure) -> Result<Database, DatabaseError> + Send + 'static,
    ) -> Result<RedbStore, DatabaseError> {
        let first_failure = FirstFailure::default();
        let database = DatabaseState::Open(open_with(&opener, first_failure.clone())?);
        let (version, write_counter) = (VersionRange::supported().min, WriteCounter::default());
        Ok(RedbStore { opener: Box::new(opener), database, first_failure, version, write_counter })
    }

    /// The version of the cluster when the store was opened.
    pub(crate) fn version(&self) -> ClusterVersion {
        self.version
    }

    /// The groups that have a replica.
    pub(crate) fn groups(&mut self) -> io::Result<Vec<GroupId>> {
        self.with_database(read_groups)
    }

    /// Uses the database, opened again if it was closed.
    fn with_database<T>(
        &mut self,
        operation: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> io::Result<T> {
        if let DatabaseState::Closed = self.database {
            self.first_failure = FirstFailure::default();
            let opened = open_with(&self.opener, self.first_failure.clone());
            self.database = DatabaseState::Open(
                opened.map_err(|error| to_io_error(&self.first_failure, error.into()))?,
            );
        }
        let panic = match &self.database {
            DatabaseState::Open(database) => match catch_redb_panic(|| operation(database)) {
                Ok(result) => return result.map_err(|e| to_io_error(&self.first_failure, e)),
                Err(panic) => panic,
            },
            DatabaseState::Damaged(panic) => panic.clone(),
            DatabaseState::Closed => return Err(io::Error::other("the store is closed")),
        };
        let before = std::mem::replace(&mut self.database, DatabaseState::Damaged(panic.clone()));
        // Not closed: that would write what the damaged page made wrong.
        std::mem::forget(before);
        Err(io::Error::new(io::ErrorKind::InvalidData, panic))
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        let database = std::mem::replace(&mut self.database, DatabaseState::Closed);
        if let Err(error) = catch_redb_panic(|| drop(database)) {
            tracing::error!(%error, "the log was not closed");
        }
    }
}

fn open_with(opener: &Opener, first_failure: FirstFailure) -> Result<Database, DatabaseError> {
    catch_redb_panic(|| opener(first_failure))
        .unwrap_or_else(|panic| Err(StorageError::Corrupted(panic.to_string()).into()))
}

fn read_log_mark(database: &Database) -> Result<Option<LogMark>, redb::Error> {
    let table = database.begin_read()?.open_table(LOG_MARK)?;
    let value = |key| table.get(key).map(|value| value.map(|value| value.value()));
    Ok(value("log")?.zip(value("writes")?).map(|(log, writes)| LogMark { log, writes }))
}

fn read_log_key(database: &Database) -> Result<Option<LogKey>, redb::Error> {
    let secret = database.begin_read()?.open_table(IDENTITY)?.get(LOG_KEY)?;
    Ok(secret.map(|secret| LogKey::new(secret.value())))
}

/// Reads the owner of the store, and the version of its cluster as two bytes.
fn read_identity(database: &Database) -> Result<(Option<String>, Option<Vec<u8>>), redb::Error> {
    let read = database.begin_read()?;
    let table = match read.open_table(IDENTITY) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, None)),
        Err(error) => return Err(error.into()),
    };
    let owner = table.get(OWNER_KEY)?;
    let owner = owner.map(|value| String::from_utf8_lossy(value.value()).into_owned());
    let version = table.get(VERSION_KEY)?.map(|value| value.value().to_vec());
    Ok((owner, version))
}

pub(super) fn write_identity(
    database: &Database,
    cluster: ClusterId,
    me: NodeId,
) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(IDENTITY)?;
        table.insert(OWNER_KEY, format_identity(cluster, me).as_bytes())?;
        // The oldest version that this build writes: the cluster's version is not lower.
        table.insert(VERSION_KEY, VersionRange::supported().min.prefix().as_slice())?;
        table.insert(LOG_KEY, LogKey::draw_secret().as_slice())?;
    }
    let mut mark = write.open_table(LOG_MARK)?;
    mark.insert("log", rand::random::<u64>())?;
    mark.insert("writes", 0)?;
    drop(mark);
    // Created here, so that readers can rely on them.
    write.open_table(ENTRIES)?;
    write.open_table(VALUES)?;
    write.open_table(PIECES)?;
    write.commit()?;
    Ok(())
}

/// Opens an existing file. An empty one was truncated, and redb would initialise it as a new database.
fn open_file(path: &Path, first_failure: FirstFailure) -> Result<Database, DatabaseError> {
    let file = File::options().read(true).write(true).open(path).map_err(StorageError::Io)?;
    if file.metadata().map_err(StorageError::Io)?.len() == 0 {
        return Err(StorageError::Corrupted("the file is empty".to_owned()).into());
    }
    redb_builder().create_with_backend(TrackedBackend::new(FileBackend::new(file)?, first_failure))
}

/// Converts an error, so that a full disk can be recognised.
fn to_io_error(first_failure: &FirstFailure, error: redb::Error) -> io::Error {
    match first_failure.is_disk_full() {
        true => io::Error::new(io::ErrorKind::StorageFull, error.to_string()),
        false => io::Error::other(error),
    }
}

pub(super) fn redb_builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Syncs and renames a file and syncs its directory: after a power cut it is complete or absent.
pub(crate) fn rename_durably(temp_path: &Path, path: &Path) -> io::Result<()> {
    File::open(temp_path)?.sync_all()?;
    fs::rename(temp_path, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

impl RaftStore for RedbStore {
    fn write(&mut self, changes: &[(GroupId, StoreChange)]) -> io::Result<()> {
        let written = self.with_database(|database| commit(database, changes));
        if let (Err(_), DatabaseState::Open(_)) = (&written, &self.database) {
            self.database = DatabaseState::Closed;
        }
        self.write_counter.set(written?);
        Ok(())
    }

    fn read(&mut self, group: GroupId) -> io::Result<StoredGroup> {
        self.with_database(|database| read_group(database, group))
    }

    fn read_piece(
        &mut self,
        group: GroupId,
        generation: u64,
        number: u32,
    ) -> io::Result<Option<Bytes>> {
        self.with_database(|database| read_piece(database, (group.0, generation, number)))
    }
}

/// Makes the changes durable. Returns the new number of commits.
fn commit(database: &Database, changes: &[(GroupId, StoreChange)]) -> Result<u64, redb::Error> {
    let write = database.begin_write()?;
    apply_changes(&write, changes)?;
    let writes = increment_write_counter(&write)?;
    // redb's default durability: `commit` returns after the fsync.
    write.commit()?;
    Ok(writes)
}

/// Counts the commit that is in progress.
fn increment_write_counter(write: &WriteTransaction) -> Result<u64, redb::Error> {
    let mut mark = write.open_table(LOG_MARK)?;
    let before = mark.get("writes")?.map_or(0, |writes| writes.value());
    let writes = before.saturating_add(1);
    mark.insert("writes", writes)?;
    Ok(writes)
}

fn apply_changes(
    write: &WriteTransaction,
    changes: &[(GroupId, StoreChange)],
) -> Result<(), redb::Error> {
    let mut entries = write.open_table(ENTRIES)?;
    let mut values = write.open_table(VALUES)?;
    let mut pieces = write.open_table(PIECES)?;
    for (group, change) in changes {
        let GroupId(id) = *group;
        match change {
            StoreChange::Append { index, record } => {
                entries.insert((id, *index), record.as_ref())?;
            }
            StoreChange::Truncate { from } => drop_entries(&mut entries, id, *from, u64::MAX)?,
            StoreChange::Purge { upto, record } => {
                values.insert((id, StoreKey::Purged as u8), record.as_ref())?;
                drop_entries(&mut entries, id, 0, *upto)?;
            }
            StoreChange::Set { key, record } => {
                values.insert((id, *key as u8), record.as_ref())?;
            }
            StoreChange::PutPiece { generation, number, record } => {
                pieces.insert((id, *generation, *number), record.as_ref())?;
            }
            StoreChange::DeletePieces { generation } => {
                let all = (id, *generation, 0)..=(id, *generation, u32::MAX);
                pieces.retain_in(all, |_, _| false)?;
            }
            StoreChange::ClearReplica => {
                drop_entries(&mut entries, id, 0, u64::MAX)?;
                for key in [StoreKey::Committed, StoreKey::Purged, StoreKey::Snapshot] {
                    values.remove((id, key as u8))?;
                }
                pieces.retain_in((id, 0, 0)..=(id, u64::MAX, u32::MAX), |_, _| false)?;
            }
            StoreChange::Remove { key } => {
                values.remove((id, *key as u8))?;
            }
            StoreChange::SetVersion(version) => {
                write.open_table(IDENTITY)?.insert(VERSION_KEY, version.prefix().as_slice())?;
            }
            StoreChange::Destroy => {
                drop_entries(&mut entries, id, 0, u64::MAX)?;
                values.retain_in((id, 0)..=(id, u8::MAX), |(_, key), _| {
                    key == StoreKey::Vote as u8
                })?;
                values.insert((id, StoreKey::Removed as u8), [].as_slice())?;
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

fn read_groups(database: &Database) -> Result<Vec<GroupId>, redb::Error> {
    let read = database.begin_read()?;
    let (entries, values) = (read.open_table(ENTRIES)?, read.open_table(VALUES)?);
    let mut found = Vec::new();
    let mut next = 0;
    // Seeks from group to group instead of scanning, because a log may have many records.
    loop {
        let entry = entries.range((next, 0)..)?.next().transpose()?.map(|(key, _)| key.value().0);
        let value = values.range((next, 0)..)?.next().transpose()?.map(|(key, _)| key.value().0);
        let Some(group) = entry.into_iter().chain(value).min() else { return Ok(found) };
        let has = |key: StoreKey| values.get((group, key as u8)).map(|value| value.is_some());
        // A build without the mark may have started the replica again and kept the mark.
        let has_data = entry == Some(group) || has(StoreKey::Purged)? || has(StoreKey::Snapshot)?;
        if has_data || !has(StoreKey::Removed)? {
            found.push(GroupId(group));
        }
        let Some(after) = group.checked_add(1) else { return Ok(found) };
        next = after;
    }
}

fn read_group(database: &Database, group: GroupId) -> Result<StoredGroup, redb::Error> {
    let read = database.begin_read()?;
    let values = read.open_table(VALUES)?;
    let table = read.open_table(ENTRIES)?;
    let mut entries = Vec::new();
    for entry in table.range((group.0, 0)..=(group.0, u64::MAX))? {
        entries.push(Bytes::copy_from_slice(entry?.1.value()));
    }
    Ok(StoredGroup {
        vote: read_value(&values, group, StoreKey::Vote)?,
        committed: read_value(&values, group, StoreKey::Committed)?,
        purged: read_value(&values, group, StoreKey::Purged)?,
        snapshot: read_value(&values, group, StoreKey::Snapshot)?,
        recovering: read_value(&values, group, StoreKey::Recovering)?,
        removed: read_value(&values, group, StoreKey::Removed)?,
        generations: read_generations(&read, group)?,
        entries,
    })
}

fn read_generations(read: &ReadTransaction, group: GroupId) -> Result<Vec<u64>, redb::Error> {
    let pieces = read.open_table(PIECES)?;
    let mut found = Vec::new();
    let mut next = 0;
    // Seeks from the first piece of one generation to the first of the next.
    while let Some(first) =
        pieces.range((group.0, next, 0)..=(group.0, u64::MAX, u32::MAX))?.next().transpose()?
    {
        let (_, generation, _) = first.0.value();
        found.push(generation);
        next = generation.saturating_add(1);
    }
    Ok(found)
}

fn read_piece(database: &Database, key: (u32, u64, u32)) -> Result<Option<Bytes>, redb::Error> {
    let pieces = database.begin_read()?.open_table(PIECES)?;
    let piece = pieces.get(key)?;
    Ok(piece.map(|piece| Bytes::copy_from_slice(piece.value())))
}

fn read_value(
    values: &impl ReadableTable<(u32, u8), &'static [u8]>,
    group: GroupId,
    key: StoreKey,
) -> Result<Option<Bytes>, redb::Error> {
    let value = values.get((group.0, key as u8))?;
    Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
}

fn format_identity(cluster: ClusterId, me: NodeId) -> String {
    format!("cluster {cluster}, node {me}")
}

fn check_identity(path: &Path, actual: &str, expected: &str) -> Result<(), EngineOpenError> {
    if actual == expected {
        return Ok(());
    }
    // The identity format before cluster versions.
    if actual.starts_with("format ") {
        return Err(EngineOpenError::Unversioned { path: path.to_owned() });
    }
    Err(EngineOpenError::Foreign {
        path: path.to_owned(),
        found: actual.to_owned(),
        wanted: expected.to_owned(),
    })
}

/// Checks the version of a store. A store without one is older than cluster versions.
fn check_version(path: &Path, version: Option<Vec<u8>>) -> Result<ClusterVersion, EngineOpenError> {
    let version =
        version.as_deref().and_then(ClusterVersion::split_prefix).map(|(version, _)| version);
    let version = version.ok_or_else(|| EngineOpenError::Unversioned { path: path.to_owned() })?;
    let unsupported = |reason: UnsupportedVersion| EngineOpenError::UnsupportedVersion {
        path: path.to_owned(),
        reason,
    };
    VersionRange::supported().ensure_contains(version).map_err(unsupported)
}

fn open_error(path: &Path, error: DatabaseError) -> EngineOpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            EngineOpenError::AlreadyOpen { path }
        }
        // redb reports a file that is not a database as invalid data.
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != io::ErrorKind::InvalidData
                && error.kind() != io::ErrorKind::UnexpectedEof =>
        {
            io_error(&path, &error)
        }
        error => EngineOpenError::Damaged { path, reason: error.to_string() },
    }
}

/// The error of a read while the store is opened.
fn read_error(path: &Path, error: &io::Error) -> EngineOpenError {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            EngineOpenError::Damaged { path: path.to_owned(), reason: error.to_string() }
        }
        _ => io_error(path, error),
    }
}

fn io_error(path: &Path, error: &io::Error) -> EngineOpenError {
    let path = path.to_owned();
    if is_disk_full(error) {
        EngineOpenError::DiskFull { path }
    } else {
        EngineOpenError::Io { path, reason: error.to_string() }
    }
}

fn create_error(path: &Path, error: redb::Error) -> EngineOpenError {
    match error {
        redb::Error::Io(error) => io_error(path, &error),
        error => EngineOpenError::Damaged { path: PathBuf::from(path), reason: error.to_string() },
    }
}
