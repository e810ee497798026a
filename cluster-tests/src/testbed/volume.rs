//! A disk per host: a small ext4 filesystem in a file, mounted only in the host's namespace. It can lose
//! power and be filled.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::host::{self, NamespaceHost};
use super::kernel;

/// A volume, mounted or not.
pub(super) struct Volume {
    /// The sparse file with the filesystem.
    image: PathBuf,
    mount_point: PathBuf,
}

/// The size: enough for a node and some minutes of load, and small enough to be filled quickly.
const VOLUME_BYTES: u64 = 256 << 20;

/// The file that fills the volume.
const BALLAST_FILE: &str = "ballast";

impl Volume {
    /// Creates an empty filesystem in `dir` without mounting it.
    pub(super) fn new(dir: &Path, name: &str) -> Result<Volume, String> {
        let image = dir.join(format!("{name}.ext4"));
        let mount_point = dir.join(name);
        let created = File::create_new(&image).and_then(|file| file.set_len(VOLUME_BYTES));
        created
            .and_then(|()| fs::create_dir(&mount_point))
            .map_err(|error| format!("{name}: {error}"))?;
        // No space is reserved for root, so that a full volume is full.
        let image_name = image.display();
        host::run_command(&format!(
            "mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard {image_name}"
        ))?;
        Ok(Volume { image, mount_point })
    }

    /// The mount point in the host's namespace.
    pub(super) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Mounts the volume on its host, which replays the journal if necessary.
    pub(super) fn mount(&self, host: &NamespaceHost) -> Result<(), String> {
        let (image, mount_point) = (self.image.display(), self.mount_point.display());
        // The loop device is released with the mount.
        host.run_command(&format!("mount -t ext4 -o loop,noinit_itable {image} {mount_point}"))
    }

    /// Unmounts the volume. No process may use it.
    pub(super) fn unmount(&self, host: &NamespaceHost) -> Result<(), String> {
        let line = format!("umount {}", self.mount_point.display());
        // The kernel may still be closing files of a process that was just killed.
        let mut last = host.run_command(&line);
        for _ in 0..50 {
            if last.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            last = host.run_command(&line);
        }
        last
    }

    /// Cuts the power: data without an fsync is lost, and every write fails until the volume is unmounted and
    /// mounted again.
    pub(super) fn cut_power(&self, host: &NamespaceHost) -> Result<(), String> {
        let mount_point = host.path_from_outside(&self.mount_point);
        let cut = File::open(&mount_point).map(kernel::cut_power);
        let cut = cut.map_err(|error| error.to_string())?;
        cut.map_err(|error| format!("cannot shut down {}: {error}", self.mount_point.display()))
    }

    /// Fills the volume to the last block; returns the number of bytes that were allocated this time.
    pub(super) fn fill(&self, host: &NamespaceHost) -> Result<u64, String> {
        self.grow_ballast(host)
            .map_err(|error| format!("cannot fill {}: {error}", self.mount_point.display()))
    }

    fn grow_ballast(&self, host: &NamespaceHost) -> std::io::Result<u64> {
        let path = host.path_from_outside(&self.mount_point.join(BALLAST_FILE));
        let file = File::options().create(true).append(true).open(path)?;
        let before = file.metadata()?.len();
        let mut length = before;
        for block in [64 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while try_grow(&file, length, block)? {
                length += block;
            }
        }
        Ok(length - before)
    }

    /// Frees the space again.
    pub(super) fn free(&self, host: &NamespaceHost) -> Result<(), String> {
        match fs::remove_file(host.path_from_outside(&self.mount_point.join(BALLAST_FILE))) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    }
}

/// Extends a file by `more` bytes; returns whether there was space for them.
fn try_grow(file: &File, length: u64, more: u64) -> std::io::Result<bool> {
    match fallocate(file, FallocateFlags::empty(), length, more) {
        Ok(()) => Ok(true),
        // A part of it may have been allocated.
        Err(Errno::NOSPC) => file.set_len(length).map(|()| false),
        Err(error) => Err(error.into()),
    }
}
