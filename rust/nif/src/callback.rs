//! Callbacks: parameters that are functions of the caller's.
#![allow(unsafe_code, reason = "calls what the caller lends")]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::abi::{Any, AnyValue, DEVICE_CPU, Device, Object, Tensor, type_index};
use crate::args::{Argument, Raw, extent};
use crate::element::Element;
use crate::error::Error;
use crate::signature::{Kind, Param};
use crate::value::Value;

/// A function of the caller's, Python's as a rule: `f: Callback<fn(f64) -> f64>`. It is borrowed for the call.
///
/// ```
/// # use nif::{Callback, Error};
/// fn midpoint(f: Callback<fn(f64) -> f64>, a: f64, b: f64) -> Result<f64, Error> {
///     Ok(f.call((a + b) / 2.0)? * (b - a))
/// }
/// ```
///
/// Numbers, truth values and slices (`fn(&[f64], &mut [f64])`) go in, a number or a truth value comes out. A callable gets a
/// slice as an array of its own; what it writes there comes back for a `&mut`. When it fails (it raised an exception), `call` gives an error; with `?` the
/// caller gets that same exception. Other threads may call it in a function that is `long`, in the direct lane.
#[derive(Debug)]
pub struct Callback<'a, F> {
    object: NonNull<Object>,
    lent: PhantomData<&'a Object>,
    of: PhantomData<fn() -> F>,
}

impl<F> Clone for Callback<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Callback<'_, F> {}

// SAFETY: its host decides which threads may call it, and refuses the others.
unsafe impl<F> Send for Callback<'_, F> {}
// SAFETY: as above.
unsafe impl<F> Sync for Callback<'_, F> {}

/// What a callback takes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't go to a callback",
    note = "a callback takes f64, f32, i8 to i64, u8 to u64, isize, usize, bool, &[T] and &mut [T]; in a type of its own the \
            slices are written Slice<T> and SliceMut<T>"
)]
pub trait Passed {
    /// How signatures spell it.
    fn spell() -> String;

    /// The value itself.
    type Given<'a>;
    /// What is kept of it while the callback runs.
    type Held;

    fn hold(given: Self::Given<'_>) -> Self::Held;

    /// As the ABI has it.
    fn any(held: &mut Self::Held) -> Any;
}

/// What a callback gives.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't come from a callback",
    note = "a callback gives f64, f32, i8 to i64, u8 to u64, isize, usize, bool or nothing"
)]
pub trait Returned: Sized {
    const NAME: &'static str;

    /// None for what it can't be.
    fn from_any(value: &Any) -> Option<Self>;
}

/// In the type of a callback: a `&[T]`, which `#[nif]` writes this way. (A function type with a reference in it is a type for
/// each lifetime.)
#[derive(Debug)]
pub struct Slice<T>(PhantomData<T>);

/// The same of a `&mut [T]`.
#[derive(Debug)]
pub struct SliceMut<T>(PhantomData<T>);

/// A vector that is lent to a callback.
#[derive(Debug)]
pub struct Lent {
    tensor: Tensor,
    length: i64,
}

impl Lent {
    fn new<T: Element>(data: *mut T, length: usize) -> Self {
        let tensor = Tensor {
            data: data.cast(),
            device: Device { r#type: DEVICE_CPU, id: 0 },
            ndim: 1,
            dtype: T::DTYPE,
            shape: std::ptr::null_mut(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        };
        Self { tensor, length: extent(length) }
    }

    fn any(&mut self) -> Any {
        self.tensor.shape = &raw mut self.length;
        Any { type_index: type_index::TENSOR, zero: 0, v: AnyValue { p: (&raw mut self.tensor).cast() } }
    }
}

impl<T: Element> Passed for Slice<T> {
    fn spell() -> String {
        format!("{}[_]", T::NAME)
    }

    type Given<'a> = &'a [T];
    type Held = Lent;

    fn hold(given: &[T]) -> Lent {
        Lent::new(given.as_ptr().cast_mut(), given.len())
    }

    fn any(held: &mut Lent) -> Any {
        held.any()
    }
}

impl<T: Element> Passed for SliceMut<T> {
    fn spell() -> String {
        format!("mut {}[_]", T::NAME)
    }

    type Given<'a> = &'a mut [T];
    type Held = Lent;

    fn hold(given: &mut [T]) -> Lent {
        Lent::new(given.as_mut_ptr(), given.len())
    }

    fn any(held: &mut Lent) -> Any {
        held.any()
    }
}

/// The type of a callback: `fn(f64, i64) -> f64`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be called back",
    note = "write `Callback<fn(f64, &[f64]) -> f64>`; up to six numbers, truth values or slices go in, a number, a truth value or nothing \
            comes out"
)]
pub trait Callable {
    fn spell() -> String;
}

macro_rules! passed {
    ($($type:ty as $name:literal: $index:ident $field:ident |$it:ident| $to:expr, $from:expr;)+) => {
        $(impl Passed for $type {
            fn spell() -> String {
                $name.to_owned()
            }

            type Given<'a> = Self;
            type Held = Any;

            #[inline]
            fn hold($it: Self) -> Any {
                Any { type_index: type_index::$index, zero: 0, v: AnyValue { $field: $to } }
            }

            #[inline]
            fn any(held: &mut Any) -> Any {
                *held
            }
        }

        impl Returned for $type {
            const NAME: &'static str = $name;

            #[inline]
            fn from_any(value: &Any) -> Option<Self> {
                // SAFETY: the type index says which field counts.
                let $it = unsafe { Number::of(value) }?;
                $from
            }
        })+
    };
}

