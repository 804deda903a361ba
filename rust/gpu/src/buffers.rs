//! Arrays on devices by numbers: what languages and frames have instead of addresses.
//!
//! A number leads to an array as long as somebody owns it. Numbers are never used twice, so one of a released array leads nowhere.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock};

use nif::abi::{DType, Device as DeviceNumber, Tensor};

use crate::driver::Address;
use crate::error::{Error, Result};
use crate::handle::Numbers;

/// Arrays whose axes are kept on a thread after they were asked for: a call has at most 16 arguments.
const KEPT: usize = 32;

/// An array on a device.
#[derive(Clone)]
pub struct Entry {
    pub address: Address,
    pub bytes: usize,
    pub dtype: DType,
    /// Its lengths; row-major.
    pub lengths: Arc<[i64]>,
    pub device: DeviceNumber,
    /// It must not be written to.
    pub is_read_only: bool,
}

impl Entry {
    /// It, for a call that writes to it or doesn't.
    ///
    /// # Errors
    /// [`Error::ReadOnly`].
    pub fn checked(self, is_written: bool) -> Result<Self> {
        if is_written && self.is_read_only { Err(Error::ReadOnly) } else { Ok(self) }
    }

    /// As functions get it. The tensor leads to the entry's lengths.
    #[must_use]
    pub fn tensor(&self) -> Tensor {
        Tensor {
            data: std::ptr::with_exposed_provenance_mut(usize::try_from(self.address).unwrap_or(0)),
            device: self.device,
            ndim: i32::try_from(self.lengths.len()).unwrap_or(0),
            dtype: self.dtype,
            shape: self.lengths.as_ptr().cast_mut(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        }
    }
}

/// How a process that has no arrays of its own learns of one, or of a kernel: a worker asks its host, which tells by [`publish`] or
/// [`adopt`](crate::kernels::adopt).
#[derive(Clone, Copy)]
pub struct Ask {
    pub array: fn(u64) -> Result<()>,
    pub kernel: fn(u64) -> Result<()>,
}

pub(crate) static ASK: OnceLock<Ask> = OnceLock::new();

/// Ask so for every number that isn't known here.
pub fn ask_by(ask: Ask) {
    let _ = ASK.set(ask);
}

static BUFFERS: LazyLock<RwLock<Numbers<Entry>>> = LazyLock::new(RwLock::default);

thread_local! {
    static LAST: RefCell<VecDeque<Arc<[i64]>>> = const { RefCell::new(VecDeque::new()) };
}

/// Let a number lead to an array.
pub fn publish(number: u64, entry: Entry) {
    BUFFERS.write().unwrap_or_else(PoisonError::into_inner).insert(number, entry);
}

/// It leads nowhere from now on.
pub fn forget(number: u64) {
    BUFFERS.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
}

/// Where a number leads.
///
/// # Errors
/// [`Error::Stale`] for an array that was released, [`Error::Unknown`] for what can be no number of one.
pub fn find(number: u64) -> Result<Entry> {
    if let Some(entry) = known(number) {
        return Ok(entry);
    }
    let Some(ask) = ASK.get() else {
        return Err(if crate::handle::was_given(number) { Error::Stale } else { Error::Unknown });
    };
    (ask.array)(number)?;
    known(number).ok_or(Error::Unknown)
}

fn known(number: u64) -> Option<Entry> {
    BUFFERS.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
}

/// The same, with axes that stay for the rest of the call.
///
/// # Errors
/// As of [`find`].
pub fn find_for_call(number: u64) -> Result<Entry> {
    let entry = find(number)?;
    LAST.with_borrow_mut(|last| {
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(Arc::clone(&entry.lengths));
    });
    Ok(entry)
}
