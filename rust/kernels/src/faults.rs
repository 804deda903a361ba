//! Failures on purpose: those that a call survives, and those that end a process.
#![allow(unsafe_code, reason = "breaks what unsafe code can break")]

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::{hint, process, ptr};

use nif::gpu::launch;
use nif::{Error, nif};

/// Of a kernel: one block of one thread, and no shared bytes.
const ONE_THREAD: [u32; 7] = [1, 1, 1, 1, 1, 1, 0];

/// `error_value(message)`: fails with that message, as an ordinary error.
#[nif(fault)]
pub fn error_value(message: &str) -> Result<(), Error> {
    Err(Error::Value { argument: None, message: message.to_owned().into() })
}

/// `panic(message)`: panics with that message.
#[nif(fault)]
pub fn panic(message: &str) {
    panic!("{message}");
}

/// `out_of_bounds(index)`: element `index` of eight.
#[nif(fault)]
pub fn out_of_bounds(index: i64) -> i64 {
    let cells = [0, 1, 2, 3, 4, 5, 6, 7];
    // What can't be an index is too large for one.
    cells[usize::try_from(index).unwrap_or(usize::MAX)]
}

/// `overflow(x)`: x + 1.
#[nif(fault)]
pub fn overflow(x: i64) -> i64 {
    x + 1
}

/// `divide(x, y)`: the truncated quotient.
#[nif(fault)]
pub fn divide(x: i64, y: i64) -> i64 {
    x / y
}

/// What the fuse calls this language.
const WORD: i64 = i64::from_le_bytes(*b"rust\0\0\0\0");

/// `fault(kind, fuse[k], x[n])`: the sum of x, unless the fuse burns: then it fails as `kind` says.
#[nif(fault, idempotent)]
pub fn fault(kind: &str, fuse: &mut [i64], x: &[f64]) -> Result<f64, Error> {
    let fail = failure(kind).ok_or_else(|| Error::value("kind", "no such kind of fault"))?;
    let count = fuse.len();
    let [left, word, number] = fuse else {
        return Err(Error::value("fuse", format!("expected i64[k] with k = 3, got i64[{count}]")));
    };
    if *left > 0 && *word == WORD {
        // SAFETY: a plain store, which volatile keeps before the failure: nothing after it may happen.
        unsafe { ptr::from_mut(left).write_volatile(*left - 1) };
        fail(*number, x)?;
    }
    Ok(x.iter().fold(0.0, |sum, x| sum + x))
}

/// Fails; `number` is the kind's own number in the fuse.
type Failure = fn(number: i64, x: &[f64]) -> Result<(), Error>;

/// What a kind does, if there is such a kind.
#[expect(clippy::unit_arg, reason = "a line for each kind")]
fn failure(kind: &str) -> Option<Failure> {
    Some(match kind {
        "error_value" => |_, _| Err(Error::Other("on purpose".into())),
        "panic" => |_, _| Ok(panic("on purpose")),
        "out_of_bounds" => |_, _| Ok(_ = out_of_bounds(8)),
        "overflow" => |_, _| Ok(_ = overflow(i64::MAX)),
        "divide" => |_, _| Ok(_ = divide(1, 0)),
        "null_store" => |_, _| Ok(null_store()),
        "wild_write" => |number, x| Err(wild_write(x.as_ptr().cast_mut(), number)),
        "stack_overflow" => |_, _| Ok(_ = descend(0)),
        "double_free" => |_, _| Ok(double_free()),
        "heap_overflow" => |_, _| Ok(heap_overflow()),
        "abort" => |_, _| process::abort(),
        "exit_0" => |_, _| process::exit(0),
        "exit_7" => |_, _| process::exit(7),
        "infinite_loop" => |_, _| loop {
            hint::spin_loop();
        },
        "stop" => |_, _| Ok(stop()),
        "huge_allocation" => |number, _| Err(huge_allocation(number)),
        "gpu_illegal" | "gpu_endless" => |number, _| launch(number.cast_unsigned(), &ONE_THREAD, &[], &[]),
        _ => return None,
    })
}

fn null_store() {
    // SAFETY: none; `black_box` hides that from the compiler.
    unsafe { black_box(ptr::null_mut::<u8>()).write_volatile(1) };
}

