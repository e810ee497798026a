//! The directory of a run, which carries all that it keeps on the machine's disk.
//!
//! A run holds a lock in it for as long as it lives. What a run that was killed has left is removed
//! by the next one, which can take that lock.

use std::fs::{self, File};
use std::path::Path;

use tempfile::TempDir;

/// A directory that goes when the run ends well, and stays when it does not.
pub(super) struct Home {
    /// `None` once it is given up.
    directory: Option<TempDir>,
    _lock: File,
}

const PREFIX: &str = "pushonce-rig-";

/// The lock; a directory without it is kept for somebody to read.
const LOCK: &str = "running";

impl Home {
    /// A new one in `parent`, after what dead runs have left there was removed.
    pub(super) fn new(parent: &Path) -> Result<Home, String> {
        sweep(parent);
        Home::make(parent).map_err(|why| format!("no directory in {}: {why}", parent.display()))
    }

    fn make(parent: &Path) -> std::io::Result<Home> {
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // It is there under its name only with the lock taken: nobody can be quicker.
        let (draft, path) = (directory.path().join("draft"), directory.path().join(LOCK));
        let lock = File::create_new(&draft)?;
        lock.lock()?;
        fs::rename(&draft, &path)?;
        Ok(Home { directory: Some(directory), _lock: lock })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.directory.as_ref().expect("until the end").path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let kept = self.directory.take().filter(|_| std::thread::panicking());
        if let Some(kept) = kept.map(TempDir::keep) {
            let _ = fs::remove_file(kept.join(LOCK));
            eprintln!("the volumes are kept in {}", kept.display());
        }
    }
}

/// Removes the directories of runs that are dead.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    for directory in ours.map(|entry| entry.path()).filter(|path| is_left(path)) {
        let _ = fs::remove_dir_all(directory);
    }
}

fn is_left(directory: &Path) -> bool {
    File::open(directory.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_runs_left_is_swept_and_what_lives_or_is_kept_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Home::new(parent.path()).unwrap();
        let dead = parent.path().join("pushonce-rig-dead");
        let kept = parent.path().join("pushonce-rig-kept");
        let other = parent.path().join("other");
        for directory in [&dead, &kept, &other] {
            fs::create_dir(directory).unwrap();
        }
        for directory in [&dead, &other] {
            File::create(directory.join(LOCK)).unwrap();
        }
        let _next = Home::new(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(alive.path().exists() && kept.exists() && other.exists());
    }

    #[test]
    fn a_run_that_ends_well_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        drop(Home::new(parent.path()).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