/// What came.
enum Number {
    Int(i64),
    Bool(bool),
    Float(f64),
}

impl Number {
    /// # Safety
    ///
    /// The value's type index is true.
    #[inline]
    unsafe fn of(value: &Any) -> Option<Self> {
        // SAFETY: as above.
        unsafe {
            match value.type_index {
                type_index::INT => Some(Self::Int(value.v.i)),
                type_index::BOOL => Some(Self::Bool(value.v.i != 0)),
                type_index::FLOAT => Some(Self::Float(value.v.f)),
                _ => None,
            }
        }
    }

    #[inline]
    fn float(&self) -> f64 {
        match *self {
            Self::Int(it) => it as f64,
            Self::Bool(it) => f64::from(it),
            Self::Float(it) => it,
        }
    }

    #[inline]
    fn int(&self) -> Option<i64> {
        match *self {
            Self::Int(it) => Some(it),
            Self::Bool(it) => Some(it.into()),
            Self::Float(_) => None,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounded, as NumPy does; 64 bits each")]
const _: () = {
    passed! {
        f64 as "f64": FLOAT f |it| it, Some(it.float());
        f32 as "f32": FLOAT f |it| it.into(), Some(it.float() as f32);
        i8 as "i8": INT i |it| it.into(), it.int()?.try_into().ok();
        i16 as "i16": INT i |it| it.into(), it.int()?.try_into().ok();
        i32 as "i32": INT i |it| it.into(), it.int()?.try_into().ok();
        i64 as "i64": INT i |it| it, it.int();
        u8 as "u8": INT i |it| it.into(), it.int()?.try_into().ok();
        u16 as "u16": INT i |it| it.into(), it.int()?.try_into().ok();
        u32 as "u32": INT i |it| it.into(), it.int()?.try_into().ok();
        u64 as "u64": INT i |it| it.cast_signed(), it.int().map(i64::cast_unsigned);
        isize as "i64": INT i |it| it as i64, it.int().map(|int| int as isize);
        usize as "u64": INT i |it| (it as u64).cast_signed(), it.int().map(|int| int.cast_unsigned() as usize);
        bool as "bool": BOOL i |it| it.into(), if let Number::Bool(it) = it { Some(it) } else { None };
    }
};

/// Whatever comes is ignored.
impl Returned for () {
    const NAME: &'static str = "None";

    fn from_any(_value: &Any) -> Option<Self> {
        Some(())
    }
}

macro_rules! callables {
    ($($count:literal: $($name:ident $type:ident)*;)+) => {
        $(
            impl<$($type: Passed,)* R: Returned> Callable for fn($($type),*) -> R {
                fn spell() -> String {
                    let takes: [String; $count] = [$($type::spell()),*];
                    format!("fn({})->{}", takes.join(","), R::NAME)
                }
            }

            impl<$($type: Passed,)* R: Returned> Callback<'_, fn($($type),*) -> R> {
                /// Call it.
                ///
                /// # Errors
                ///
                /// When it failed; the host keeps the reason for whoever made the running call.
                #[inline]
                pub fn call(&self, $($name: $type::Given<'_>),*) -> Result<R, Error> {
                    $(let mut $name = $type::hold($name);)*
                    let values: [Any; $count] = [$($type::any(&mut $name)),*];
                    self.invoke(&values).and_then(|it| R::from_any(&it).ok_or_else(|| unexpected(R::NAME)))
                }
            }
        )+
    };
}

callables! {
    0: ;
    1: a A;
    2: a A b B;
    3: a A b B c C;
    4: a A b B c C d D;
    5: a A b B c C d D e E;
    6: a A b B c C d D e E f F;
}

impl<F> Callback<'_, F> {
    #[inline]
    fn invoke(&self, values: &[Any]) -> Result<Any, Error> {
        let mut result = Any { type_index: type_index::NONE, zero: 0, v: AnyValue { i: 0 } };
        let (object, count) = (self.object.as_ptr(), i32::try_from(values.len()).unwrap_or(i32::MAX));
        // SAFETY: the caller lends the object for the running call; the values and the result live through it.
        let status = unsafe { ((*object).call)(object.cast::<c_void>(), values.as_ptr(), count, &raw mut result) };
        if status == 0 { Ok(result) } else { Err(Error::Raised) }
    }
}

#[cold]
fn unexpected(name: &str) -> Error {
    Error::Other(format!("a callback gave something else than {name}").into())
}

/// A callback by its address.
#[derive(Clone, Copy, Debug)]
pub struct RawCallback(NonNull<Object>);

impl Raw for RawCallback {}

impl<'a, F: Callable> Argument<'a> for Callback<'a, F> {
    const KIND: Kind = Kind::Callback { spell: F::spell };
    type Raw = RawCallback;

    fn read(value: Value<'a>, param: &Param) -> Result<RawCallback, Error> {
        let object = value.function().and_then(|it| NonNull::new(it.cast_mut()));
        object.map(RawCallback).ok_or_else(|| Error::type_(param.name, format!("expected {param}, got {value}")))
    }

    unsafe fn make(raw: RawCallback) -> Self {
        Self { object: raw.0, lent: PhantomData, of: PhantomData }
    }
}
