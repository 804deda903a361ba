//! Opens libraries in this process: the core's direct lane uses it, and so does a worker.
//!
//! `library` opens a NIF library and checks its table, `tvm_ffi` makes a table of TVM-FFI functions, `julia` starts a Julia; `table` is a
//! table's text, `clock` the clock that calls are timed by. Nothing here knows Python or other processes.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the ABI, ELF and the system count the same things in isize, i32, i64 and u64; each cast is between those"
)]
#![allow(
    clippy::must_use_candidate,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "a crate of this workspace's own"
)]

pub mod clock;
pub mod julia;
pub mod library;
pub mod table;
pub mod tvm_ffi;
