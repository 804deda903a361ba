//! A function's signature, read from its text: `dot(x: f64[n], y: f64[n]) -> f64`.
//!
//! The grammar is in docs/abi.md. The Lab needs it for what a callee can't do: keywords, outputs that were left out,
//! read-only arrays, `inspect.signature`.

/// The most parameters a NIF may have.
pub const MAX_PARAMS: usize = 16;

/// Where the length of an output's axis comes from when the caller leaves the output out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extent {
    /// The value of an `i64` parameter.
    Scalar(usize),
    /// An axis of an array parameter: (parameter, axis).
    Axis(usize, usize),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    pub name: String,
    /// The type as written, without `mut`: `f64[n]`.
    pub spelled: String,
    pub mutable: bool,
    /// Set where the Lab can allocate the array itself: the element type and the axes.
    pub output: Option<(String, Vec<Extent>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    pub name: String,
    pub params: Vec<Param>,
    pub result: String,
    /// It takes any number of arguments up to that of the parameters, which have no names: `f(...) -> any`.
    pub is_open: bool,
}

/// The axes of `f64[m,n]`: its element type and its dimension names.
fn array(spelled: &str) -> Option<(&str, Vec<&str>)> {
    let (element, rest) = spelled.split_once('[')?;
    let dims = rest.strip_suffix(']')?;
    Some((element, dims.split(',').map(str::trim).collect()))
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
        let (inside, tail) = rest.rsplit_once(')').ok_or_else(|| wrong("no ')'"))?;
        let result = tail.strip_prefix(" -> ").ok_or_else(|| wrong("no ' -> result'"))?;
        if inside == "..." {
            // Nobody knows what it writes to.
            let any = Param { name: String::new(), spelled: "any".into(), mutable: true, output: None };
            return Ok(Self { name: name.into(), params: vec![any; MAX_PARAMS], result: result.into(), is_open: true });
        }
        let mut params = Vec::new();
        for part in split_outside_brackets(inside) {
            let (name, spelled) = part.split_once(": ").ok_or_else(|| wrong("a parameter without ': type'"))?;
            let (mutable, spelled) = match spelled.strip_prefix("mut ") {
                Some(rest) => (true, rest),
                None => (false, spelled),
            };
            params.push(Param { name: name.into(), spelled: spelled.into(), mutable, output: None });
        }
        for i in 0..params.len() {
            if is_output(&params[i]) {
                params[i].output = extents(&params, i);
            }
        }
        let first = params.iter().position(is_output).unwrap_or(params.len());
        if params[first..].iter().any(|p| !is_output(p)) {
            return Err(wrong("outputs come last"));
        }
        if params.len() > MAX_PARAMS {
            return Err(wrong(&format!("more than {MAX_PARAMS} parameters")));
        }
        Ok(Self { name: name.into(), params, result: result.into(), is_open: false })
    }

    /// Is that every argument, with no output left out?
    #[inline]
    pub fn is_whole(&self, given: usize) -> bool {
        given == self.params.len() || (self.is_open && given < self.params.len())
    }

    /// How many arguments a caller must give.
    pub fn required(&self) -> usize {
        self.params.iter().take_while(|p| p.output.is_none()).count()
    }

    /// Does it return an array, which it asks its host for?
    pub fn returns_array(&self) -> bool {
        self.result.contains('[') || self.result == "any"
    }

    /// As Python's `inspect` reads it from a built-in's documentation: `axpy(a, x, y)`.
    pub fn python(&self) -> String {
        if self.is_open {
            return format!("{}(*args)", self.name);
        }
        let params: Vec<String> = self
            .params
            .iter()
            .map(|p| if p.output.is_some() { format!("{}=None", p.name) } else { p.name.clone() })
            .collect();
        format!("{}({})", self.name, params.join(", "))
    }
}

/// `x: f64[m,n], y: f64` has one comma that counts.
fn split_outside_brackets(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

fn extents(params: &[Param], output: usize) -> Option<(String, Vec<Extent>)> {
    let (element, dims) = array(&params[output].spelled)?;
    let find = |dim: &str| {
        let scalar = params.iter().position(|p| p.spelled == "i64" && p.name == dim).map(Extent::Scalar);
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
mod tests {
    use super::*;

    #[test]
    fn reads_the_pieces() {
        let s = Signature::parse("axpy(a: f64, x: f64[n], y: mut f64[n]) -> None").unwrap();
        assert_eq!((s.name.as_str(), s.result.as_str(), s.required()), ("axpy", "None", 3));
        assert!(s.params[2].mutable && s.params[2].output.is_none());
        assert_eq!(s.python(), "axpy(a, x, y)");
        assert!(Signature::parse("noop() -> None").unwrap().params.is_empty());
    }

    #[test]
    fn finds_where_an_output_gets_its_axes() {
        let s = Signature::parse("transpose(a: f64[m,n], out: mut f64[n,m]) -> None").unwrap();
        let expected = ("f64".to_string(), vec![Extent::Axis(0, 1), Extent::Axis(0, 0)]);
        assert_eq!(s.params[1].output, Some(expected));
        assert_eq!((s.required(), s.python().as_str()), (1, "transpose(a, out=None)"));
        let s = Signature::parse("histogram(x: f64[n], bins: i64, out: mut i64[bins]) -> None").unwrap();
        assert_eq!(s.params[2].output, Some(("i64".to_string(), vec![Extent::Scalar(1)])));
        let unknown = Signature::parse("f(out: mut f64[k]) -> None").unwrap();
        assert_eq!((unknown.required(), unknown.params[0].output.as_ref()), (1, None));
    }

    #[test]
    fn takes_any_arguments_where_it_says_so() {
        let s = Signature::parse("f(...) -> any").unwrap();
        assert!(s.is_open && s.returns_array() && s.params.len() == MAX_PARAMS);
        assert_eq!(s.python(), "f(*args)");
    }

    #[test]
    fn refuses_what_is_no_signature() {
        for text in ["", "f", "f(x) -> None", "f(x: f64)", "f(out: mut f64[n], x: f64[n]) -> None"] {
            assert!(Signature::parse(text).is_err(), "{text}");
        }
    }
}
