//! What came of one call.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use std::ffi::c_void;
use std::sync::atomic::AtomicI32;

use nif::abi::{Any, AnyValue, Call, Env, type_index};
use nif_loader::clock;

use crate::call::host::{self, ErrorRecord, HostTensor};
use crate::call::results::Results;

/// What came of a call. It is read where the callee wrote it: a copy of all 16 bytes of the result would wait for the two
/// halves that were written.
pub struct Outcome {
    pub status: i32,
    pub result: Any,
    /// When the call began and how long it took; none for one that isn't timed.
    pub time: Option<(u64, u64)>,
}

// SAFETY: the result is a scalar, a constant string of the library, or the frame's tensor.
unsafe impl Send for Outcome {}

impl Outcome {
    #[inline(always)]
    pub fn new() -> Self {
        Self { status: 0, result: Any { type_index: type_index::NONE, zero: 0, v: AnyValue { i: 0 } }, time: None }
    }

    /// Call a function, between two looks at the clock if it is to be timed.
    ///
    /// # Safety
    /// `call` is a live function of the ABI, `values` leads to `count` values, and what they point to is alive.
    #[inline(always)]
    pub unsafe fn run(
        &mut self,
        call: Call,
        values: *const Any,
        count: usize,
        error: &mut ErrorRecord,
        cancel: &AtomicI32,
        timed: bool,
    ) {
        let mut env = host::env(error, cancel.as_ptr());
        // SAFETY: the caller's promise; `env` and the result live through the call.
        self.status =
            unsafe { make(call, &mut env, values, count, &raw mut self.result, timed.then_some(&mut self.time)) };
    }

    /// The same for a function that returns several values.
    ///
    /// # Safety
    /// As `run`'s.
    #[cold]
    #[allow(clippy::too_many_arguments, reason = "those of `run`, and where the values go")]
    pub unsafe fn run_several(
        &mut self,
        call: Call,
        values: *const Any,
        count: usize,
        error: &mut ErrorRecord,
        cancel: &AtomicI32,
        timed: bool,
        several: &mut Results,
    ) {
        let mut env = host::env(error, cancel.as_ptr());
        env.n_results = several.values.len() as u32;
        // SAFETY: the caller's promise; there is room for as many values as `env` says.
        self.status = unsafe {
            make(call, &mut env, values, count, several.values.as_mut_ptr(), timed.then_some(&mut self.time))
        };
        several.claim(self.status == 0);
    }

    /// The host's tensor that the call returned, if it returned one. To be asked on the thread of the call.
    pub fn claim(&self) -> Option<Box<HostTensor>> {
        let returned = self.status == 0 && self.result.type_index == type_index::TENSOR;
        // SAFETY: the type index says which field counts.
        host::has_unclaimed().then(|| host::claim(returned.then(|| unsafe { self.result.v.p }.cast_const().cast())))?
    }
}

/// Make the call: its status. Where it is to be timed, `time` is told when it began and how long it took.
///
/// # Safety
/// As `run`'s; `to` has room for as many values as `env` says.
#[inline(always)]
unsafe fn make(
    call: Call,
    env: &mut Env,
    values: *const Any,
    count: usize,
    to: *mut Any,
    time: Option<&mut Option<(u64, u64)>>,
) -> i32 {
    let start = if time.is_some() { clock::now() } else { 0 };
    // SAFETY: the caller's promise.
    let status = unsafe { call(std::ptr::from_mut(env).cast::<c_void>(), values, count as i32, to) };
    if let Some(time) = time {
        *time = Some((start, clock::now().wrapping_sub(start)));
    }
    status
}
