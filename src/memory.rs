//! How the C library's allocator gives memory back.

#![allow(unsafe_code)]

use std::time::Duration;

/// Free memory at the end of the heap goes back beyond this size, and pieces of this size have mappings of their
/// own. Bytes; glibc's defaults, which it otherwise raises to 32 MiB by itself once something large was freed:
/// a single long list would then stay a node's size for ever.
const GIVE_BACK: i32 = 128 * 1024;

/// Arenas beyond the number of working threads only keep memory apart.
const ARENAS: i32 = 2;

/// To be called before any thread is started.
#[cfg(target_env = "gnu")]
pub(crate) fn tune() {
    for (parameter, value) in [
        (libc::M_TRIM_THRESHOLD, GIVE_BACK),
        (libc::M_MMAP_THRESHOLD, GIVE_BACK),
        (libc::M_ARENA_MAX, ARENAS),
    ] {
        // SAFETY: mallopt takes two integers, touches no memory of ours, and no other thread runs yet.
        // A value it refuses changes nothing but the size of the process.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other C libraries have no such choice.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn tune() {}

/// How often what is free is given back.
const EVERY: Duration = Duration::from_secs(30);
/// After the start, when lists come, more often: after this time, twice that and so on.
const FIRST: Duration = Duration::from_secs(1);

/// Gives back free memory between what is used, which the allocator keeps by itself: what archives and lists took at
/// the start, and what a burst of pods took later. Never returns.
pub(crate) async fn give_back() {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        trim();
        pause = EVERY.min(pause * 2);
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes the allocator's own locks, and gives back pages that no allocation is in.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}
