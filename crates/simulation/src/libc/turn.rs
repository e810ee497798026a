//! Turns: one of the threads runs, and passes the turn to the next one.
//!
//! A system's switch between two threads takes about three microseconds, a quarter of a run. So one thread of the system,
//! the runner, executes all others itself where the processor allows it: each simulated thread still has a thread of the
//! system, with its stack and its thread-local values, but that one stays blocked, and the runner works on its stack and
//! with its thread pointer. Such a thread is a fiber here. When the function of a fiber has returned, its own thread
//! of the system continues, for the destructors of the thread-local values.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::{fiber, real};

/// The turn of one thread.
pub(crate) struct Turn {
    /// Where the thread of the system waits while it is no fiber.
    granted: Word,
    /// Where its creator waits until it can be given the turn.
    started: Word,
    /// The stack of the fiber while another one runs; 0 for a thread that is no fiber.
    stack: AtomicUsize,
    thread_pointer: AtomicUsize,
}

/// The thread of the system that executes the fibers: the one that called [`run`].
static RUNNER: Turn = Turn::new();

/// The place of a fiber that never continues.
static DISCARDED: Turn = Turn::new();

/// What the runner executes next, once its own turn is granted; null when everything has ended.
static NEXT: AtomicPtr<Turn> = AtomicPtr::new(std::ptr::null_mut());

static FIBERS_DISABLED: AtomicBool = AtomicBool::new(false);

/// Lets the system switch between the threads of this process, as debuggers and profilers expect. Call it before the
/// simulation starts.
pub fn disable_fibers() {
    FIBERS_DISABLED.store(true, Ordering::Relaxed);
}

thread_local! {
    static IS_FIBER: Cell<bool> = const { Cell::new(false) };
}

impl Turn {
    pub(crate) const fn new() -> Turn {
        Turn {
            granted: Word(AtomicU32::new(0)),
            started: Word(AtomicU32::new(0)),
            stack: AtomicUsize::new(0),
            thread_pointer: AtomicUsize::new(0),
        }
    }

    fn is_fiber(&self) -> bool {
        self.stack.load(Ordering::Acquire) != 0
    }

    /// Waits until the thread has called [`first_turn`].
    pub(crate) fn wait_for_start(&self) {
        self.started.wait();
    }

    /// Saves the current fiber here, and continues another one.
    fn switch_to(&'static self, next: &Turn) {
        let stack = next.stack.load(Ordering::Acquire);
        let thread_pointer = next.thread_pointer.load(Ordering::Relaxed);
        fiber::switch(&self.stack, stack, thread_pointer);
    }
}

/// Runs `f` in the calling thread when it has its first turn.
pub(crate) fn first_turn<R>(turn: &'static Turn, f: impl FnOnce() -> R) -> R {
    if FIBERS_DISABLED.load(Ordering::Relaxed) || !fiber::is_supported() {
        turn.started.grant();
        turn.granted.wait();
        return f();
    }
    let mut result = None;
    let mut task = Some(|| {
        IS_FIBER.set(true);
        result = Some(f());
        IS_FIBER.set(false);
        turn.stack.store(0, Ordering::Release);
        NEXT.store(std::ptr::from_ref(turn).cast_mut(), Ordering::Release);
        DISCARDED.switch_to(&RUNNER);
    });
    let mut run = || {
        if let Some(task) = task.take() {
            task()
        }
    };
    let mut run: &mut dyn FnMut() = &mut run;
    turn.thread_pointer.store(fiber::thread_pointer(), Ordering::Relaxed);
    turn.stack.store(fiber::prepare(&mut run), Ordering::Release);
    turn.started.grant();
    // Until the fiber has ended.
    turn.granted.wait();
    result.expect("the function has returned")
}

/// Gives the turn to `next`. Returns when `me` has it again; without `me`, a thread of the system returns at once, and a
/// fiber never.
pub(crate) fn pass(me: Option<&'static Turn>, next: &'static Turn) {
    match (IS_FIBER.get(), next.is_fiber()) {
        (true, true) => return me.unwrap_or(&DISCARDED).switch_to(next),
        (true, false) => {
            NEXT.store(std::ptr::from_ref(next).cast_mut(), Ordering::Release);
            return me.unwrap_or(&DISCARDED).switch_to(&RUNNER);
        }
        (false, true) => {
            NEXT.store(std::ptr::from_ref(next).cast_mut(), Ordering::Release);
            RUNNER.granted.grant();
        }
        (false, false) => next.granted.grant(),
    }
    if let Some(me) = me {
        me.granted.wait();
    }
}

/// Gives the first turn to `first`, and returns when [`end`] was called.
pub(crate) fn run(first: &'static Turn) {
    RUNNER.thread_pointer.store(fiber::thread_pointer(), Ordering::Relaxed);
    let mut next = Some(first);
    while let Some(turn) = next {
        if turn.is_fiber() {
            RUNNER.switch_to(turn);
        } else {
            turn.granted.grant();
            RUNNER.granted.wait();
        }
        // SAFETY: null, or made from a reference to a turn, which lives forever.
        next = unsafe { NEXT.swap(std::ptr::null_mut(), Ordering::Acquire).as_ref() };
    }
}

/// Ends all turns: [`run`] returns, the calling thread never continues.
pub(crate) fn end() -> ! {
    if IS_FIBER.get() {
        DISCARDED.switch_to(&RUNNER);
    }
    RUNNER.granted.grant();
    block_forever()
}

/// Blocks a thread that has passed its turn on and never gets it again.
pub(crate) fn block_forever() -> ! {
    loop {
        Word(AtomicU32::new(0)).wait();
    }
}

/// A word on which one thread of the system waits.
struct Word(AtomicU32);

impl Word {
    fn grant(&self) {
        self.0.store(1, Ordering::Release);
        real::futex_wake(&self.0);
    }

    fn wait(&self) {
        while self.0.swap(0, Ordering::Acquire) == 0 {
            real::futex_wait(&self.0, 0);
        }
    }
}
