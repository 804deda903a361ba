//! NIFs called as a host calls them: through the table.
#![allow(clippy::cast_possible_truncation, reason = "sizes of structs")]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use nif::abi::{self, Any, AnyValue, DType, Device, Env, Host, Library, Tensor, error_kind, flag, type_index};
use nif::{AnyArray, Bytes, Callback, Error, Matrix, MatrixMut, nif};

/// `scale(a, x[n], out[n])`: out = a x.
///
/// Twice.
#[nif(long, idempotent)]
pub fn scale(a: f64, x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = a as f32 * x);
}

/// fill(count, value, out[count, count]): out = value.
#[nif]
#[allow(clippy::elidable_lifetime_names, reason = "a NIF may name its lifetimes")]
fn fill<'a>(count: i64, value: bool, mut out: MatrixMut<'a, i64>) {
    for row in 0..usize::try_from(count).unwrap() {
        out.fill_row(row, &mut [0; 8], |row| row.fill(i64::from(value)));
    }
}

/// `corner(a[m, n])`: the first element.
#[nif(pure)]
fn corner(a: Matrix<'_, u8>) -> Result<i64, Error> {
    if a.rows() == 0 { Err(Error::value("a", "is empty")) } else { Ok(i64::from(a[(0, 0)])) }
}

/// `size(x[...], text, bytes)`.
#[nif]
fn size(x: AnyArray<'_>, text: &str, bytes: Bytes<'_>) -> u64 {
    (x.bytes().len() + text.len() + bytes.0.len()) as u64
}

/// `fail(how)`: fails.
#[nif(fault, polls_cancel, thread_bound)]
fn fail(how: &str) -> Result<&'static str, Error> {
    match how {
        "memory" => Err(Vec::<u8>::new().try_reserve(usize::MAX).unwrap_err())?,
        "other" => Err(Error::Other("a\0b".into())),
        "cancel" if nif::cancelled() => Err(Error::Cancelled),
        "strange" => std::panic::panic_any(7),
        "panic" => panic!("number {}", 7),
        _ => Ok("fine"),
    }
}

/// `ramp(n)`: 0, 1, … n - 1.
#[nif]
fn ramp(n: i64) -> Result<nif::Tensor, Error> {
    let mut out = nif::Tensor::zeros::<i64>(&[n])?;
    assert!(out.elements_mut::<f64>().is_none());
    (0..).zip(out.elements_mut::<i64>().unwrap()).for_each(|(index, out)| *out = index);
    Ok(out)
}

/// `fold(f, n)`: f called again and again.
#[nif]
fn fold(f: Callback<fn(f64, i32) -> f64>, n: i32) -> Result<f64, Error> {
    (0..n).try_fold(1.0, |total, i| f.call(total, i))
}

/// `rash(f)`: doesn't look at what comes.
#[nif]
fn rash(f: Callback<fn() -> u8>) -> u8 {
    f.call().unwrap()
}

nif::library!();

#[derive(Debug, PartialEq)]
struct Failure {
    kind: i32,
    argument: i32,
    message: String,
}

