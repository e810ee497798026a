//! `pushonce`: a clustered broker for real-time push.

use std::process::ExitCode;

// Nodes allocate and free many small frames on many threads; the system's allocator returns the memory of
// a burst late. mimalloc needs only a C compiler to build, unlike jemalloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pushonce::cli::main()
}
