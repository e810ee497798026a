//! Clocks and sleep.

use libc::{c_int, clockid_t, timespec};

use super::real::real;
use crate::kernel::{self, ClockKind, current_thread};

/// The clock with an id; those of CPU time count as monotonic.
fn kind(clock: clockid_t) -> ClockKind {
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => ClockKind::Realtime,
        libc::CLOCK_BOOTTIME => ClockKind::Boottime,
        _ => ClockKind::Monotonic,
    }
}

#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let Some(thread) = current_thread() else {
        return real!(clock_gettime(clock => clockid_t, time => *mut timespec) -> c_int);
    };
    let shown = kernel::read_clock_here(thread, kind(clock));
    // SAFETY: the caller passes a valid pointer.
    unsafe {
        (*time).tv_sec = shown.as_secs() as i64;
        (*time).tv_nsec = i64::from(shown.subsec_nanos());
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn clock_nanosleep(
    clock: clockid_t,
    flags: c_int,
    request: *const timespec,
    remaining: *mut timespec,
) -> c_int {
    let Some(thread) = current_thread() else {
        return real!(clock_nanosleep(clock => clockid_t, flags => c_int, request => *const timespec,
            remaining => *mut timespec) -> c_int);
    };
    // SAFETY: the caller passes a valid pointer.
    let request = nanoseconds(unsafe { *request });
    let now = monotonic_now(thread);
    let deadline = if flags & libc::TIMER_ABSTIME != 0 { request } else { now + request };
    while monotonic_now(thread) < deadline {
        kernel::wait(thread, Some(deadline));
    }
    0
}

/// What the monotonic clock of the thread's host shows, in nanoseconds.
pub(super) fn monotonic_now(thread: kernel::ThreadId) -> u64 {
    kernel::read_clock_here(thread, ClockKind::Monotonic).as_nanos() as u64
}

pub(super) fn nanoseconds(time: timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
