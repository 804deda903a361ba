//! The Rust backend: the kernels every backend has (docs/kernels.md), as plain functions.
#![deny(unsafe_code)]

mod faults;
mod gpu;
mod kernels;
mod wire;

nif::library!();
