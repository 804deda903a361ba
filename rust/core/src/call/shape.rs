//! The type of a callback, `fn(f64,f64[_])->f64`, as a call needs it.

use nif::abi::DType;

use crate::call::callback::{Gives, MOST};
use crate::call::signature::Kind;
use crate::python::dtype;

/// A value that a callback takes, as far as a call needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Passed {
    /// A number or a truth value.
    Number,
    /// The 64 bits of an integer without a sign.
    Unsigned,
    /// `f64[_]`, or `mut f64[_]` whose elements come back.
    Array { element: DType, is_mutable: bool },
}

impl Passed {
    /// None for what can't be passed.
    fn parse(spelled: &str) -> Option<Self> {
        let plain = spelled.strip_prefix("mut ").unwrap_or(spelled);
        if let Some(element) = plain.strip_suffix("[_]") {
            return Some(Self::Array { element: dtype::named(element)?, is_mutable: plain.len() != spelled.len() });
        }
        match Kind::of(spelled)? {
            Kind::Unsigned => Some(Self::Unsigned),
            Kind::Bool | Kind::Int | Kind::Float => Some(Self::Number),
            _ => None,
        }
    }
}

/// A callback's type, `fn(f64,u64)->f64`, as far as a call needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Each value that it takes.
    pub takes: Vec<Passed>,
    pub gives: Gives,
    pub gives_name: String,
}

impl Shape {
    /// None for what isn't a callback's type.
    pub fn parse(spelled: &str) -> Option<Self> {
        let (takes, gives) = spelled.strip_prefix("fn(")?.split_once(")->")?;
        let takes: Vec<&str> = takes.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
        if takes.len() > MOST {
            return None;
        }
        let takes = takes.into_iter().map(Passed::parse).collect::<Option<Vec<_>>>()?;
        let signed = |bits: u32| Gives::Int(-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
        let unsigned = |bits: u32| Gives::Int(0, (1 << bits) - 1);
        let what = match gives {
            "None" => Gives::Nothing,
            "bool" => Gives::Bool,
            "f32" | "f64" => Gives::Float,
            _ => match gives.split_at_checked(1)? {
                ("i", bits) => signed(bits.parse().ok().filter(|it| matches!(it, 8 | 16 | 32 | 64))?),
                ("u", bits) => unsigned(bits.parse().ok().filter(|it| matches!(it, 8 | 16 | 32 | 64))?),
                _ => return None,
            },
        };
        Some(Self { takes, gives: what, gives_name: gives.into() })
    }
}
