//! Switches between stacks without the system, on x86-64.

#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{is_supported, prepare, switch, thread_pointer};

#[cfg(not(target_arch = "x86_64"))]
pub(super) use elsewhere::{is_supported, prepare, switch, thread_pointer};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::{asm, naked_asm};
    use std::sync::atomic::AtomicUsize;

    /// Bit of `AT_HWCAP2`: a program may set its thread pointer itself.
    const HWCAP2_FSGSBASE: u64 = 1 << 1;

    /// The part of a stack that its own thread needs while it is blocked.
    const BLOCKED_BYTES: usize = 16 << 10;

    /// The registers that a switch saves, and its return address.
    const FRAME_WORDS: usize = 7;

    /// Whether the processor and the system allow it.
    pub(crate) fn is_supported() -> bool {
        // SAFETY: has no effect.
        unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
    }

    /// The address of the thread-local values of the current thread.
    pub(crate) fn thread_pointer() -> usize {
        let pointer;
        // SAFETY: the first word there is its own address.
        unsafe { asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly)) };
        pointer
    }

    /// A stack on which `run` is called after the first switch to it, further down in that of the calling thread.
    /// `run` must live until then and not return.
    pub(crate) fn prepare(run: &mut &mut dyn FnMut()) -> usize {
        let here: usize;
        // SAFETY: has no effect.
        unsafe { asm!("mov {}, rsp", out(reg) here, options(nomem, nostack)) };
        let frame = ((here - BLOCKED_BYTES) & !15) - FRAME_WORDS * 8;
        let words = frame as *mut usize;
        // As `switch` takes them: r15, r14, r13, r12, rbx, rbp, return address.
        let argument = std::ptr::from_mut(run) as usize;
        let initial =
            [0, 0, argument, call as *const () as usize, 0, 0, begin as *const () as usize];
        // SAFETY: the stacks of simulated threads are far larger, and nothing is there yet.
        unsafe { words.copy_from_nonoverlapping(initial.as_ptr(), FRAME_WORDS) };
        frame
    }

    extern "C" fn call(run: &mut &mut dyn FnMut()) {
        run();
    }

    /// The first frame of a stack.
    #[unsafe(naked)]
    extern "C" fn begin() {
        naked_asm!(
            ".cfi_startproc",
            // A backtrace ends here.
            ".cfi_undefined rip",
            "mov rdi, r13",
            "call r12",
            "ud2",
            ".cfi_endproc",
        )
    }

    /// Saves the registers on the current stack and its address in `from`, and continues on another stack with its
    /// thread pointer. Returns after a switch back.
    pub(crate) fn switch(from: &AtomicUsize, to: usize, thread_pointer: usize) {
        // SAFETY: `to` comes from `prepare` or from an earlier switch, which has ended with it.
        unsafe { switch_stacks(from.as_ptr(), to, thread_pointer) };
    }

    /// The control words of floating point are the same in all threads.
    #[unsafe(naked)]
    unsafe extern "C" fn switch_stacks(from: *mut usize, to: usize, thread_pointer: usize) {
        naked_asm!(
            "push rbp",
            "push rbx",
            "push r12",
            "push r13",
            "push r14",
            "push r15",
            "mov [rdi], rsp",
            "mov rsp, rsi",
            "wrfsbase rdx",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbx",
            "pop rbp",
            "ret",
        )
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use std::sync::atomic::AtomicUsize;

    pub(crate) fn is_supported() -> bool {
        false
    }

    pub(crate) fn thread_pointer() -> usize {
        0
    }

    pub(crate) fn prepare(_: &mut &mut dyn FnMut()) -> usize {
        unreachable!("there are no fibers")
    }

    pub(crate) fn switch(_: &AtomicUsize, _: usize, _: usize) {
        unreachable!("there are no fibers")
    }
}
