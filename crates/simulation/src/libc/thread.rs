//! Threads, and the words on which they wait.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, Once};

use libc::{c_int, c_long, pthread_attr_t, pthread_key_t, pthread_t, timespec};

use super::fail;
use super::real::{self, real};
use super::time::{monotonic_now, nanoseconds};
use super::turn::{self, Turn};
use crate::kernel::{self, ThreadId, WakeReason, current_thread};

type StartRoutine = extern "C" fn(*mut c_void) -> *mut c_void;

/// What a new thread of the system runs.
struct Start {
    thread: ThreadId,
    turn: &'static Turn,
    routine: StartRoutine,
    argument: *mut c_void,
}

/// The simulated thread of each thread of the system that was not joined yet.
static STARTED: Mutex<BTreeMap<pthread_t, ThreadId>> = Mutex::new(BTreeMap::new());

#[unsafe(no_mangle)]
extern "C" fn pthread_create(
    handle: *mut pthread_t,
    attributes: *const pthread_attr_t,
    routine: StartRoutine,
    argument: *mut c_void,
) -> c_int {
    let create = |routine: StartRoutine, argument: *mut c_void| {
        real!(pthread_create(handle => *mut pthread_t, attributes => *const pthread_attr_t,
            routine => StartRoutine, argument => *mut c_void) -> c_int)
    };
    let Some(thread) = kernel::register_thread() else { return create(routine, argument) };
    let turn = kernel::turn_of(thread);
    let start = Box::new(Start { thread, turn, routine, argument });
    let result = create(run_thread, Box::into_raw(start).cast());
    assert_eq!(result, 0, "the system has no room for a thread");
    turn.wait_for_start();
    // SAFETY: the caller passes a valid pointer.
    let handle = unsafe { *handle };
    STARTED.lock().expect("not poisoned").insert(handle, thread);
    result
}

extern "C" fn run_thread(start: *mut c_void) -> *mut c_void {
    // SAFETY: `pthread_create` made it from a box.
    let start = unsafe { Box::from_raw(start.cast::<Start>()) };
    let Start { thread, turn, routine, argument } = *start;
    turn::first_turn(turn, || {
        kernel::adopt_thread(thread);
        exit_with_thread();
        routine(argument)
    })
}

thread_local! {
    static EXITING: Cell<Option<ThreadId>> = const { Cell::new(None) };
}

/// Lets the next thread run when the current one has ended: after the destructors of its thread-local values, which
/// run before those of keys.
fn exit_with_thread() {
    static KEY_CREATED: Once = Once::new();
    static KEY: Mutex<pthread_key_t> = Mutex::new(0);
    KEY_CREATED.call_once(|| {
        let mut key = KEY.lock().expect("not poisoned");
        // SAFETY: the destructor is a function of the program.
        unsafe { libc::pthread_key_create(&mut *key, Some(on_thread_exit)) };
    });
    let key = *KEY.lock().expect("not poisoned");
    // SAFETY: the key exists. A value other than null has the destructor called.
    unsafe { libc::pthread_setspecific(key, std::ptr::dangling::<u8>().cast()) };
}

extern "C" fn on_thread_exit(_: *mut c_void) {
    if let Some(thread) = current_thread() {
        kernel::exit_thread(thread);
    }
}

#[unsafe(no_mangle)]
extern "C" fn pthread_join(handle: pthread_t, result: *mut *mut c_void) -> c_int {
    if let Some(me) = current_thread() {
        let joined = STARTED.lock().expect("not poisoned").remove(&handle);
        if let Some(thread) = joined {
            kernel::join_thread(me, thread);
        }
    }
    real!(pthread_join(handle => pthread_t, result => *mut *mut c_void) -> c_int)
}

#[unsafe(no_mangle)]
extern "C" fn sched_yield() -> c_int {
    match current_thread() {
        Some(thread) => {
            kernel::yield_turn(thread);
            0
        }
        None => real!(sched_yield() -> c_int),
    }
}

/// Takes its arguments in the registers of a call with six integers, as the C library does.
#[unsafe(no_mangle)]
extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    match current_thread() {
        Some(thread) if number == libc::SYS_futex => futex(thread, [a, b, c, d, e, f]),
        _ => real::system_call(number, [a, b, c, d, e, f]),
    }
}

fn futex(thread: ThreadId, [address, operation, value, timeout, ..]: [usize; 6]) -> c_long {
    let operation = operation as c_int;
    match operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        libc::FUTEX_WAIT => {
            // SAFETY: null or a valid pointer, by the contract of the call.
            let timeout = unsafe { (timeout as *const timespec).as_ref() };
            let deadline = timeout.map(|&timeout| monotonic_now(thread) + nanoseconds(timeout));
            futex_wait(thread, address, value as u32, deadline)
        }
        libc::FUTEX_WAIT_BITSET => {
            // SAFETY: as above.
            let deadline = unsafe { (timeout as *const timespec).as_ref() };
            futex_wait(thread, address, value as u32, deadline.map(|&at| nanoseconds(at)))
        }
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => {
            kernel::with(|kernel| kernel.wake_futex(address, value)) as c_long
        }
        _ => fail(libc::ENOSYS).into(),
    }
}

fn futex_wait(thread: ThreadId, address: usize, expected: u32, deadline: Option<u64>) -> c_long {
    // SAFETY: the caller passes the address of a word. No other thread runs.
    if unsafe { std::ptr::read_volatile(address as *const u32) } != expected {
        return fail(libc::EAGAIN).into();
    }
    match kernel::wait_futex(thread, address, deadline) {
        WakeReason::Woken => 0,
        WakeReason::Deadline => fail(libc::ETIMEDOUT).into(),
    }
}
