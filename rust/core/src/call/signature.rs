//! A function's signature, read from its text: `dot(x: f64[n], y: f64[n]) -> f64`.
//!
//! The grammar is in docs/abi.md. The Lab needs it for what a callee can't do: keywords, outputs that were left out,
//! read-only arrays, `inspect.signature`.

use std::ffi::CString;

use crate::call::shape::Shape;

/// The most parameters a NIF may have, and the most values of a result.
pub const MAX_PARAMS: usize = 16;

/// Where the length of an output's axis comes from when the caller leaves the output out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extent {
    /// The value of an integer parameter.
    Scalar(usize),
    /// An axis of an array parameter: (parameter, axis).
    Axis(usize, usize),
}

/// What a parameter is when the caller leaves it out.
#[derive(Clone, Debug, PartialEq)]
pub enum Default {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(CString),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    pub name: String,
    /// The type as written, without `mut` and `?`: `f64[n]`.
    pub spelled: String,
    pub mutable: bool,
    /// It may be None.
    pub is_optional: bool,
    /// Set where the Lab can allocate the array itself: the element type and the axes.
    pub output: Option<(String, Vec<Extent>)>,
    pub default: Option<Default>,
    /// Set for a callback.
    pub callback: Option<Shape>,
    /// It has no place among the positional arguments.
    pub is_keyword: bool,
}

impl Param {
    /// Do its integers go from 0 to 2^64 - 1? The ABI carries their bits, so that only the Lab sees a sign.
    #[inline]
    pub fn is_unsigned(&self) -> bool {
        self.spelled == "u64"
    }

    /// One complex number, which crosses as an array without axes.
    pub fn is_complex(&self) -> bool {
        matches!(self.spelled.as_str(), "c64" | "c128")
    }

    /// The type as errors spell it.
    pub fn shown(&self) -> String {
        format!("{}{}", self.spelled, if self.is_optional { "?" } else { "" })
    }

    /// A list of texts, which crosses as their bytes.
    pub fn is_texts(&self) -> bool {
        self.spelled == TEXTS
    }

    fn is_required(&self) -> bool {
        self.output.is_none() && self.default.is_none()
    }
}

/// How signatures spell a list of texts.
pub const TEXTS: &str = "str[_]";

/// What Python gets of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    None,
    Bool,
    Int,
    /// The 64 bits of an integer without a sign.
    Unsigned,
    Float,
    /// An array without axes.
    Complex,
    Str,
    Bytes,
    /// A list of texts, in one run of bytes.
    Texts,
    Array,
    /// Whatever comes.
    Any,
}

impl Kind {
    pub fn of(spelled: &str) -> Option<Self> {
        Some(match spelled {
            "None" => Self::None,
            "bool" => Self::Bool,
            "u64" => Self::Unsigned,
            "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" => Self::Int,
            "f32" | "f64" => Self::Float,
            "c64" | "c128" => Self::Complex,
            "str" => Self::Str,
            "bytes" => Self::Bytes,
            "any" => Self::Any,
            TEXTS => Self::Texts,
            _ => array(spelled).map(|_| Self::Array)?,
        })
    }
}

/// One value of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    pub kind: Kind,
    /// It may be None instead.
    pub is_optional: bool,
}

impl Item {
    fn parse(text: &str) -> Option<Self> {
        let plain = text.strip_suffix('?').unwrap_or(text);
        Some(Self { kind: Kind::of(plain)?, is_optional: plain.len() != text.len() })
    }
}

/// A result of several values: `(mean: f64, n: i64)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Several {
    pub items: Vec<Item>,
    /// Their names, where they have some.
    pub names: Vec<String>,
    /// There may be none of them.
    pub is_optional: bool,
}

impl Several {
    /// None for what isn't a tuple.
    fn parse(text: &str) -> Option<Self> {
        let plain = text.strip_suffix('?').unwrap_or(text);
        let parts = split(plain.strip_prefix('(')?.strip_suffix(')')?);
        let named: Vec<_> = parts.iter().map(|it| it.split_once(": ").map_or(("", *it), |both| both)).collect();
        let items = named.iter().map(|(_, type_)| Item::parse(type_)).collect::<Option<Vec<_>>>()?;
        let names: Vec<_> = named.iter().map(|(name, _)| (*name).to_owned()).filter(|it| !it.is_empty()).collect();
        let is_whole = (1..=MAX_PARAMS).contains(&items.len()) && (names.is_empty() || names.len() == items.len());
        is_whole.then_some(Self { items, names, is_optional: plain.len() != text.len() })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    pub name: String,
    pub params: Vec<Param>,
    /// The result where it is one value.
    pub kind: Kind,
    /// The result where it is a tuple.
    pub several: Option<Several>,
    /// It takes any number of arguments up to that of the parameters, which have no names: `f(...) -> any`.
    pub is_open: bool,
    has_keywords: bool,
}

/// The axes of `f64[m,n]`: its element type and its dimension names.
fn array(spelled: &str) -> Option<(&str, Vec<&str>)> {
    let (element, rest) = spelled.split_once('[')?;
    let dims = rest.strip_suffix(']')?;
    Some((element, dims.split(',').map(str::trim).collect()))
}

fn is_integer(spelled: &str) -> bool {
    matches!(Kind::of(spelled), Some(Kind::Int | Kind::Unsigned))
}

fn is_output(param: &Param) -> bool {
    param.mutable && (param.name == "out" || param.name.starts_with("out_"))
}

impl Signature {
    /// A bit for each parameter of which it is true.
    pub fn bits(&self, is: impl Fn(&Param) -> bool) -> u32 {
        self.params.iter().enumerate().fold(0, |bits, (i, it)| bits | u32::from(is(it)) << i)
    }

