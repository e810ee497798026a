//! The directory with all files of a run.
//!
//! A run holds a lock file in it until it ends. The next run removes the directories of killed runs, whose
//! locks it can take.

use std::fs::{self, File};
use std::path::Path;

use tempfile::TempDir;

/// A directory that is removed when the run succeeds, and kept when it fails.
pub(super) struct RunDir {
    /// `None` once it is removed or kept.
    directory: Option<TempDir>,
    _lock: File,
}

const DIR_PREFIX: &str = "pushonce-rig-";

/// The lock file. A directory without it is kept.
const LOCK_FILE: &str = "running";

impl RunDir {
    /// Creates a directory in `parent`, after removing those of killed runs.
    pub(super) fn new(parent: &Path) -> Result<RunDir, String> {
        remove_stale(parent);
        RunDir::create(parent)
            .map_err(|error| format!("cannot create a directory in {}: {error}", parent.display()))
    }

    fn create(parent: &Path) -> std::io::Result<RunDir> {
        let directory = tempfile::Builder::new().prefix(DIR_PREFIX).tempdir_in(parent)?;
        // The file gets its name only after it is locked, so that no other run can take the lock first.
        let (draft, path) = (directory.path().join("draft"), directory.path().join(LOCK_FILE));
        let lock = File::create_new(&draft)?;
        lock.lock()?;
        fs::rename(&draft, &path)?;
        Ok(RunDir { directory: Some(directory), _lock: lock })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.directory.as_ref().expect("the directory exists until the run is dropped").path()
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let kept = self.directory.take().filter(|_| std::thread::panicking());
        if let Some(kept) = kept.map(TempDir::keep) {
            let _ = fs::remove_file(kept.join(LOCK_FILE));
            eprintln!("the volumes are kept in {}", kept.display());
        }
    }
}

/// Removes the directories of killed runs.
fn remove_stale(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(DIR_PREFIX));
    for directory in ours.map(|entry| entry.path()).filter(|path| is_stale(path)) {
        let _ = fs::remove_dir_all(directory);
    }
}

fn is_stale(directory: &Path) -> bool {
    File::open(directory.join(LOCK_FILE)).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_directories_are_removed_and_live_and_kept_ones_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let alive = RunDir::new(parent.path()).unwrap();
        let dead = parent.path().join("pushonce-rig-dead");
        let kept = parent.path().join("pushonce-rig-kept");
        let other = parent.path().join("other");
        for directory in [&dead, &kept, &other] {
            fs::create_dir(directory).unwrap();
        }
        for directory in [&dead, &other] {
            File::create(directory.join(LOCK_FILE)).unwrap();
        }
        let _next = RunDir::new(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(alive.path().exists() && kept.exists() && other.exists());
    }

    #[test]
    fn run_that_succeeds_leaves_no_directory() {
        let parent = tempfile::tempdir().unwrap();
        drop(RunDir::new(parent.path()).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
