//! The functions of the C library itself.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use libc::{c_int, c_long};

/// A function of the C library, found at its first use.
pub(super) struct Symbol {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Symbol {
    pub(super) const fn new(name: &'static CStr) -> Symbol {
        Symbol { name, address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub(super) fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name is a valid C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Calls a function of the C library with the signature of the surrounding replacement.
macro_rules! real {
    ($name:ident($($argument:expr => $type:ty),* $(,)?) -> $result:ty) => {{
        static SYMBOL: $crate::libc::real::Symbol = $crate::libc::real::Symbol::new(
            // SAFETY: the text ends with a zero byte and has no other.
            unsafe {
                std::ffi::CStr::from_bytes_with_nul_unchecked(
                    concat!(stringify!($name), "\0").as_bytes(),
                )
            },
        );
        // SAFETY: the C library has the function with this signature.
        unsafe {
            let function: unsafe extern "C" fn($($type),*) -> $result =
                std::mem::transmute(SYMBOL.address());
            function($($argument),*)
        }
    }};
}
pub(super) use real;

type SystemCall = unsafe extern "C" fn(c_long, usize, usize, usize, usize, usize, usize) -> c_long;

/// A system call of the system.
pub(super) fn system_call(number: c_long, arguments: [usize; 6]) -> c_long {
    static SYMBOL: Symbol = Symbol::new(c"syscall");
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: `syscall` takes its arguments as integers.
    unsafe {
        let call: SystemCall = std::mem::transmute(SYMBOL.address());
        call(number, a, b, c, d, e, f)
    }
}

/// Blocks the thread of the system while the word has the expected value.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let address = word.as_ptr() as usize;
    system_call(libc::SYS_futex, [address, operation as usize, expected as usize, 0, 0, 0]);
}

/// Wakes the thread of the system that is blocked on a word.
pub(crate) fn futex_wake(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    let address = word.as_ptr() as usize;
    system_call(libc::SYS_futex, [address, operation as usize, 1, 0, 0, 0]);
}

/// Ends the process of the system.
pub fn exit_now(status: c_int) -> ! {
    system_call(libc::SYS_exit_group, [status as usize, 0, 0, 0, 0, 0]);
    unreachable!("the process has ended")
}
