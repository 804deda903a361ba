//! What a worker's function gives to a callback: numbers, and arrays that lie in the reply or in a block of shared memory.

use std::ptr::NonNull;

use nif::abi::{Any, AnyValue, DEVICE_CPU, DType, Device, Tensor, type_index};
use nif_worker::channel::{ROOM, Request, Value};

use crate::call::shape::Passed;
use crate::python::dtype;

/// The values of one call of a callback. Nothing that the worker says is believed: the element types are the signature's, and
/// what lies outside the memory is no array.
pub struct Lent {
    /// Of 8 bytes each, so that the elements are aligned: the values, and the arrays behind them.
    words: Vec<u64>,
    values: Vec<Value>,
    /// For each value that is an array: the address of its elements, and their type.
    arrays: Vec<Option<(*mut u8, DType)>>,
    tensors: Vec<Tensor>,
    lengths: Vec<i64>,
}

impl Lent {
    pub fn read(room: &[u8], takes: &[Passed], block: Option<(NonNull<u8>, usize)>) -> Self {
        let mut words = vec![0_u64; room.len().div_ceil(8)];
        // SAFETY: there is room for the bytes.
        unsafe { words.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(room.as_ptr(), room.len()) };
        let size = size_of::<Value>() * takes.len();
        let mut values = Vec::with_capacity(takes.len());
        if size <= room.len() {
            for index in 0..takes.len() {
                // SAFETY: any bits are a value, and it lies in the room.
                values.push(unsafe { words.as_ptr().cast::<Value>().add(index).read() });
            }
        }
        let (base, end) = match block {
            Some((address, size)) => (address.as_ptr(), size),
            None => (words.as_mut_ptr().cast::<u8>().wrapping_add(size), room.len().saturating_sub(size)),
        };
        let mut used = 0_usize;
        let mut place = |value: &Value, passed: &Passed| {
            let Passed::Array { element, .. } = passed else { return None };
            let item = dtype::size_of(*element)?;
            let bytes = usize::try_from(value.value).ok()?.checked_mul(item)?;
            let at = used;
            used = at.checked_add(bytes)?.checked_next_multiple_of(8)?;
            (at + bytes <= end).then(|| (base.wrapping_add(at), *element))
        };
        let arrays = values.iter().zip(takes).map(|(value, passed)| place(value, passed)).collect();
        Self { words, values, arrays, tensors: Vec::new(), lengths: Vec::new() }
    }

    /// As a callback takes them. An array that isn't there is a value of no known type.
    pub fn values(&mut self) -> Vec<Any> {
        self.lengths = self.values.iter().map(|it| it.value.cast_signed()).collect();
        self.tensors.clear();
        for (array, length) in self.arrays.iter().zip(&mut self.lengths) {
            let (data, dtype) = array.unwrap_or((std::ptr::null_mut(), DType { code: 0, bits: 0, lanes: 0 }));
            self.tensors.push(Tensor {
                data: data.cast(),
                device: Device { r#type: DEVICE_CPU, id: 0 },
                ndim: 1,
                dtype,
                shape: length,
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            });
        }
        let any = |(value, tensor): (&Value, &mut Tensor)| match value.type_index {
            type_index::TENSOR => {
                Any { type_index: type_index::TENSOR, zero: 0, v: AnyValue { p: (&raw mut *tensor).cast() } }
            }
            known @ (type_index::INT | type_index::BOOL | type_index::FLOAT) => {
                Any { type_index: known, zero: 0, v: AnyValue { i: value.value.cast_signed() } }
            }
            _ => Any { type_index: type_index::NONE, zero: 0, v: AnyValue { i: 0 } },
        };
        self.values.iter().zip(&mut self.tensors).map(any).collect()
    }

    /// Put the arrays, as they are now, into the request's room.
    pub fn answer(&self, request: *mut Request) {
        let skipped = size_of::<Value>() / 8 * self.values.len();
        let words = self.words.get(skipped..).unwrap_or_default();
        if self.arrays.iter().any(Option::is_some) {
            // SAFETY: the request is the host's until it rings; the reply's room, from which the words are, isn't larger.
            unsafe {
                (&raw mut (*request).room)
                    .cast::<u64>()
                    .copy_from_nonoverlapping(words.as_ptr(), words.len().min(ROOM / 8));
            }
        }
    }
}
