//! Callbacks: the host calls an argument of the running call, and answers with what that gave.

use std::ffi::c_void;
use std::ptr::null_mut;

use nif::abi::{Any, AnyValue, DType, Object, Tensor, type_index};

use super::{SERVING, Server};
use crate::channel::{ROOM, ReplyHead, Value, reply, request};
use crate::output;

/// A callable of the host's among the arguments: the callee sees `object`.
#[repr(C)]
pub struct Callback {
    object: Object,
    argument: usize,
}

impl Server {
    /// What stands for a callable among the arguments.
    pub fn lend(&mut self, argument: usize) -> Option<AnyValue> {
        let object = Object {
            ref_count: 1 << 32 | 1,
            type_index: type_index::TVM_FUNCTION,
            padding: 0,
            deleter: null_mut(),
            call: call_back,
            cpp_call: null_mut(),
        };
        self.callbacks.push(Box::new(Callback { object, argument }));
        Some(AnyValue { p: std::ptr::from_mut(self.callbacks.last_mut()?.as_mut()).cast() })
    }

    /// Have the host call one of the arguments; none when that failed.
    fn call_back(&mut self, argument: usize, values: &[Any]) -> Option<Any> {
        let vectors: Vec<Option<Vector>> = values.iter().map(Vector::of).collect();
        let put: Vec<Value> = values
            .iter()
            .zip(&vectors)
            .map(|(it, vector)| match vector {
                Some(it) => Value { type_index: type_index::TENSOR, item: it.item, value: it.length as u64 },
                // SAFETY: any bits are a number.
                None => Value { type_index: it.type_index, item: 0, value: unsafe { it.v.i }.cast_unsigned() },
            })
            .collect();
        let size = size_of_val(put.as_slice());
        // SAFETY: plain numbers without gaps.
        let mut room = unsafe { std::slice::from_raw_parts(put.as_ptr().cast::<u8>(), size) }.to_vec();
        let elements = vectors.iter().flatten().try_fold(0_usize, |sum, it| sum.checked_add(it.padded()))?;
        let (mut block, mut value) = (null_mut(), 0);
        if size + elements <= ROOM {
            for it in vectors.iter().flatten() {
                // SAFETY: the callee lends the elements for the call.
                room.extend_from_slice(unsafe { std::slice::from_raw_parts(it.data, it.bytes) });
                room.resize(room.len().next_multiple_of(8), 0);
            }
        } else {
            (block, value) = self.scratch(elements)?;
            let mut at = block;
            for it in vectors.iter().flatten() {
                // SAFETY: the block has room for all of them.
                unsafe { at.copy_from_nonoverlapping(it.data, it.bytes) };
                at = at.wrapping_add(it.padded());
            }
        }
        let length = self.write_room(&room);
        let head = ReplyHead {
            what: reply::CALL_BACK,
            status: 0,
            kind: 0,
            argument: i32::try_from(argument).ok()?,
            type_index: type_index::NONE,
            length,
            value,
            start: 0,
            ticks: 0,
            dtype: DType { code: 0, bits: 0, lanes: 0 },
            ndim: 0,
            printed: u32::from(output::flush()),
            zero: 0,
        };
        // SAFETY: the reply is ours until the bell rings.
        unsafe { (*self.channel.reply()).head = head };
        self.answer();
        self.wait();
        // SAFETY: the host has answered.
        let given = unsafe { &*self.channel.request() };
        self.read_mail(given.mail).ok()?;
        if given.what == request::GRANT {
            let mut at = if block.is_null() { given.room.as_ptr().cast::<u8>() } else { block.cast_const() };
            for it in vectors.iter().flatten() {
                // SAFETY: as many bytes as were put there. The callee said that the callback may write to its memory, or the bytes
                // are what they were: a callable is given a copy.
                unsafe {
                    if std::slice::from_raw_parts(at, it.bytes) != std::slice::from_raw_parts(it.data, it.bytes) {
                        it.data.copy_from_nonoverlapping(at, it.bytes);
                    }
                }
                at = at.wrapping_add(it.padded());
            }
        }
        let it = given.arguments[0];
        (given.what == request::GRANT).then_some(Any {
            type_index: it.kind,
            zero: 0,
            v: AnyValue { i: it.value.cast_signed() },
        })
    }
}

/// A vector among the values.
struct Vector {
    data: *mut u8,
    length: usize,
    item: u32,
    bytes: usize,
}

impl Vector {
    /// None for what is no vector.
    fn of(value: &Any) -> Option<Self> {
        if value.type_index != type_index::TENSOR {
            return None;
        }
        // SAFETY: the type index says which field counts; a tensor of one axis has one length.
        unsafe {
            let tensor = value.v.p.cast_const().cast::<Tensor>().as_ref()?;
            if tensor.ndim != 1 || !tensor.strides.is_null() {
                return None;
            }
            let length = usize::try_from(*tensor.shape).ok()?;
            let item = u32::from(tensor.dtype.bits / 8);
            let bytes = length.checked_mul(item as usize)?;
            // Of no elements the address may be any.
            let data = if bytes == 0 { std::ptr::NonNull::dangling().as_ptr() } else { tensor.data.cast::<u8>() };
            Some(Self { data: data.wrapping_add(tensor.byte_offset as usize), length, item, bytes })
        }
    }

    /// The bytes that it takes among others.
    fn padded(&self) -> usize {
        self.bytes.next_multiple_of(8)
    }
}

impl Server {
    /// Shared memory for arrays that don't fit into a reply, and its number plus one: one block for all callbacks of a call.
    fn scratch(&mut self, bytes: usize) -> Option<(*mut u8, u64)> {
        if let Some((number, size)) = self.scratch
            && size >= bytes
        {
            return Some((self.granted.get(number)?.tensor.data.cast(), number as u64 + 1));
        }
        let to = self.allocate(DType { code: 1, bits: 8, lanes: 1 }, &[i64::try_from(bytes).ok()?])?;
        let number = self.granted.len() - 1;
        self.scratch = Some((number, bytes));
        // SAFETY: a tensor that was just made.
        Some((unsafe { (*to).data.cast() }, number as u64 + 1))
    }
}

/// The way in for a callback's callee.
unsafe extern "C" fn call_back(object: *mut c_void, values: *const Any, count: i32, result: *mut Any) -> i32 {
    // SAFETY: it points to the server that makes the running call, and is null on every other thread.
    let Some(server) = (unsafe { SERVING.get().as_mut() }) else { return -1 };
    // SAFETY: the contract gives the object of a callback, and `count` values.
    let (argument, values) = unsafe {
        let values = if count > 0 { std::slice::from_raw_parts(values, count as usize) } else { &[] };
        ((*object.cast::<Callback>()).argument, values)
    };
    let Some(given) = server.call_back(argument, values) else { return -1 };
    // SAFETY: the contract gives room for a result.
    unsafe { result.write(given) };
    0
}