/// Writes 64 numbers from element `offset` of `x` on, whatever lies there.
fn wild_write(x: *mut f64, offset: i64) -> Error {
    #[expect(clippy::cast_possible_truncation, reason = "an offset within this address space")]
    let first = x.wrapping_offset(offset as isize);
    for i in 0..64 {
        // SAFETY: none.
        unsafe { black_box(first.wrapping_add(i)).write_volatile(f64::NAN) };
    }
    Error::Other("the wild write went through".into())
}

/// Calls itself without end; what is read after the call keeps its frame on the stack.
#[expect(unconditional_recursion, reason = "what it is for")]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    descend(depth + 1) + black_box(frame)[0]
}

// The heap's own words come from libc, whose checks are meant.
unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn malloc_usable_size(block: *mut c_void) -> usize;
    fn free(block: *mut c_void);
    fn raise(signal: c_int) -> c_int;
}

fn double_free() {
    // SAFETY: none, the second time.
    unsafe {
        let block = black_box(malloc(24));
        free(block);
        free(black_box(block));
    }
}

/// Writes over the end of a block, over the size in the header of the next one, and frees that.
fn heap_overflow() {
    // SAFETY: none. `malloc_usable_size` makes sure that the header is hit.
    unsafe {
        let block = black_box(malloc(24)).cast::<u8>();
        let next = block.add(malloc_usable_size(block.cast()) + size_of::<usize>());
        block.write_bytes(0xff, next.offset_from_unsigned(block));
        free(black_box(next).cast());
    }
}

fn stop() {
    const SIGSTOP: c_int = 19;
    // SAFETY: a plain call.
    unsafe { raise(SIGSTOP) };
}

fn huge_allocation(size: i64) -> Error {
    let mut memory = Vec::with_capacity(usize::try_from(size).unwrap_or(usize::MAX));
    memory.push(1_u8);
    black_box(&memory);
    Error::Other("the memory was given".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_range_works() {
        assert_eq!(out_of_bounds(7), 7);
        assert_eq!(overflow(i64::MAX - 1), i64::MAX);
        assert_eq!(divide(-7, 2), -3);
    }

    #[test]
    fn errors_carry_their_message() {
        assert_eq!(error_value("so it goes").unwrap_err().to_string(), "so it goes");
    }

    #[test]
    #[should_panic(expected = "the len is 8 but the index is 8")]
    fn bounds_are_checked() {
        out_of_bounds(8);
    }

    #[test]
    #[should_panic(expected = "attempt to add with overflow")]
    fn sums_are_checked() {
        overflow(i64::MAX);
    }

    #[test]
    #[should_panic(expected = "attempt to divide by zero")]
    fn quotients_are_checked() {
        divide(1, 0);
    }
    #[test]
    fn a_fuse_burns_here_or_not_at_all() {
        let x = [1.0, 2.0, 4.0];
        for word in [0, WORD + 1, i64::from_le_bytes(*b"julia\0\0\0")] {
            let mut fuse = [1, word, 0];
            assert_eq!(fault("abort", &mut fuse, &x), Ok(7.0));
            assert_eq!(fuse, [1, word, 0]);
        }
        let mut fuse = [2, WORD, 0];
        for left in [1, 0] {
            assert_eq!(fault("error_value", &mut fuse, &x), Err(Error::Other("on purpose".into())));
            assert_eq!(fuse, [left, WORD, 0]);
        }
        assert_eq!(fault("error_value", &mut fuse, &x), Ok(7.0));
    }

    #[test]
    fn a_kind_needs_a_name_and_a_whole_fuse() {
        for kind in ["", "Panic", "panic ", "garbage_reply"] {
            let unknown = Error::value("kind", "no such kind of fault");
            assert_eq!(fault(kind, &mut [1, WORD, 0], &[]), Err(unknown.clone()));
            assert_eq!(fault(kind, &mut [], &[]), Err(unknown));
        }
        let short = Error::value("fuse", "expected i64[k] with k = 3, got i64[2]");
        assert_eq!(fault("panic", &mut [1, WORD], &[]), Err(short));
    }

    #[test]
    fn memory_that_is_given_is_no_failure_of_memory() {
        assert_eq!(huge_allocation(4096).to_string(), "the memory was given");
    }

    #[test]
    fn wild_writes_start_where_they_are_told() {
        let mut cells = [1.0; 80];
        wild_write(cells.as_mut_ptr(), 8);
        assert!(cells[8..72].iter().all(|cell| cell.is_nan()));
        assert_eq!((&cells[..8], &cells[72..]), (&[1.0; 8][..], &[1.0; 8][..]));
    }
}
