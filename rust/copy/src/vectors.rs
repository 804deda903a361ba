//! What depends on the machine: writing past the caches, asking for what is read next, shuffling.
//!
//! Without SSE2 stores are ordinary ones, hints are nothing, and the compiler shuffles.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_stream_si128, _mm_unpackhi_epi8,
    _mm_unpackhi_epi16, _mm_unpackhi_epi32, _mm_unpackhi_epi64, _mm_unpacklo_epi8, _mm_unpacklo_epi16,
    _mm_unpacklo_epi32, _mm_unpacklo_epi64,
};

/// What the memory moves at once.
pub const LINE: usize = 64;

/// What a streamed store is aligned to.
pub const VECTOR: usize = 16;

const PAGE: usize = 4096;

/// So many pages are asked for by turns: each is a sequence of its own to the machine, which follows several at a time.
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

/// Copies bytes past the caches, and asks for what comes next if they are part of a long run.
///
/// # Safety
///
/// As for `ptr::copy_nonoverlapping`; and [`fence`] comes before anybody reads them.
pub unsafe fn copy<const IN_RUN: bool>(to: *mut u8, from: *const u8, size: usize) {
    let head = to.align_offset(LINE).min(size);
    let tail = size - (size - head) % LINE;
    // SAFETY: the caller's promise; between head and tail lines are whole.
    unsafe {
        to.copy_from_nonoverlapping(from, head);
        for offset in (head..tail).step_by(LINE) {
            if IN_RUN {
                prefetch(from.wrapping_add(ahead(offset)));
            }
            store(to.add(offset).cast(), from.add(offset).cast::<[u8; LINE]>().read_unaligned());
        }
        to.add(tail).copy_from_nonoverlapping(from.add(tail), size - tail);
    }
}

/// Takes elements by turns from both: 0 0 1 1 .. of the lower halves, and of the upper ones. Each is a vector.
#[inline]
#[cfg(target_arch = "x86_64")]
pub fn zip<T: Copy, const N: usize>(a: [T; N], b: [T; N]) -> [[T; N]; 2] {
    assert!(size_of::<[T; N]>() == VECTOR);
    // SAFETY: vectors on both sides; any bytes are elements, as `T` is an integer or a float.
    unsafe {
        let (a, b) = ((&raw const a).cast::<__m128i>(), (&raw const b).cast::<__m128i>());
        let (a, b) = (_mm_loadu_si128(a), _mm_loadu_si128(b));
        let zipped = match size_of::<T>() {
            1 => [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)],
            2 => [_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)],
            4 => [_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b)],
            _ => [_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b)],
        };
        (&raw const zipped).cast::<[[T; N]; 2]>().read()
    }
}

/// Takes elements by turns from both: 0 0 1 1 .. of the lower halves, and of the upper ones.
#[cfg(not(target_arch = "x86_64"))]
pub fn zip<T: Copy, const N: usize>(a: [T; N], b: [T; N]) -> [[T; N]; 2] {
    [0, N / 2].map(|half| std::array::from_fn(|it| if it % 2 == 0 { a[half + it / 2] } else { b[half + it / 2] }))
}
