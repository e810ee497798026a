//! Files: those of the system, whose changes the disk of the host remembers.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use libc::{c_int, mode_t, off_t, size_t, ssize_t};

use super::fail;
use super::real::real;
use crate::kernel::{self, Change, DiskVerdict, Repair, SyncStart, current_thread};

/// What the system would say about itself: a simulated process cannot read it, and it would differ in each run.
const FOLDERS_OF_THE_SYSTEM: [&str; 2] = ["/proc/", "/sys/"];

fn path_from(text: *const c_char) -> PathBuf {
    // SAFETY: the caller passes a C string.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(text) }.to_bytes()))
}

fn is_of_the_system(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    FOLDERS_OF_THE_SYSTEM.iter().any(|folder| path.starts_with(folder.as_bytes()))
}

#[unsafe(no_mangle)]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let open = || real!(open64(path => *const c_char, flags => c_int, mode => mode_t) -> c_int);
    if current_thread().is_none() {
        return open();
    }
    let name = path_from(path);
    if is_of_the_system(&name) {
        return fail(libc::ENOENT);
    }
    let truncated = (flags & libc::O_TRUNC != 0).then(|| read_file(&name)).flatten();
    let descriptor = open();
    if descriptor >= 0 {
        if let Some(tail_before) = truncated.filter(|content| !content.is_empty()) {
            let before = tail_before.len() as u64;
            kernel::on_change(&name, Change::SetLength { before, after: 0, tail_before });
        }
        kernel::on_open(descriptor, name);
    }
    descriptor
}

#[unsafe(no_mangle)]
extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open64(path, flags, mode)
}

pub(super) fn on_close(descriptor: c_int) {
    if current_thread().is_some() {
        kernel::on_close(descriptor);
    }
}

/// The file behind a descriptor, if its host has to remember its changes.
fn tracked(descriptor: c_int) -> Option<PathBuf> {
    current_thread()?;
    kernel::tracked_file(descriptor)
}

#[unsafe(no_mangle)]
extern "C" fn pwrite64(
    descriptor: c_int,
    buffer: *const c_void,
    bytes: size_t,
    offset: off_t,
) -> ssize_t {
    match tracked(descriptor) {
        Some(path) => write_tracked(descriptor, &path, buffer, bytes, offset as u64),
        None => pwrite(descriptor, buffer, bytes, offset),
    }
}

fn pwrite(descriptor: c_int, buffer: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
    real!(pwrite64(descriptor => c_int, buffer => *const c_void, bytes => size_t, offset => off_t) -> ssize_t)
}

/// Writes to a file at its current position.
pub(super) fn write_file(
    descriptor: c_int,
    buffer: *const c_void,
    bytes: size_t,
) -> Option<ssize_t> {
    let path = tracked(descriptor)?;
    let seek = |offset: off_t, from: c_int| real!(lseek64(descriptor => c_int, offset => off_t, from => c_int) -> off_t);
    let offset = seek(0, libc::SEEK_CUR).max(0);
    let written = write_tracked(descriptor, &path, buffer, bytes, offset as u64);
    if written > 0 {
        seek(offset + written as off_t, libc::SEEK_SET);
    }
    Some(written)
}

fn write_tracked(
    descriptor: c_int,
    path: &Path,
    buffer: *const c_void,
    bytes: size_t,
    offset: u64,
) -> ssize_t {
    let length_before = file_length(descriptor);
    let extends = offset + bytes as u64 > length_before;
    match kernel::before_change(extends) {
        DiskVerdict::Proceed => {}
        DiskVerdict::Full => return fail(libc::ENOSPC) as ssize_t,
    }
    let mut before = vec![0; bytes.min(length_before.saturating_sub(offset) as usize)];
    pread(descriptor, &mut before, offset);
    // SAFETY: the caller passes a buffer of this length.
    let after = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), bytes) }.to_vec();
    let written = pwrite(descriptor, buffer, bytes, offset as off_t);
    if written >= 0 {
        kernel::on_change(path, Change::Write { offset, before, after, length_before });
    }
    written
}

fn pread(descriptor: c_int, buffer: &mut [u8], offset: u64) -> ssize_t {
    let (bytes, offset) = (buffer.len(), offset as off_t);
    real!(pread64(descriptor => c_int, buffer.as_mut_ptr() => *mut u8, bytes => size_t, offset => off_t) -> ssize_t)
}

