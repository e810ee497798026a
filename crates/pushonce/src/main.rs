//! `pushonce`: publish once, everybody has it.

use std::process::ExitCode;

// Nodes make and drop many small frames on many threads; the system's allocator gives the memory of
// a storm back late. Built with a C compiler alone, which jemalloc is not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pushonce::cli::main()
}
