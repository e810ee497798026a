//! Functions of the C library, replaced: a simulated thread that calls one gets the answer of the simulated kernel,
//! any other thread that of the system.
//!
//! A symbol that the program defines takes precedence over the one of the C library. So the standard library and all
//! dependencies call these functions, and nothing else in the program has to know of the simulation. The signatures
//! and the results are those of the manual pages; a call that the simulation does not know goes to the system.
#![allow(unsafe_code)]

mod descriptor;
mod epoll;
mod fiber;
pub(crate) mod file;
pub(crate) mod memory;
mod process;
mod random;
pub(crate) mod real;
mod socket;
mod thread;
mod time;
pub(crate) mod turn;

use libc::c_int;

use crate::kernel::{DescriptorError, StreamError};

/// Sets `errno`, and returns what a failed call returns.
fn fail(error: c_int) -> c_int {
    // SAFETY: the C library gives each thread its own `errno`.
    unsafe { *libc::__errno_location() = error };
    -1
}

fn errno(error: DescriptorError) -> c_int {
    match error {
        DescriptorError::Invalid => libc::EBADF,
        DescriptorError::WouldBlock => libc::EAGAIN,
        DescriptorError::AddressInUse => libc::EADDRINUSE,
        DescriptorError::Stream(error) => stream_errno(error),
    }
}

fn stream_errno(error: StreamError) -> c_int {
    match error {
        StreamError::Refused => libc::ECONNREFUSED,
        StreamError::TimedOut => libc::ETIMEDOUT,
        StreamError::Reset => libc::ECONNRESET,
        StreamError::Closed => libc::EPIPE,
        StreamError::NotConnected => libc::ENOTCONN,
    }
}