thread_local! {
    static FAILURE: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

unsafe extern "C" fn set_error(_: *mut Env, kind: i32, message: *const c_char, argument: i32) {
    let message = unsafe { CStr::from_ptr(message) }.to_str().unwrap().to_owned();
    FAILURE.set(Some(Failure { kind, argument, message }));
}

/// Leaks, as tests may.
fn tensor(data: *mut c_void, dtype: DType, shape: &[i64], strides: Option<&[i64]>) -> *mut Tensor {
    let leak = |numbers: &[i64]| numbers.to_vec().leak().as_mut_ptr();
    Box::leak(Box::new(Tensor {
        data,
        device: Device { r#type: abi::DEVICE_CPU, id: 0 },
        ndim: i32::try_from(shape.len()).unwrap(),
        dtype,
        shape: leak(shape),
        strides: strides.map_or(ptr::null_mut(), leak),
        byte_offset: 0,
    }))
}

unsafe extern "C" fn alloc_tensor(dtype: DType, ndim: i32, shape: *const i64) -> *mut Tensor {
    let shape = unsafe { std::slice::from_raw_parts(shape, usize::try_from(ndim).unwrap()) };
    let count = usize::try_from(shape.iter().product::<i64>()).unwrap();
    if count > 1000 {
        return ptr::null_mut();
    }
    tensor(vec![0_u64; count].leak().as_mut_ptr().cast(), dtype, shape, None)
}

unsafe extern "C" fn log(_: i32, _: *const c_char) {}

unsafe extern "C" fn progress(_: i64, _: i64) {}

static HOST: Host = Host {
    struct_size: size_of::<Host>() as u32,
    abi_version: abi::ABI_VERSION,
    set_error,
    alloc_tensor,
    log,
    progress,
    gpu: ptr::null(),
};

fn library() -> &'static Library {
    unsafe { &*nif_init(&raw const HOST) }
}

fn function(name: &str) -> &'static abi::Function {
    let library = library();
    let functions = unsafe { std::slice::from_raw_parts(library.functions, library.n_functions as usize) };
    functions.iter().find(|function| text(function.name) == name).unwrap()
}

fn text(text: *const c_char) -> &'static str {
    unsafe { CStr::from_ptr(text) }.to_str().unwrap()
}

fn call_with(cancel: i32, name: &str, args: &[Any]) -> Result<Any, Failure> {
    let mut env = Env {
        struct_size: size_of::<Env>() as u32,
        n_results: 1,
        host: &raw const HOST,
        error: ptr::null_mut(),
        cancel: &raw const cancel,
    };
    let mut result = Any { type_index: -1, zero: 0, v: AnyValue { i: 0 } };
    let n_args = i32::try_from(args.len()).unwrap();
    match unsafe { (function(name).call)((&raw mut env).cast(), args.as_ptr(), n_args, &raw mut result) } {
        0 => Ok(result),
        _ => Err(FAILURE.take().unwrap()),
    }
}

fn call(name: &str, args: &[Any]) -> Result<Any, Failure> {
    call_with(0, name, args)
}

fn value_error(argument: i32, message: &str) -> Failure {
    Failure { kind: error_kind::VALUE_ERROR, argument, message: message.to_owned() }
}

fn int(i: i64) -> Any {
    Any { type_index: type_index::INT, zero: 0, v: AnyValue { i } }
}

fn string(text: &str) -> Any {
    let p = CString::new(text).unwrap().into_raw().cast();
    Any { type_index: type_index::STR, zero: 0, v: AnyValue { p } }
}

fn array<T: nif::Element>(data: &mut [T], shape: &[i64], strides: Option<&[i64]>) -> Any {
    let p = tensor(data.as_mut_ptr().cast(), T::DTYPE, shape, strides).cast();
    Any { type_index: type_index::TENSOR, zero: 0, v: AnyValue { p } }
}

#[test]
fn the_table_describes_the_functions() {
    let scale = function("scale");
    assert_eq!(text(scale.signature), "scale(a: f64, x: f32[n], out: mut f32[n]) -> None");
    assert_eq!(text(scale.doc), "out = a x.\n\nTwice.");
    assert_eq!(scale.flags, flag::LONG | flag::IDEMPOTENT);
    assert_eq!(text(function("fill").signature), "fill(count: i64, value: bool, out: mut i64[count,count]) -> None");
    assert_eq!(text(function("size").signature), "size(x: any[...], text: str, bytes: bytes) -> u64");
    assert_eq!(text(function("size").doc), "");
    assert_eq!(text(function("fail").signature), "fail(how: str) -> str");
    assert_eq!(text(function("ramp").signature), "ramp(n: i64) -> any[...]");
    assert_eq!(function("fail").flags, flag::FAULT | flag::POLLS_CANCEL | flag::THREAD_BOUND);
    assert_eq!(text(library().library_version), env!("CARGO_PKG_VERSION"));
    assert!(text(library().compiler).starts_with("rustc "));
    assert_eq!(library().struct_hash, abi::STRUCT_HASH);
    assert!(abi::LAYOUT.starts_with("nif_tensor 48\nnif_tensor.data 0 8\n") && abi::LAYOUT.ends_with("unload 56 8"));
}

