//! The files of keys and certificates.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Maximum size of a file: a bundle of hundreds of certificates.
const BYTES_MAX: u64 = 1 << 20;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// The owner only: for keys.
    Owner,
    /// Everyone: for certificates.
    Everyone,
}

/// A file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {error}", path = .path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl FileError {
    /// The error of the operating system.
    pub fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }
}

/// Reads a file of at most 1 MiB as text.
///
/// # Errors
/// [`FileError`] when it cannot be read, is longer, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, FileError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > BYTES_MAX {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        Ok(text)
    };
    read().map_err(file_error("read", path))
}

/// Writes a file that must not exist.
///
/// # Errors
/// [`FileError`] when it exists or cannot be written.
pub fn create(path: &Path, text: &str, readers: Readers) -> Result<(), FileError> {
    let create = || {
        let mut file = options(readers).create_new(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        sync_directory(path)
    };
    create().map_err(file_error("create", path))
}

/// Writes a file, in place of an older one if there is one. A reader gets one of the two completely, also after
/// a power failure.
///
/// # Errors
/// [`FileError`] when it cannot be written.
pub fn replace(path: &Path, text: &str, readers: Readers) -> Result<(), FileError> {
    let replace = || {
        let temporary_path = path.with_extension("new");
        // An older one may have the rights of other readers.
        match fs::remove_file(&temporary_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = options(readers).create_new(true).open(&temporary_path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary_path, path)?;
        sync_directory(path)
    };
    replace().map_err(file_error("write", path))
}

fn options(readers: Readers) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(match readers {
        Readers::Owner => 0o600,
        Readers::Everyone => 0o644,
    });
    options
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |error| FileError { action, path, error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").permissions().mode() & 0o777
    }

    #[test]
    fn key_is_readable_by_its_owner_only_and_never_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.key");
        create(&path, "one", Readers::Owner).expect("created");
        assert_eq!(mode(&path), 0o600);
        let again = create(&path, "two", Readers::Owner).expect_err("it exists");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path).expect("reads"), "one");
    }

    #[test]
    fn replaced_file_has_the_rights_of_the_new_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.key");
        fs::write(path.with_extension("new"), "left by a crash").expect("written");
        create(&path, "one", Readers::Everyone).expect("created");
        replace(&path, "two", Readers::Owner).expect("replaced");
        assert_eq!((read(&path).expect("reads").as_str(), mode(&path)), ("two", 0o600));
    }

    #[test]
    fn file_that_cannot_be_used_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let large = dir.path().join("large");
        fs::write(&large, vec![b'a'; BYTES_MAX as usize + 1]).expect("written");
        for path in [large, dir.path().join("missing")] {
            let error = read(&path).expect_err("unusable").to_string();
            assert!(error.contains(path.to_str().expect("UTF-8")), "{error}");
        }
    }
}
