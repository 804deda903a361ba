//! The isolated lane: what a worker process and its host share, and both sides of a call.
//!
//! From the bottom: `message`, `bell` and
//! `channel` are what the two processes say to each other, `devices` what they say of devices; `segments`, `crash` and `serve` are the worker; `process`, `line`, `roster`,
//! `actor` and `crew` are its host; `speaker` passes on what workers print. Nothing here knows Python.

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

mod actor;
mod bell;
pub mod channel;
pub mod crash;
pub mod crew;
pub mod devices;
pub mod line;
pub mod message;
pub mod output;
pub mod process;
mod processor;
pub mod roster;
mod segments;
pub mod serve;
pub mod speaker;
pub mod spoken;
pub mod start;
