//! Callbacks: the host calls an argument of the running call, and answers with what that gave.

use std::ffi::c_void;
use std::ptr::null_mut;

use nif::abi::{Any, AnyValue, DType, Object, type_index};

use super::{SERVING, Server};
use crate::channel::{ReplyHead, Value, reply, request};
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
        let put: Vec<Value> = values
            .iter()
            // SAFETY: any bits are a number.
            .map(|it| Value { type_index: it.type_index, zero: 0, value: unsafe { it.v.i }.cast_unsigned() })
            .collect();
        let size = size_of_val(put.as_slice());
        // SAFETY: plain numbers without gaps.
        let length = self.write_room(unsafe { std::slice::from_raw_parts(put.as_ptr().cast(), size) });
        let head = ReplyHead {
            what: reply::CALL_BACK,
            status: 0,
            kind: 0,
            argument: i32::try_from(argument).ok()?,
            type_index: type_index::NONE,
            length,
            value: 0,
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
        let it = given.arguments[0];
        (given.what == request::GRANT).then_some(Any {
            type_index: it.kind,
            zero: 0,
            v: AnyValue { i: it.value.cast_signed() },
        })
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
