//! The end of a process.

use libc::c_int;

use super::real::real;
use crate::kernel::{self, current_thread};

#[unsafe(no_mangle)]
extern "C" fn exit(status: c_int) -> ! {
    match current_thread() {
        Some(thread) => kernel::exit(thread, status),
        None => real!(exit(status => c_int) -> !),
    }
}

/// The standard library lets one thread of a process exit, and blocks all others that try: the status of the later ones
/// is lost.
#[unsafe(no_mangle)]
extern "C" fn pause() -> c_int {
    match current_thread() {
        Some(thread) => kernel::exit(thread, EXIT_UNKNOWN),
        None => real!(pause() -> c_int),
    }
}

/// The status of a process whose own status is lost.
const EXIT_UNKNOWN: c_int = 255;
