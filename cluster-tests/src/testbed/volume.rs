//! A disk of its own for each host: a small ext4 filesystem in a file, mounted where only that host
//! sees it. It can lose its power, and be full.

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
    /// The file it is in. It is sparse: it takes what is written.
    image: PathBuf,
    mount_point: PathBuf,
}

/// Room for a node and its load for some minutes; little enough to be filled in no time.
const VOLUME_BYTES: u64 = 256 << 20;

/// What takes the room when the volume is to be full.
const BALLAST_FILE: &str = "ballast";

impl Volume {
    /// Makes an empty one in `home`, not mounted.
    pub(super) fn new(dir: &Path, name: &str) -> Result<Volume, String> {
        let image = dir.join(format!("{name}.ext4"));
        let mount_point = dir.join(name);
        let created = File::create_new(&image).and_then(|file| file.set_len(VOLUME_BYTES));
        created
            .and_then(|()| fs::create_dir(&mount_point))
            .map_err(|error| format!("{name}: {error}"))?;
        // No room is kept for root: full is full.
        let image_name = image.display();
        host::run_command(&format!(
            "mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard {image_name}"
        ))?;
        Ok(Volume { image, mount_point })
    }

    /// Where it is mounted, as its host says.
    pub(super) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Mounts it at its host, and repairs it by its journal if it must.
    pub(super) fn mount(&self, host: &NamespaceHost) -> Result<(), String> {
        let (image, mount_point) = (self.image.display(), self.mount_point.display());
        // The loop device goes with the mount.
        host.run_command(&format!("mount -t ext4 -o loop,noinit_itable {image} {mount_point}"))
    }

    /// Takes it away again. Nobody may use it.
    pub(super) fn unmount(&self, host: &NamespaceHost) -> Result<(), String> {
        let line = format!("umount {}", self.mount_point.display());
        // The kernel may be closing files of a process that has just been killed.
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

    /// Cuts the power: what was not fsynced is lost, and every write fails from now on, until it is
    /// unmounted and mounted again.
    pub(super) fn cut_power(&self, host: &NamespaceHost) -> Result<(), String> {
        let mount_point = host.path_from_outside(&self.mount_point);
        let cut = File::open(&mount_point).map(kernel::cut_power);
        let cut = cut.map_err(|error| error.to_string())?;
        cut.map_err(|error| format!("no shutdown of {}: {error}", self.mount_point.display()))
    }

    /// Takes all the room there is, to the last block; says how many bytes that was this time.
    pub(super) fn fill(&self, host: &NamespaceHost) -> Result<u64, String> {
        self.grow_ballast(host)
            .map_err(|error| format!("filling {}: {error}", self.mount_point.display()))
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

    /// Gives the room back.
    pub(super) fn free(&self, host: &NamespaceHost) -> Result<(), String> {
        match fs::remove_file(host.path_from_outside(&self.mount_point.join(BALLAST_FILE))) {
            Err(why) if why.kind() != ErrorKind::NotFound => Err(why.to_string()),
            _ => Ok(()),
        }
    }
}

/// Gives a file so much more; whether there was room for it.
fn try_grow(file: &File, length: u64, more: u64) -> std::io::Result<bool> {
    match fallocate(file, FallocateFlags::empty(), length, more) {
        Ok(()) => Ok(true),
        // A part of it may have been given all the same.
        Err(Errno::NOSPC) => file.set_len(length).map(|()| false),
        Err(error) => Err(error.into()),
    }
}
