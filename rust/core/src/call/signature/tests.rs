//! Tests of signatures.

use super::*;
use crate::call::callback::Gives;
use crate::call::shape::Passed;
use crate::python::dtype;

#[test]
fn reads_the_pieces() {
    let s = Signature::parse("axpy(a: f64, x: f64[n], y: mut f64[n]) -> None").unwrap();
    assert_eq!((s.name.as_str(), s.kind, s.required()), ("axpy", Kind::None, 3));
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
fn reads_callbacks() {
    let s = Signature::parse("fold(f: fn(f64,u64)->i32, x: f64[n]) -> f64").unwrap();
    let shape = s.params[0].callback.as_ref().unwrap();
    let takes = vec![Passed::Number, Passed::Unsigned];
    assert_eq!((&shape.takes, shape.gives), (&takes, Gives::Int(-(1 << 31), (1 << 31) - 1)));
    let s = Signature::parse("fit(f: fn(f64[_],mut c64[_])->f64) -> f64").unwrap();
    let element = dtype::named("c64").unwrap();
    assert_eq!(s.params[0].callback.as_ref().unwrap().takes[1], Passed::Array { element, is_mutable: true });
    assert!(Signature::parse("f(g: fn()->None) -> f64").is_ok());
    for text in [
        "f(g: fn(f64)) -> None",
        "f(g: fn(str)->f64) -> None",
        "f(g: fn(f64)->str) -> None",
        "f(g: fn(f64[n])->f64) -> None",
        "f(g: fn(f65[_])->f64) -> None",
        "f(g: fn(f64)->f64[_]) -> None",
    ] {
        assert!(Signature::parse(text).is_err(), "{text}");
    }
}

#[test]
fn takes_any_arguments_where_it_says_so() {
    let s = Signature::parse("f(...) -> any").unwrap();
    assert!(s.is_open && s.returns_memory() && s.params.len() == MAX_PARAMS);
    assert_eq!(s.python(), "f(*args)");
}

#[test]
fn refuses_what_is_no_signature() {
    for text in [
        "",
        "f",
        "f(x) -> None",
        "f(x: f64)",
        "f(out: mut f64[n], x: f64[n]) -> None",
        "f() -> f65",
        "f() -> (f64, g: i64)",
        "f() -> ()",
        "f(x: i64 = 1.5) -> None",
        "f(x: f64[n] = 1) -> None",
        "f(x: str = a) -> None",
    ] {
        assert!(Signature::parse(text).is_err(), "{text}");
    }
}

#[test]
fn reads_results() {
    let kind = |text: &str| Signature::parse(&format!("f() -> {text}")).unwrap();
    for (text, expected) in [("i8", Kind::Int), ("u64", Kind::Unsigned), ("f32?", Kind::Float), ("str", Kind::Str)] {
        assert_eq!((kind(text).kind, kind(text).several), (expected, None), "{text}");
    }
    assert!(kind("f64[_,_]?").returns_memory() && kind("(i64, str)").returns_memory());
    assert!(!kind("(i64, f64?)").returns_memory() && !kind("(i64, f64)").is_plain() && kind("u64").is_plain());
    let several = kind("(mean: f64, counts: i64[m,n]?)?").several.unwrap();
    assert_eq!(several.names, ["mean", "counts"]);
    assert!(several.is_optional && several.items[1].is_optional && several.items[1].kind == Kind::Array);
}

#[test]
fn reads_what_may_be_none() {
    let s = Signature::parse("f(a: f64?, x: f64[n], w: f64[n]?, t: str[_]?, *, k: i64?, by: i64? = None) -> str[_]");
    let s = s.unwrap();
    assert_eq!(s.python(), "f(a, x, w=None, t=None, *, k, by=None)");
    assert_eq!((s.required(), s.kind, s.returns_memory()), (2, Kind::Texts, true));
    assert!(s.params[2].is_optional && s.params[2].spelled == "f64[n]" && s.params[3].is_texts());
    assert_eq!(s.missing(|i| i < 2).map(|it| it.name.as_str()), Some("k"));
    assert!(Signature::parse("f(a: f64 = None) -> None").is_err());
}

#[test]
fn reads_defaults_and_keywords() {
    let s = Signature::parse(r#"f(x: f64[n], p: i32 = -2, s: str = "a, (\\\"b)", *, on: bool, by: f64 = 0.5) -> None"#);
    let s = s.unwrap();
    assert_eq!((s.params.len(), s.required(), s.positional()), (5, 1, 3));
    assert_eq!(s.params[1].default, Some(Default::Int(-2)));
    assert_eq!(s.params[2].default, Some(Default::Str(c"a, (\\\"b)".into())));
    assert_eq!(s.missing(|i| i == 0).map(|it| it.name.as_str()), Some("on"));
    assert!(!s.is_whole(5));
    assert_eq!(s.python(), r#"f(x, p=-2, s="a, (\\\"b)", *, on, by=0.5)"#);
}
