//! `epoll`, `eventfd` and `poll`.

use libc::{c_int, c_uint, epoll_event, nfds_t, pollfd};

use super::real::real;
use super::time::monotonic_now;
use super::{errno, fail};
use crate::kernel::{self, DESCRIPTOR_MIN, Interest, Readiness, ThreadId, current_thread};

#[unsafe(no_mangle)]
extern "C" fn epoll_create1(flags: c_int) -> c_int {
    match current_thread() {
        Some(thread) => kernel::with(|kernel| kernel.create_epoll(kernel.process_of(thread))),
        None => real!(epoll_create1(flags => c_int) -> c_int),
    }
}

#[unsafe(no_mangle)]
extern "C" fn eventfd(initial: c_uint, flags: c_int) -> c_int {
    match current_thread() {
        Some(thread) => {
            kernel::with(|kernel| kernel.create_event(kernel.process_of(thread), initial.into()))
        }
        None => real!(eventfd(initial => c_uint, flags => c_int) -> c_int),
    }
}

#[unsafe(no_mangle)]
extern "C" fn epoll_ctl(
    epoll: c_int,
    operation: c_int,
    descriptor: c_int,
    event: *mut epoll_event,
) -> c_int {
    if epoll < DESCRIPTOR_MIN {
        return real!(epoll_ctl(epoll => c_int, operation => c_int, descriptor => c_int,
            event => *mut epoll_event) -> c_int);
    }
    if descriptor < DESCRIPTOR_MIN {
        // The pipe of the runtime for signals, of which a simulated process gets none.
        return 0;
    }
    let result = kernel::with(|kernel| match operation {
        libc::EPOLL_CTL_DEL => kernel.unwatch(epoll, descriptor),
        _ => {
            // SAFETY: the caller passes a valid pointer for these operations.
            let event = unsafe { *event };
            let has = |flag: c_int| event.events & flag as u32 != 0;
            let interest = Interest {
                readable: has(libc::EPOLLIN),
                writable: has(libc::EPOLLOUT),
                edge_triggered: has(libc::EPOLLET),
                data: event.u64,
            };
            kernel.watch(epoll, descriptor, interest)
        }
    });
    result.map_or_else(|error| fail(errno(error)), |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout_ms: c_int,
) -> c_int {
    let Some(thread) = current_thread().filter(|_| epoll >= DESCRIPTOR_MIN) else {
        return real!(epoll_wait(epoll => c_int, events => *mut epoll_event, max => c_int,
            timeout_ms => c_int) -> c_int);
    };
    match wait_for_events(thread, epoll, max as usize, timeout_ms) {
        Ok(taken) => {
            for (index, event) in taken.iter().enumerate() {
                // SAFETY: the caller passes room for `max` events.
                unsafe {
                    *events.add(index) =
                        epoll_event { events: epoll_bits(event.readiness), u64: event.data };
                }
            }
            taken.len() as c_int
        }
        Err(error) => fail(errno(error)),
    }
}

fn wait_for_events(
    thread: ThreadId,
    epoll: c_int,
    max: usize,
    timeout_ms: c_int,
) -> Result<Vec<kernel::EpollEvent>, kernel::DescriptorError> {
    let take = || kernel::with(|kernel| kernel.take_events(epoll, thread, max));
    let deadline =
        u64::try_from(timeout_ms).ok().map(|timeout| monotonic_now(thread) + timeout * 1_000_000);
    if timeout_ms == 0 {
        // A runtime that always has work asks without waiting: the time goes on, and others run.
        kernel::yield_turn(thread);
        return take();
    }
    loop {
        let events = take()?;
        if !events.is_empty() || deadline.is_some_and(|at| monotonic_now(thread) >= at) {
            return Ok(events);
        }
        kernel::wait(thread, deadline);
    }
}

fn epoll_bits(readiness: Readiness) -> u32 {
    let bit = |is_set: bool, flag: c_int| if is_set { flag as u32 } else { 0 };
    bit(readiness.readable, libc::EPOLLIN)
        | bit(readiness.writable, libc::EPOLLOUT)
        | bit(readiness.read_closed, libc::EPOLLRDHUP)
        | bit(readiness.hung_up, libc::EPOLLHUP)
        | bit(readiness.failed, libc::EPOLLERR)
}

/// The nodes use it without a timeout only, for one socket.
#[unsafe(no_mangle)]
extern "C" fn poll(entries: *mut pollfd, count: nfds_t, timeout_ms: c_int) -> c_int {
    let is_simulated = count == 1 && {
        // SAFETY: the caller passes `count` entries.
        unsafe { (*entries).fd >= DESCRIPTOR_MIN }
    };
    if !is_simulated {
        return real!(poll(entries => *mut pollfd, count => nfds_t, timeout_ms => c_int) -> c_int);
    }
    // SAFETY: as above.
    let entry = unsafe { &mut *entries };
    match kernel::with(|kernel| kernel.readiness(entry.fd)) {
        Ok(readiness) => {
            let bits = epoll_bits(readiness) as i16;
            entry.revents = bits & (entry.events | libc::POLLERR | libc::POLLHUP);
            c_int::from(entry.revents != 0)
        }
        Err(error) => fail(errno(error)),
    }
}