#[test]
fn callbacks_are_called_and_fail_as_they_like() {
    unsafe extern "C" fn add(_: *mut c_void, values: *const Any, count: i32, result: *mut Any) -> i32 {
        unsafe {
            if count == 2 && (*values.add(1)).v.i < 3 {
                *result = Any { v: AnyValue { f: (*values).v.f + (*values.add(1)).v.i as f64 }, ..*values };
                return 0;
            }
        }
        -1
    }
    let mut object = abi::Object {
        ref_count: 1,
        type_index: type_index::TVM_FUNCTION,
        padding: 0,
        deleter: ptr::null_mut(),
        call: add,
        cpp_call: ptr::null_mut(),
    };
    let f = Any { type_index: type_index::TVM_FUNCTION, zero: 0, v: AnyValue { p: (&raw mut object).cast() } };
    assert_eq!(text(function("fold").signature), "fold(f: fn(f64,i32)->f64, n: i32) -> f64");
    assert_eq!(unsafe { call("fold", &[f, int(3)]).ok().unwrap().v.f }.to_bits(), 4.0_f64.to_bits());
    let raised =
        || Failure { kind: error_kind::RAISED, argument: -1, message: "a callback raised an exception".into() };
    assert_eq!(call("fold", &[f, int(4)]).err(), Some(raised()));
    assert_eq!(call("rash", &[f]).err(), Some(raised()));
    let refused = call("rash", &[int(1)]).err().unwrap();
    assert_eq!((refused.kind, refused.message.as_str()), (error_kind::TYPE_ERROR, "expected fn()->u8, got i64"));
}

#[test]
fn the_table_stays_when_the_host_changes() {
    let table = ptr::from_ref(library());
    assert_eq!(unsafe { nif_init(ptr::null()) }, table);
}

#[test]
fn arrays_are_borrowed() {
    let (mut x, mut out) = ([1.0_f32, 2.0, 3.0], [0.0_f32; 3]);
    let result = call("scale", &[int(2), array(&mut x, &[3], None), array(&mut out, &[3], Some(&[1]))]).ok().unwrap();
    assert_eq!((result.type_index, out), (type_index::NONE, [2.0, 4.0, 6.0]));
    let overlapping = [int(2), array(&mut out[..2], &[2], None), array(&mut out[1..], &[2], None)];
    assert_eq!(call("scale", &overlapping).err(), Some(value_error(2, "overlaps argument 'x'")));
    // Nothing overlaps an array without elements, wherever it points.
    let (empty, all) = (array(&mut out[1..1], &[0], None), array(&mut x, &[0], None));
    assert!(call("scale", &[int(2), empty, all]).is_ok());
}

#[test]
fn parameters_fix_dimensions() {
    let mut cells = [7_i64; 6];
    let yes = Any { type_index: type_index::BOOL, zero: 0, v: AnyValue { i: 1 } };
    assert!(call("fill", &[int(2), yes, array(&mut cells, &[2, 2], Some(&[3, 2]))]).is_ok());
    assert_eq!(cells, [1, 7, 1, 1, 7, 1]);
    let wrong =
        |count, shape: &[i64]| call("fill", &[int(count), yes, array(&mut [0_i64; 6], shape, None)]).err().unwrap();
    assert_eq!(wrong(-1, &[2, 2]), value_error(0, "expected 0 or more, got -1"));
    let message = "expected i64[count,count] with count = 2, got i64[2,3]";
    assert_eq!(wrong(2, &[2, 3]), value_error(2, message));
    assert_eq!(wrong(2, &[4]), value_error(2, "expected i64[count,count], got i64[4]"));
}