    /// Read a signature; the error says what doesn't fit.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("signature '{text}': {what}");
        let (name, rest) = text.split_once('(').ok_or_else(|| wrong("no '('"))?;
        let close = outside(rest).find(|(_, c, depth)| *c == ')' && *depth == 0).ok_or_else(|| wrong("no ')'"))?.0;
        let (inside, tail) = (&rest[..close], &rest[close + 1..]);
        let result = tail.strip_prefix(" -> ").ok_or_else(|| wrong("no ' -> result'"))?;
        let several = Several::parse(result);
        let kind = match (Item::parse(result), &several) {
            (Some(one), _) => one.kind,
            (None, Some(_)) => Kind::Any,
            (None, None) => return Err(wrong("an unknown type of result")),
        };
        if inside == "..." {
            // Nobody knows what it writes to.
            let any = Param {
                name: String::new(),
                spelled: "any".into(),
                mutable: true,
                is_optional: false,
                output: None,
                default: None,
                callback: None,
                is_keyword: false,
            };
            let params = vec![any; MAX_PARAMS];
            return Ok(Self { name: name.into(), params, kind, several, is_open: true, has_keywords: false });
        }
        let mut params = Vec::new();
        let mut has_keywords = false;
        for part in split(inside) {
            if part == "*" {
                has_keywords = true;
                continue;
            }
            let (name, spelled) = part.split_once(": ").ok_or_else(|| wrong("a parameter without ': type'"))?;
            let (spelled, value) = spelled.split_once(" = ").map_or((spelled, None), |(it, text)| (it, Some(text)));
            let (mutable, spelled) = match spelled.strip_prefix("mut ") {
                Some(rest) => (true, rest),
                None => (false, spelled),
            };
            let (is_optional, spelled) = match spelled.strip_suffix('?') {
                Some(rest) => (true, rest),
                None => (false, spelled),
            };
            let default = match value {
                None => None,
                Some("None") if is_optional => Some(Default::None),
                Some(text) => Some(default(spelled, text).ok_or_else(|| wrong("a default value that can't be read"))?),
            };
            let is_keyword = has_keywords;
            let callback = Shape::parse(spelled);
            if callback.is_none() && spelled.starts_with("fn(") {
                return Err(wrong("a callback that can't be read"));
            }
            params.push(Param {
                name: name.into(),
                spelled: spelled.into(),
                mutable,
                is_optional,
                output: None,
                default,
                callback,
                is_keyword,
            });
        }
        for i in 0..params.len() {
            if is_output(&params[i]) {
                params[i].output = extents(&params, i);
            }
        }
        let first = params.iter().position(is_output).unwrap_or(params.len());
        if params[first..].iter().any(|p| !is_output(p) && !p.is_keyword) {
            return Err(wrong("outputs come last"));
        }
        // What may be None may be left out, where nothing after it must be given.
        for it in params.iter_mut().rev().filter(|it| !it.is_keyword) {
            if it.is_required() && !it.is_optional {
                break;
            }
            if it.is_required() {
                it.default = Some(Default::None);
            }
        }
        Ok(Self { name: name.into(), params, kind, several, is_open: false, has_keywords })
    }

    /// Is that every argument by its place, with no output left out?
    #[inline]
    pub fn is_whole(&self, given: usize) -> bool {
        (given == self.params.len() && !self.has_keywords) || (self.is_open && given < self.params.len())
    }

    /// How many arguments a caller must give by their places.
    pub fn required(&self) -> usize {
        self.params.iter().filter(|p| p.is_required() && !p.is_keyword).count()
    }

    /// How many arguments have a place.
    pub fn positional(&self) -> usize {
        self.params.iter().filter(|p| !p.is_keyword).count()
    }

