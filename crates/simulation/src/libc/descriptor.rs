//! Calls that take descriptors of any kind.

use std::ffi::c_void;

use libc::{c_int, iovec, size_t, ssize_t};

use super::real::real;
use super::{errno, fail};
use crate::kernel::{self, DESCRIPTOR_MIN, DescriptorError};

#[unsafe(no_mangle)]
extern "C" fn close(descriptor: c_int) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        super::file::on_close(descriptor);
        return real!(close(descriptor => c_int) -> c_int);
    }
    // The descriptor of a killed process is closed already.
    kernel::with(|kernel| kernel.close(descriptor)).map_or_else(|error| fail(errno(error)), |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn read(descriptor: c_int, buffer: *mut c_void, bytes: size_t) -> ssize_t {
    if descriptor < DESCRIPTOR_MIN {
        return real!(read(descriptor => c_int, buffer => *mut c_void, bytes => size_t) -> ssize_t);
    }
    match kernel::with(|kernel| kernel.read_event(descriptor)) {
        Some(value) => result(value.map(|value| {
            // SAFETY: a counter is read into eight bytes.
            unsafe { buffer.cast::<u64>().write_unaligned(value) };
            8
        })),
        None => receive(descriptor, buffer, bytes, false),
    }
}

#[unsafe(no_mangle)]
extern "C" fn write(descriptor: c_int, buffer: *const c_void, bytes: size_t) -> ssize_t {
    if descriptor < DESCRIPTOR_MIN {
        return super::file::write_file(descriptor, buffer, bytes).unwrap_or_else(
            || real!(write(descriptor => c_int, buffer => *const c_void, bytes => size_t) -> ssize_t),
        );
    }
    if bytes == 8 {
        // SAFETY: the caller passes `bytes` bytes.
        let value = unsafe { buffer.cast::<u64>().read_unaligned() };
        if kernel::with(|kernel| kernel.write_event(descriptor, value)) {
            return 8;
        }
    }
    send(descriptor, buffer, bytes)
}

#[unsafe(no_mangle)]
extern "C" fn readv(descriptor: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    if descriptor < DESCRIPTOR_MIN {
        return real!(readv(descriptor => c_int, pieces => *const iovec, count => c_int) -> ssize_t);
    }
    // SAFETY: the caller passes `count` pieces. A short read is allowed.
    let piece = unsafe { std::slice::from_raw_parts(pieces, count as usize) }
        .iter()
        .find(|piece| piece.iov_len > 0);
    piece.map_or(0, |piece| receive(descriptor, piece.iov_base, piece.iov_len, false))
}

#[unsafe(no_mangle)]
extern "C" fn writev(descriptor: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    if descriptor < DESCRIPTOR_MIN {
        return real!(writev(descriptor => c_int, pieces => *const iovec, count => c_int) -> ssize_t);
    }
    send_pieces(descriptor, pieces, count as usize)
}

pub(super) fn receive(
    descriptor: c_int,
    buffer: *mut c_void,
    bytes: size_t,
    peek: bool,
) -> ssize_t {
    if bytes == 0 {
        return 0;
    }
    // SAFETY: the caller passes a buffer of this length.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), bytes) };
    result(kernel::with(|kernel| kernel.receive(descriptor, buffer, peek)))
}

pub(super) fn send(descriptor: c_int, buffer: *const c_void, bytes: size_t) -> ssize_t {
    if bytes == 0 {
        return 0;
    }
    // SAFETY: the caller passes a buffer of this length.
    let buffer = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), bytes) };
    result(kernel::with(|kernel| kernel.send(descriptor, buffer)))
}

/// Sends the pieces as one segment.
pub(super) fn send_pieces(descriptor: c_int, pieces: *const iovec, count: usize) -> ssize_t {
    // SAFETY: the caller passes `count` pieces.
    let pieces = unsafe { std::slice::from_raw_parts(pieces, count) };
    let mut bytes = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.iov_len > 0) {
        // SAFETY: each piece has this length.
        bytes.extend_from_slice(unsafe {
            std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
        });
    }
    send(descriptor, bytes.as_ptr().cast(), bytes.len())
}

fn result(outcome: Result<usize, DescriptorError>) -> ssize_t {
    match outcome {
        Ok(bytes) => bytes as ssize_t,
        Err(error) => fail(errno(error)) as ssize_t,
    }
}

#[unsafe(no_mangle)]
extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: usize) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(fcntl(descriptor => c_int, command => c_int, argument => usize) -> c_int);
    }
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            kernel::with(|kernel| kernel.duplicate(descriptor))
                .unwrap_or_else(|error| fail(errno(error)))
        }
        libc::F_GETFL => libc::O_RDWR | libc::O_NONBLOCK,
        _ => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn ioctl(descriptor: c_int, request: libc::c_ulong, argument: usize) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(ioctl(descriptor => c_int, request => libc::c_ulong, argument => usize) -> c_int);
    }
    // Sockets never block anyway.
    0
}
