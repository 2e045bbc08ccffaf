//! How the C library's allocator gives memory back.

#![allow(unsafe_code)]

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
