//! Random bytes.

use libc::{c_uint, c_void, size_t, ssize_t};

use super::real::real;
use crate::kernel::{self, current_thread};

#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, bytes: size_t, flags: c_uint) -> ssize_t {
    let Some(thread) = current_thread() else {
        return real!(getrandom(buffer => *mut c_void, bytes => size_t, flags => c_uint) -> ssize_t);
    };
    if bytes > 0 {
        // SAFETY: the caller passes a buffer of this length.
        let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), bytes) };
        kernel::with(|kernel| {
            let host = kernel.process_of(thread).host;
            kernel.fill_random(host, buffer);
        });
    }
    bytes as ssize_t
}
