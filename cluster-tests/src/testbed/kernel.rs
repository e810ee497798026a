//! Three calls into the kernel that no safe crate makes.
//!
//! The only unsafe code of the workspace, in the stage of the tests; nothing of it is in a node.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `IFF_TUN | IFF_NO_PI`: whole IP packets and nothing before them.
const TUN: u16 = 0x0001 | 0x1000;

/// `struct ifreq`, as much of it as names a TUN interface.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

/// Makes a TUN interface in the calling thread's network namespace. It is there for as long as the
/// file, which is `/dev/net/tun`, opened for this. `EBUSY` if there is one of this name. A name
/// has up to 15 bytes.
pub(super) fn attach_tun(file: &File, name: &str) -> Result<()> {
    let mut request = InterfaceRequest { name: [0; 16], flags: TUN, padding: [0; 22] };
    request.name[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which is 40 bytes laid out as `InterfaceRequest` is. Its
    // number says four bytes, by an old mistake that the kernel keeps.
    unsafe { ioctl(file, Setter::<{ opcode::write::<i32>(b'T', 202) }, _>::new(request)) }
}

/// Ends an ext4 filesystem as a power cut does: what no fsync has carried out is lost, and nothing is
/// written any more. `directory` is any of it.
pub(super) fn cut_power(directory: impl AsFd) -> Result<()> {
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is flushed.
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: EXT4_IOC_SHUTDOWN reads a u32.
    unsafe { ioctl(directory, Setter::<{ opcode::read::<u32>(b'X', 125) }, _>::new(NO_LOG_FLUSH)) }
}

/// Gives the calling thread network and mounts of its own. Processes that it starts share them.
pub(super) fn unshare_namespaces() -> Result<()> {
    // SAFETY: no descriptors are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
}
