//! What a NIF is called with: the description that the table, the checks and the error texts come from.

use std::fmt;

use crate::abi::Call;
use crate::args::Argument;

/// The extent of an array that isn't there.
pub(crate) const ABSENT: i64 = -1;

/// The type of a parameter, without its dimensions.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One value of that type: `f64`, `i32`, `str`.
    Scalar(&'static str),
    /// A function of the caller's, and what spells its type.
    Callback { spell: fn() -> String },
    /// Contiguous memory of any element type and rank.
    Any,
    /// `rank` axes of one element type.
    Array { element: &'static str, rank: usize, mutable: bool },
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    pub name: &'static str,
    pub kind: Kind,
    /// It may be None.
    pub is_optional: bool,
    pub dims: &'static [&'static str],
}

impl Param {
    /// A parameter of type `T`. `dims` are the names between the brackets, `["..."]` for any shape.
    ///
    /// # Panics
    ///
    /// When the dimensions don't fit the type; this runs while the function is compiled.
    #[must_use]
    pub const fn new<'a, T: Argument<'a>>(name: &'static str, dims: &'static [&'static str]) -> Self {
        let any_shape = dims.len() == 1 && matches!(dims[0].as_bytes(), b"...");
        match T::KIND {
            Kind::Any => assert!(any_shape, "an AnyArray is written `name[...]` in the documentation's first line"),
            Kind::Array { rank: 1, .. } => {
                assert!(
                    dims.len() == 1 && !any_shape,
                    "a slice is written `name[n]` in the documentation's first line"
                );
            }
            Kind::Array { .. } => {
                assert!(dims.len() == 2, "a matrix is written `name[m, n]` in the documentation's first line");
            }
            Kind::Scalar(_) | Kind::Callback { .. } => {
                assert!(dims.is_empty(), "a scalar has no dimensions in the documentation's first line");
            }
        }
        Self { name, kind: T::KIND, is_optional: T::IS_OPTIONAL, dims }
    }

    pub(crate) const fn is_mutable(&self) -> bool {
        matches!(self.kind, Kind::Array { mutable: true, .. })
    }

    /// Whether the Lab makes this argument when it is left out.
    const fn is_output(&self) -> bool {
        // Prefixes of strings can't be compared in const functions yet.
        let named_out = matches!(self.name.as_bytes(), b"out" | [b'o', b'u', b't', b'_', ..]);
        self.is_mutable() && named_out
    }
}

/// The type as errors spell it: `f64[m,n]`.
impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Scalar(name) => f.write_str(name),
            Kind::Callback { spell } => f.write_str(&spell()),
            Kind::Any => f.write_str("any[...]"),
            Kind::Array { element, .. } => write!(f, "{element}[{}]", self.dims.join(",")),
        }?;
        f.write_str(if self.is_optional { "?" } else { "" })
    }
}

/// An exported function.
#[derive(Debug)]
pub struct Nif {
    pub name: &'static str,
    pub params: &'static [Param],
    /// Spells the type of the result, given the names of a tuple's values.
    pub result: fn(&[&str]) -> String,
    /// Those names, or none.
    pub result_names: &'static [&'static str],
    pub doc: &'static str,
    pub flags: u32,
    pub call: Call,
}

impl Nif {
    pub(crate) fn signature(&self) -> String {
        let spell = |it: &Param| format!("{}: {}{it}", it.name, if it.is_mutable() { "mut " } else { "" });
        let params: Vec<_> = self.params.iter().map(spell).collect();
        format!("{}({}) -> {}", self.name, params.join(", "), (self.result)(self.result_names))
    }
}

/// A tuple's values have a name each, or none has.
///
/// # Panics
///
/// When they don't; this runs while the function is compiled.
pub const fn check_results(count: usize, names: &[&str]) {
    assert!(
        names.is_empty() || (names.len() == count && count > 1),
        "the documentation names the values of a tuple, one by one: `stats(x[n]) -> (mean, count)`"
    );
}

/// Outputs come last, so that a caller can leave them out.
///
/// # Panics
///
/// When they don't; this runs while the function is compiled.
pub const fn check_order(params: &[Param]) {
    let mut index = 1;
    while index < params.len() {
        assert!(
            params[index].is_output() || !params[index - 1].is_output(),
            "outputs (mutable arrays named `out` or `out_…`) come after all other parameters"
        );
        index += 1;
    }
}
