//! Hands the input of libFuzzer to one property. Compiled only with `--cfg libfuzzer`.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::sync::OnceLock;

// Links the runtime, which `libfuzzer-sys` builds from its C++ sources.
use libfuzzer_sys as _;

/// The name of the target that is to run. All others return at once.
const TARGET_VARIABLE: &str = "PUSHONCE_FUZZ_TARGET";

/// The arguments of libFuzzer, one a line.
const ARGUMENTS_VARIABLE: &str = "PUSHONCE_FUZZ_ARGUMENTS";

/// The folder from which libFuzzer reads the seeds.
const SEEDS_VARIABLE: &str = "PUSHONCE_FUZZ_SEEDS";

static PROPERTY: OnceLock<fn(&[u8])> = OnceLock::new();

unsafe extern "C" {
    /// The entry of libFuzzer for programs with a `main` of their own (FuzzerInterface.h).
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        callback: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

/// Runs libFuzzer over `property` if the target is selected. libFuzzer ends the process.
pub(crate) fn run(target: &str, seeds: &[Vec<u8>], property: fn(&[u8])) {
    if std::env::var(TARGET_VARIABLE).as_deref() != Ok(target) {
        return;
    }
    let folder = std::env::var(SEEDS_VARIABLE).expect("scripts/fuzz sets the folder of the seeds");
    for (at, seed) in seeds.iter().enumerate() {
        std::fs::write(Path::new(&folder).join(format!("seed-{at}")), seed)
            .expect("a seed is written");
    }
    PROPERTY.set(property).expect("one target runs in a process");
    abort_on_panic();
    let arguments = std::env::var(ARGUMENTS_VARIABLE).unwrap_or_default();
    let mut arguments: Vec<*mut c_char> = arguments
        .lines()
        .map(|argument| CString::new(argument).expect("no zero byte").into_raw())
        .collect();
    let mut argc = c_int::try_from(arguments.len()).expect("few arguments");
    arguments.push(std::ptr::null_mut());
    let mut argv = arguments.as_mut_ptr();
    // SAFETY: `argv` points to `argc` strings and a null pointer, all of which outlive the call.
    let status = unsafe { LLVMFuzzerRunDriver(&raw mut argc, &raw mut argv, on_input) };
    std::process::exit(status);
}

/// libFuzzer writes the input that fails when the process aborts, before the stack is unwound.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

extern "C" fn on_input(data: *const u8, len: usize) -> c_int {
    let input = if len == 0 {
        &[]
    } else {
        // SAFETY: libFuzzer passes `len` readable bytes that it does not change before this returns.
        unsafe { std::slice::from_raw_parts(data, len) }
    };
    PROPERTY.get().expect("`run` sets the property first")(input);
    0
}

// `libfuzzer-sys` asks for this symbol, the property of a program that leaves `main` to libFuzzer.
// SAFETY: no other item of the program has this name, and its type is the declared one.
#[unsafe(no_mangle)]
extern "Rust" fn rust_fuzzer_test_input(_input: &[u8]) -> i32 {
    unreachable!("libFuzzer calls the callback of LLVMFuzzerRunDriver")
}
