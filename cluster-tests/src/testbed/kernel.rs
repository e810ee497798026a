//! Three system calls that no safe crate provides.
//!
//! This is the only unsafe code of the workspace. Only tests use it; no node does.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `IFF_TUN | IFF_NO_PI`: whole IP packets without a header.
const TUN: u16 = 0x0001 | 0x1000;

/// The part of `struct ifreq` that names a TUN interface.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

/// Creates a TUN interface in the network namespace of the calling thread. `file` is an open `/dev/net/tun`;
/// the interface exists as long as it is open. Fails with `EBUSY` if the name is taken. A name has up to 15
/// bytes.
pub(super) fn attach_tun(file: &File, name: &str) -> Result<()> {
    let mut request = InterfaceRequest { name: [0; 16], flags: TUN, padding: [0; 22] };
    request.name[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    // SAFETY: TUNSETIFF reads a `struct ifreq` of 40 bytes, which has the layout of `InterfaceRequest`. The
    // request number encodes four bytes, for historical reasons.
    unsafe { ioctl(file, Setter::<{ opcode::write::<i32>(b'T', 202) }, _>::new(request)) }
}

/// Shuts an ext4 filesystem down as a power cut does: data without an fsync is lost, and later writes fail.
/// `directory` is any directory of the filesystem.
pub(super) fn cut_power(directory: impl AsFd) -> Result<()> {
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is not flushed either.
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: EXT4_IOC_SHUTDOWN reads a u32.
    unsafe { ioctl(directory, Setter::<{ opcode::read::<u32>(b'X', 125) }, _>::new(NO_LOG_FLUSH)) }
}

/// Gives the calling thread its own network and mount namespaces. Processes that it starts share them.
pub(super) fn unshare_namespaces() -> Result<()> {
    // SAFETY: file descriptors are not unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
}