#[test]
fn errors_name_the_argument() {
    let mut none = [0_u8; 0];
    assert_eq!(call("corner", &[array(&mut none, &[0, 4], None)]).err(), Some(value_error(0, "is empty")));
    let mut one = [5_u8];
    assert_eq!(unsafe { call("corner", &[array(&mut one, &[1, 1], Some(&[-9, 9]))]).ok().unwrap().v.i }, 5);
    let no_array =
        Failure { kind: error_kind::TYPE_ERROR, argument: 0, message: "expected u8[m,n], got i64".to_owned() };
    assert_eq!(call("corner", &[int(1)]).err(), Some(no_array));
}

/// How TVM-FFI keeps texts.
#[repr(C)]
struct Object {
    header: [u64; 3],
    bytes: abi::Bytes,
}

#[test]
fn texts_and_bytes_come_in_three_forms() {
    let record = abi::Bytes { data: c"bytes".as_ptr(), size: 5 };
    let bytes =
        Any { type_index: type_index::BYTES, zero: 0, v: AnyValue { p: (&raw const record).cast_mut().cast() } };
    let small = |type_index| Any { type_index, zero: 3, v: AnyValue { small: *b"abc....." } };
    let (small_str, small_bytes) = (small(type_index::TVM_SMALL_STR), small(type_index::TVM_SMALL_BYTES));
    let object = Object { header: [0; 3], bytes: record };
    let object = |type_index| Any { type_index, zero: 0, v: AnyValue { p: (&raw const object).cast_mut().cast() } };
    let mut x = [0_u16; 4];
    for (text, bytes, expected) in [
        (string("text"), bytes, 17),
        (small_str, small_bytes, 14),
        (object(type_index::TVM_STR), object(type_index::TVM_BYTES), 18),
    ] {
        assert_eq!(unsafe { call("size", &[array(&mut x, &[2, 2], None), text, bytes]).ok().unwrap().v.i }, expected);
    }
    assert_eq!(unsafe { call("size", &[bytes, string(""), bytes]).ok().unwrap().v.i }, 10);
}

#[test]
fn every_failure_has_its_kind() {
    let fail = |cancel, how| call_with(cancel, "fail", &[string(how)]);
    let kind = |kind, message: &str| Some(Failure { kind, argument: -1, message: message.to_owned() });
    assert_eq!(fail(0, "memory").err(), kind(error_kind::MEMORY_ERROR, "out of memory"));
    assert_eq!(fail(0, "other").err(), kind(error_kind::ERROR, "a\u{2400}b"));
    assert_eq!(fail(1, "cancel").err(), kind(error_kind::CANCELLED, "cancelled"));
    assert_eq!(fail(0, "panic").err(), kind(error_kind::PANIC, "number 7"));
    assert_eq!(fail(0, "strange").err(), kind(error_kind::PANIC, "panic with a value that isn't text"));
    let fine = [fail(0, "cancel").ok().unwrap(), fail(0, "").ok().unwrap()];
    assert_eq!(unsafe { fine.map(|any| text(any.v.p.cast())) }, ["fine", "fine"]);
    // One copy of each text.
    assert_eq!(unsafe { fine[0].v.p }, unsafe { fine[1].v.p });
}

#[test]
fn arrays_are_returned_in_the_hosts_memory() {
    let result = call("ramp", &[int(3)]).ok().unwrap();
    assert_eq!(result.type_index, type_index::TENSOR);
    let tensor = unsafe { *result.v.p.cast::<Tensor>() };
    assert_eq!(unsafe { *tensor.data.cast::<[i64; 3]>() }, [0, 1, 2]);
    let message = |n| call("ramp", &[int(n)]).err().unwrap().message;
    assert_eq!(message(1001), "out of memory");
    assert_eq!(message(-1), "no memory for shape [-1]");
    assert_eq!(message(i64::MAX), "no memory for shape [9223372036854775807]");
}

#[test]
fn without_a_host_a_call_still_answers() {
    let mut result = int(5);
    let n = int(2);
    let without_host = |name, n: *const Any, result| unsafe { (function(name).call)(ptr::null_mut(), n, 1, result) };
    assert_eq!(without_host("ramp", &raw const n, &raw mut result), -1);
    assert_eq!(result.type_index, type_index::INT);
}
