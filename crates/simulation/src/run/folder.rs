//! The folder of a run.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The folder for the files of a run: in memory, where the system has such a place. Errors of nodes name their files, so
/// equal seeds need equal names.
pub struct RunFolder {
    path: PathBuf,
    /// Locked while the run lasts.
    _lock: fs::File,
}

impl RunFolder {
    /// Creates an empty folder. While another run of the same seed has it, waits.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(seed: u64) -> io::Result<RunFolder> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("pushonce-simulation-{seed}"));
        let lock = lock(&path.with_extension("lock"))?;
        // Left by a run that was ended from outside.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(&path)?;
        Ok(RunFolder { path, _lock: lock })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes the folder.
    pub fn remove(&self) {
        // What cannot be deleted is deleted by the next run of the seed.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(self.path.with_extension("lock"));
    }
}

/// Creates and locks a file. A run deletes its lock at the end, so a lock that was waited for may be of a deleted file.
fn lock(path: &Path) -> io::Result<fs::File> {
    loop {
        let file = fs::File::create(path)?;
        file.lock()?;
        let is_current = fs::metadata(path)
            .is_ok_and(|there| file.metadata().is_ok_and(|own| there.ino() == own.ino()));
        if is_current {
            return Ok(file);
        }
    }
}
