//! How glibc keeps free memory: as little as it may.
//!
//! Bursts take much for a moment: the kernel's types while programs are loaded, requests under way, a
//! scrape of thousands of series. Left alone, glibc keeps all of it, for it learns from the first large
//! block that such blocks come and go, and each thread that ever wrote a scrape has a heap of its own,
//! whose end is never given back.

use std::time::Duration;

/// Blocks of this size and larger are the kernel's again when they are freed. Smaller: a system call
/// for each table that grows.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OF_ITS_OWN_BYTES: libc::c_int = 256 << 10;

/// Free bytes at the end of the heap that are kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: u32 = 1 << 20;

/// How often what is free in the middle of the heap is given back. It took two milliseconds with thirty
/// megabytes.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10);

/// To be called once, before there are threads.
pub(crate) fn keep_little() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (what, value) in [
        (libc::M_MMAP_THRESHOLD, OF_ITS_OWN_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES as libc::c_int),
        // One thread does nearly all of it: the others may wait for it.
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: mallopt only sets how the allocator works; it may be called at any time.
        unsafe {
            libc::mallopt(what, value);
        }
    }
}

/// Gives back what is free.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim only returns free memory to the kernel; it may be called at any time.
    unsafe {
        libc::malloc_trim(KEPT_BYTES as usize);
    }
}

/// Does so now and then, for ever.
pub(crate) async fn keep_giving_back() {
    loop {
        tokio::time::sleep(GIVE_BACK_EVERY).await;
        give_back();
    }
}