    /// The first parameter that a caller must give and that isn't in `has`.
    pub fn missing(&self, has: impl Fn(usize) -> bool) -> Option<&Param> {
        self.params.iter().enumerate().find(|(i, p)| p.is_required() && !has(*i)).map(|(_, p)| p)
    }

    /// May its result be in memory that it asks its host for?
    pub fn returns_memory(&self) -> bool {
        let in_memory =
            |kind| matches!(kind, Kind::Complex | Kind::Str | Kind::Bytes | Kind::Texts | Kind::Array | Kind::Any);
        self.several.as_ref().map_or(in_memory(self.kind), |it| it.items.iter().any(|it| in_memory(it.kind)))
    }

    /// Can a call be made without a look at what the signature says, once all arguments are there?
    pub fn is_plain(&self) -> bool {
        let plain = |it: &Param| it.output.is_none() && !it.is_unsigned() && !it.is_keyword && !it.is_texts();
        self.params.iter().all(plain) && self.several.is_none() && !self.returns_memory()
    }

    /// As Python's `inspect` reads it from a built-in's documentation: `axpy(a, x, y)`.
    pub fn python(&self) -> String {
        if self.is_open {
            return format!("{}(*args)", self.name);
        }
        let mut params = Vec::new();
        for p in &self.params {
            if p.is_keyword && !params.iter().any(|it| it == "*") {
                params.push("*".to_owned());
            }
            params.push(match &p.default {
                None if p.output.is_some() => format!("{}=None", p.name),
                None => p.name.clone(),
                Some(Default::None) => format!("{}=None", p.name),
                Some(Default::Bool(true)) => format!("{}=True", p.name),
                Some(Default::Bool(false)) => format!("{}=False", p.name),
                Some(Default::Int(it)) => format!("{}={it}", p.name),
                Some(Default::Float(it)) if it.is_finite() => format!("{}={it:?}", p.name),
                Some(Default::Float(it)) => format!("{}=float('{it}')", p.name).to_lowercase(),
                Some(Default::Str(it)) => format!("{}={:?}", p.name, it.to_string_lossy()),
            });
        }
        format!("{}({})", self.name, params.join(", "))
    }
}

/// The characters of a text outside of quotes, each with its place and how many brackets are open around it.
fn outside(text: &str) -> impl Iterator<Item = (usize, char, usize)> {
    let (mut depth, mut is_quoted, mut is_escaped) = (0usize, false, false);
    text.char_indices().filter_map(move |(i, c)| {
        if is_quoted {
            is_quoted = is_escaped || c != '"';
            is_escaped = c == '\\' && !is_escaped;
            return None;
        }
        match c {
            '"' => {
                is_quoted = true;
                return None;
            }
            '[' | '(' => depth += 1,
            ']' | ')' if depth > 0 => {
                depth -= 1;
                return Some((i, c, depth + 1));
            }
            _ => {}
        }
        Some((i, c, depth))
    })
}

/// `x: f64[m,n], y: f64` has one comma that counts.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    for (i, c, depth) in outside(text) {
        if c == ',' && depth == 0 {
            parts.push(text[start..i].trim());
            start = i + 1;
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

/// The value that `text` spells, for a parameter of that type.
fn default(spelled: &str, text: &str) -> Option<Default> {
    Some(match Kind::of(spelled)? {
        Kind::Bool => Default::Bool(text.parse().ok()?),
        Kind::Int => Default::Int(text.parse().ok()?),
        Kind::Unsigned => Default::Int(text.parse::<u64>().ok()?.cast_signed()),
        Kind::Float => Default::Float(text.parse().ok()?),
        Kind::Str => {
            let inside = text.strip_prefix('"')?.strip_suffix('"')?;
            let mut plain = String::new();
            let mut characters = inside.chars();
            while let Some(c) = characters.next() {
                plain.push(if c == '\\' { characters.next()? } else { c });
            }
            Default::Str(CString::new(plain).ok()?)
        }
        _ => return None,
    })
}

fn extents(params: &[Param], output: usize) -> Option<(String, Vec<Extent>)> {
    let (element, dims) = array(&params[output].spelled)?;
    let find = |dim: &str| {
        let scalar = params.iter().position(|p| is_integer(&p.spelled) && p.name == dim).map(Extent::Scalar);
        scalar.or_else(|| {
            params.iter().enumerate().filter(|(_, p)| !is_output(p)).find_map(|(i, p)| {
                let (_, dims) = array(&p.spelled)?;
                dims.iter().position(|d| *d == dim).map(|axis| Extent::Axis(i, axis))
            })
        })
    };
    let axes: Option<Vec<Extent>> = dims.iter().map(|d| find(d)).collect();
    (element != "any").then_some(())?;
    Some((element.into(), axes?))
}

#[cfg(test)]
mod tests;
