//! The allocator.

/// Lets all threads allocate from one arena. They never run at the same time, so more arenas only cost memory and cache.
pub fn use_one_arena() {
    // SAFETY: no other thread runs yet; the option exists since glibc 2.10.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
