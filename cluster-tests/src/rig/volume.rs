//! A disk of its own for each host: a small ext4 filesystem in a file, mounted where only that host
//! sees it. It can lose its power, and be full.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::host::{self, Host};
use super::kernel;

/// A volume, mounted or not.
pub(super) struct Volume {
    /// The file it is in. It is sparse: it takes what is written.
    image: PathBuf,
    at: PathBuf,
}

/// Room for a node and its load for some minutes; little enough to be filled in no time.
const BYTES: u64 = 256 << 20;

/// What takes the room when the volume is to be full.
const BALLAST: &str = "ballast";

impl Volume {
    /// Makes an empty one in `home`, not mounted.
    pub(super) fn new(home: &Path, name: &str) -> Result<Volume, String> {
        let image = home.join(format!("{name}.ext4"));
        let at = home.join(name);
        let made = File::create_new(&image).and_then(|file| file.set_len(BYTES));
        made.and_then(|()| fs::create_dir(&at)).map_err(|why| format!("{name}: {why}"))?;
        // No room is kept for root: full is full.
        let image_name = image.display();
        host::command(&format!("mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard {image_name}"))?;
        Ok(Volume { image, at })
    }

    /// Where it is mounted, as its host says.
    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// Mounts it at its host, and repairs it by its journal if it must.
    pub(super) fn mount(&self, host: &Host) -> Result<(), String> {
        let (image, at) = (self.image.display(), self.at.display());
        // The loop device goes with the mount.
        host.command(&format!("mount -t ext4 -o loop,noinit_itable {image} {at}"))
    }

    /// Takes it away again. Nobody may use it.
    pub(super) fn unmount(&self, host: &Host) -> Result<(), String> {
        let line = format!("umount {}", self.at.display());
        // The kernel may be closing files of a process that has just been killed.
        let mut last = host.command(&line);
        for _ in 0..50 {
            if last.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            last = host.command(&line);
        }
        last
    }

    /// Cuts the power: what was not fsynced is lost, and every write fails from now on, until it is
    /// unmounted and mounted again.
    pub(super) fn cut_power(&self, host: &Host) -> Result<(), String> {
        let at = host.outside(&self.at);
        let cut = File::open(&at).map(kernel::cut_power);
        let cut = cut.map_err(|why| why.to_string())?;
        cut.map_err(|why| format!("no shutdown of {}: {why}", self.at.display()))
    }

    /// Takes all the room there is, to the last block; says how many bytes that was this time.
    pub(super) fn fill(&self, host: &Host) -> Result<u64, String> {
        self.take_all(host).map_err(|why| format!("filling {}: {why}", self.at.display()))
    }

    fn take_all(&self, host: &Host) -> std::io::Result<u64> {
        let path = host.outside(&self.at.join(BALLAST));
        let file = File::options().create(true).append(true).open(path)?;
        let before = file.metadata()?.len();
        let mut length = before;
        for block in [64 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while takes(&file, length, block)? {
                length += block;
            }
        }
        Ok(length - before)
    }

    /// Gives the room back.
    pub(super) fn free(&self, host: &Host) -> Result<(), String> {
        match fs::remove_file(host.outside(&self.at.join(BALLAST))) {
            Err(why) if why.kind() != ErrorKind::NotFound => Err(why.to_string()),
            _ => Ok(()),
        }
    }
}

/// Gives a file so much more; whether there was room for it.
fn takes(file: &File, length: u64, more: u64) -> std::io::Result<bool> {
    match fallocate(file, FallocateFlags::empty(), length, more) {
        Ok(()) => Ok(true),
        // A part of it may have been given all the same.
        Err(Errno::NOSPC) => file.set_len(length).map(|()| false),
        Err(why) => Err(why.into()),
    }
}