fn file_length(descriptor: c_int) -> u64 {
    let here = real!(lseek64(descriptor => c_int, 0 => off_t, libc::SEEK_CUR => c_int) -> off_t);
    let end = real!(lseek64(descriptor => c_int, 0 => off_t, libc::SEEK_END => c_int) -> off_t);
    real!(lseek64(descriptor => c_int, here => off_t, libc::SEEK_SET => c_int) -> off_t);
    end.max(0) as u64
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(descriptor: c_int, length: off_t) -> c_int {
    let truncate = || real!(ftruncate64(descriptor => c_int, length => off_t) -> c_int);
    let Some(path) = tracked(descriptor) else { return truncate() };
    let (before, after) = (file_length(descriptor), length as u64);
    match kernel::before_change(after > before) {
        DiskVerdict::Proceed => {}
        DiskVerdict::Full => return fail(libc::ENOSPC),
    }
    let mut tail_before = vec![0; before.saturating_sub(after) as usize];
    pread(descriptor, &mut tail_before, after);
    let result = truncate();
    if result == 0 {
        kernel::on_change(&path, Change::SetLength { before, after, tail_before });
    }
    result
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    sync(descriptor)
}

#[unsafe(no_mangle)]
extern "C" fn fsync(descriptor: c_int) -> c_int {
    sync(descriptor)
}

/// Nothing is synced for real: the simulation has its own losses.
fn sync(descriptor: c_int) -> c_int {
    let Some(path) = tracked(descriptor) else { return 0 };
    match kernel::sync(&path) {
        SyncStart::Takes { .. } => 0,
        SyncStart::Fails(repairs) => {
            repairs.iter().for_each(apply);
            fail(libc::EIO)
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let rename = || real!(rename(from => *const c_char, to => *const c_char) -> c_int);
    if current_thread().is_none() {
        return rename();
    }
    let (from_path, to_path) = (path_from(from), path_from(to));
    kernel::before_change(false);
    let replaced = read_file(&to_path);
    let result = rename();
    if result == 0 {
        kernel::on_rename(&from_path, &to_path, replaced);
    }
    result
}

#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    let result = real!(unlink(path => *const c_char) -> c_int);
    if result == 0 && current_thread().is_some() {
        kernel::on_remove(&path_from(path));
    }
    result
}

/// The space on the disk of the host.
#[unsafe(no_mangle)]
extern "C" fn statvfs(path: *const c_char, answer: *mut libc::statvfs) -> c_int {
    let result = real!(statvfs(path => *const c_char, answer => *mut libc::statvfs) -> c_int);
    if result == 0 && current_thread().is_some() {
        let blocks = if kernel::is_disk_full() { 0 } else { 1 << 24 };
        // SAFETY: the caller passes a valid pointer.
        unsafe {
            (*answer).f_frsize = 4_096;
            (*answer).f_bsize = 4_096;
            (*answer).f_blocks = 1 << 25;
            (*answer).f_bfree = blocks;
            (*answer).f_bavail = blocks;
        }
    }
    result
}

#[unsafe(no_mangle)]
extern "C" fn statvfs64(path: *const c_char, answer: *mut libc::statvfs) -> c_int {
    statvfs(path, answer)
}

/// The content of a file; `None` when there is none.
fn read_file(path: &Path) -> Option<Vec<u8>> {
    let descriptor = open_real(path, libc::O_RDONLY);
    if descriptor < 0 {
        return None;
    }
    let mut content = vec![0; file_length(descriptor) as usize];
    pread(descriptor, &mut content, 0);
    close_real(descriptor);
    Some(content)
}

fn open_real(path: &Path, flags: c_int) -> c_int {
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.push(0);
    let name = name.as_ptr().cast::<c_char>();
    real!(open64(name => *const c_char, flags => c_int, 0o600 => mode_t) -> c_int)
}

pub(crate) fn close_real(descriptor: c_int) {
    real!(close(descriptor => c_int) -> c_int);
}

/// Carries out one step of a loss of power.
pub(crate) fn apply(repair: &Repair) {
    let edit = |path: &Path, flags: c_int, edit: &dyn Fn(c_int)| {
        let descriptor = open_real(path, flags);
        if descriptor >= 0 {
            edit(descriptor);
            close_real(descriptor);
        }
    };
    let write = |descriptor: c_int, bytes: &[u8], offset: u64| {
        pwrite(descriptor, bytes.as_ptr().cast(), bytes.len(), offset as off_t);
    };
    match repair {
        Repair::SetLength(path, length) => edit(path, libc::O_WRONLY, &|descriptor| {
            real!(ftruncate64(descriptor => c_int, *length as off_t => off_t) -> c_int);
        }),
        Repair::Write(path, offset, bytes) => {
            edit(path, libc::O_WRONLY, &|descriptor| write(descriptor, bytes, *offset));
        }
        Repair::Create(path, bytes) => {
            edit(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, &|descriptor| {
                write(descriptor, bytes, 0);
            });
        }
        Repair::Rename(from, to) => {
            let text = |path: &Path| [path.as_os_str().as_bytes(), &[0]].concat();
            let (from, to) = (text(from), text(to));
            let (from, to) = (from.as_ptr().cast::<c_char>(), to.as_ptr().cast::<c_char>());
            real!(rename(from => *const c_char, to => *const c_char) -> c_int);
        }
    }
}
