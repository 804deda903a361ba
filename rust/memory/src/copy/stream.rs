//! Writing past the caches, and asking for what is read next.
//!
//! This is all that depends on the machine. Without SSE2 the stores are ordinary ones.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_stream_si128};

/// What the memory moves at once.
pub const LINE: usize = 64;

/// What a store needs to be aligned to.
pub const VECTOR: usize = 16;

const PAGE: usize = 4096;

/// So many pages are asked for by turns. Reading one page from end to end is slower: each is a stream of its own to the
/// machine, which works on several at the same time.
const PAGES: usize = 4;

/// What to ask for when the line at this offset of a long run is copied: by turns the lines of the next pages.
#[inline]
pub fn ahead(offset: usize) -> usize {
    let (group, line) = (offset / (PAGES * PAGE), offset % (PAGES * PAGE) / LINE);
    (group + 1) * PAGES * PAGE + line % PAGES * PAGE + line / PAGES * LINE
}

/// Brings a line into the caches; any address will do.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Writes a value past the caches.
///
/// # Safety
///
/// `to` may be written and is a multiple of `VECTOR`, as is the size of `T`. [`fence`] comes before anybody reads it.
#[inline]
pub unsafe fn store<T: Copy>(to: *mut T, value: T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; any value is bytes.
    unsafe {
        let (to, from) = (to.cast::<__m128i>(), (&raw const value).cast::<__m128i>());
        for vector in 0..size_of::<T>() / VECTOR {
            _mm_stream_si128(to.add(vector), _mm_loadu_si128(from.add(vector)));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: as above.
    unsafe {
        to.write_unaligned(value);
    }
}

/// Makes what was stored visible to every reader.
#[inline]
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has it.
    unsafe {
        _mm_sfence();
    }
}

/// Copies bytes past the caches.
///
/// # Safety
///
/// As for `ptr::copy_nonoverlapping`; and [`fence`] comes before anybody reads them.
pub unsafe fn copy(to: *mut u8, from: *const u8, size: usize) {
    let head = to.align_offset(LINE).min(size);
    let body = (size - head) / LINE * LINE;
    // SAFETY: the caller's promise; the body begins and ends where a line does.
    unsafe {
        to.copy_from_nonoverlapping(from, head);
        for offset in (head..head + body).step_by(LINE) {
            prefetch(from.wrapping_add(ahead(offset)));
            store(to.add(offset).cast(), from.add(offset).cast::<[u8; LINE]>().read_unaligned());
        }
        to.add(head + body).copy_from_nonoverlapping(from.add(head + body), size - head - body);
    }
}
