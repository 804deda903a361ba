"""What may be None, lists of texts, enums and structs in cells; what is refused, and with which cure."""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from labs import one_with_workers

import nif_lab
from nif_lab import backends
from nif_lab.errors import CellError, NifIndexError, NifTypeError, NifValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

LANGUAGES = backends.names()
X = np.array([1.0, 2.0])

#: One cell a language: the same functions, as its people write them.
SHAPES = {
    "rust": """
pub fn or_seven(x: Option<f64>) -> f64 { x.unwrap_or(7.0) }
/// `weighted(x[n], weights[n], label)`
pub fn weighted(x: &[f64], weights: Option<&[f64]>, label: Option<&str>) -> String {
    let sum: f64 = x.iter().enumerate().map(|(i, x)| x * weights.map_or(1.0, |it| it[i])).sum();
    format!("{}{sum}", label.unwrap_or("-"))
}
pub fn rows(a: Option<Matrix<'_, f64>>) -> usize { a.map_or(0, |a| a.rows()) }
/// `agree(a[n], b[n], c[n])`
pub fn agree(a: Option<&[f64]>, b: Option<&[f64]>, c: &[f64]) -> usize { a.or(b).map_or(c.len(), <[f64]>::len) }
pub fn nth(x: &[f64], n: usize) -> f64 { x[n] }
pub fn steps(n: usize) -> usize { (0..n).inspect(|&i| progress(i, n)).count() }
pub fn nonzero(mask: &[bool]) -> Vec<usize> { (0..mask.len()).filter(|&i| mask[i]).collect() }
pub fn negate(mask: &mut [bool]) { for it in mask { *it = !*it } }
pub fn some_true(mask: Option<Vec<bool>>) -> bool { mask.is_some_and(|it| it.contains(&true)) }
pub fn pick(x: &[f64], at: &[i64]) -> Vec<f64> { at.iter().map(|&it| x[it as usize]).collect() }
pub fn tiled(n2: i64, x: &[f64], y: &[f64], out: &mut [f64]) {
    for (i, it) in out.iter_mut().enumerate() { *it = n2 as f64 * x[i] + y[i % y.len()] }
}
pub fn sizes(a: Matrix<'_, f64>, x: &[f64], b: Matrix<'_, f64>, mut out: MatrixMut<'_, f64>) {
    for i in 0..a.rows() { for j in 0..a.columns() { out[(i, j)] = (x.len() * b.rows()) as f64 } }
}
pub fn ones(n: usize, out: &mut [f64]) { out.fill(n as f64) }
pub fn joined(words: Vec<String>) -> String { words.join("+") }
pub fn lengths(words: Vec<&str>) -> Vec<i64> { words.iter().map(|it| it.len() as i64).collect() }
pub fn some(words: Option<Vec<String>>) -> Option<Vec<String>> { words.map(|it| it.into_iter().rev().collect()) }
pub fn indexes(m: Matrix<f64>, n: &[usize]) -> Vec<usize> { n.iter().map(|it| it + m.rows()).collect() }
pub fn split(text: &str) -> Vec<String> { text.split(' ').map(String::from).collect() }
pub fn counted(text: &str) -> (Vec<String>, Vec<f64>) { (vec![text.to_owned()], vec![1.0]) }
""",
    "zig": """
const Mode = enum { fast, slow };
pub fn or_seven(x: ?f64) f64 {
    return x orelse 7;
}
/// `weighted(x[n], weights[n], label)`
pub fn weighted(allocator: std.mem.Allocator, x: []const f64, weights: ?[]const f64, label: ?[]const u8) ![]const u8 {
    var sum: f64 = 0;
    for (x, 0..) |v, i| sum += v * if (weights) |it| it[i] else 1;
    return std.fmt.allocPrint(allocator, "{s}{d}", .{ label orelse "-", sum });
}
pub fn rows(a: ?nif.Matrix(f64)) usize {
    return if (a) |it| it.rows else 0;
}
/// `agree(a[n], b[n], c[n])`
pub fn agree(a: ?[]const f64, b: ?[]const f64, c: []const f64) usize {
    return (a orelse (b orelse c)).len;
}
pub fn indexes(allocator: std.mem.Allocator, m: nif.Matrix(f64), n: []const usize) ![]usize {
    const found = try allocator.alloc(usize, n.len);
    for (found, n) |*it, i| it.* = i + m.rows;
    return found;
}
pub fn nth(x: []const f64, n: usize) f64 {
    return x[n];
}
pub fn steps(n: usize) usize {
    for (0..n) |i| nif.progress(i, n);
    nif.progress(n, 3);
    return n;
}
pub fn nonzero(allocator: std.mem.Allocator, mask: []const bool) ![]usize {
    const all = try allocator.alloc(usize, mask.len);
    var count: usize = 0;
    for (mask, 0..) |it, i| if (it) {
        all[count] = i;
        count += 1;
    };
    return all[0..count];
}
pub fn negate(mask: []bool) void {
    for (mask) |*it| it.* = !it.*;
}
pub fn some_true(mask: ?[]const bool) bool {
    for (mask orelse &.{}) |it| if (it) return true;
    return false;
}
pub fn pick(allocator: std.mem.Allocator, x: []const f64, at: []const i64) ![]f64 {
    const all = try allocator.alloc(f64, at.len);
    for (at, all) |i, *it| it.* = x[@intCast(i)];
    return all;
}
pub fn tiled(n2: i64, x: []const f64, y: []const f64, out: []f64) void {
    for (x, out, 0..) |v, *it, i| it.* = @as(f64, @floatFromInt(n2)) * v + y[i % y.len];
}
pub fn sizes(a: nif.Matrix(f64), x: []const f64, b: nif.Matrix(f64), out: nif.MatrixMut(f64)) void {
    for (0..a.rows) |i| for (0..a.columns) |j| out.set(i, j, @floatFromInt(x.len * b.rows));
}
pub fn ones(n: usize, out: []f64) void {
    @memset(out, @floatFromInt(n));
}
pub fn joined(allocator: std.mem.Allocator, words: []const []const u8) ![]const u8 {
    return std.mem.join(allocator, "+", words);
}
pub fn lengths(allocator: std.mem.Allocator, words: []const []const u8) ![]i64 {
    const all = try allocator.alloc(i64, words.len);
    for (words, all) |word, *it| it.* = @intCast(word.len);
    return all;
}
pub fn some(allocator: std.mem.Allocator, words: ?[]const []const u8) !?[]const []const u8 {
    const all = try allocator.dupe([]const u8, words orelse return null);
    std.mem.reverse([]const u8, all);
    return all;
}
pub fn split(allocator: std.mem.Allocator, text: []const u8) ![][]const u8 {
    var parts = std.mem.splitScalar(u8, text, ' ');
    var all: []const []const u8 = &.{};
    while (parts.next()) |it| all = try std.mem.concat(allocator, []const u8, &.{ all, &.{it} });
    return @constCast(all);
}
pub fn counted(allocator: std.mem.Allocator, text: []const u8) !struct { []const []const u8, [1]f64 } {
    return .{ try allocator.dupe([]const u8, &.{text}), .{1} };
}
pub fn number(mode: Mode) i64 {
    return @intFromEnum(mode);
}
pub fn mode_of(value: i64) Mode {
    return @enumFromInt(value);
}
pub fn point() struct { x: f64, mode: Mode } {
    return .{ .x = 1.5, .mode = .slow };
}
""",
    "nim": """
import std/[algorithm, strutils]

type
  Mode = enum fast, slow
  Holed = enum low = 1, high = 5
  Point = object
    x: float
    mode: Mode

func or_seven*(x: Option[float]): float = x.get(7.0)
func weighted*(x: openArray[float]; weights: Option[seq[float]]; label: Option[string]): string =
  ## `weighted(x[n], weights[n], label)`
  var sum = 0.0
  for i, it in x: sum += it * (if weights.isSome: weights.get[i] else: 1.0)
  label.get("-") & $int(sum)
func rows*(a: Option[Matrix[float]]): int = (if a.isSome: a.get.rows else: 0)
func agree*(a, b: Option[seq[float]]; c: openArray[float]): int =
  ## `agree(a[n], b[n], c[n])`
  (if a.isSome: a.get.len elif b.isSome: b.get.len else: c.len)
func indexes*(m: Matrix[float]; n: openArray[uint]): seq[uint] =
  for it in n: result.add it + uint(m.rows)
func nth*(x: openArray[float]; n: Natural): float = x[n]
proc steps*(n: uint): uint =
  for i in 0'u ..< n: progress(i, n)
  progress(3, n)
  n
func nonzero*(mask: openArray[bool]): seq[int] =
  for i, it in mask:
    if it: result.add i
func negate*(mask: var openArray[bool]) =
  for it in mask.mitems: it = not it
func some_true*(mask: Option[seq[bool]]): bool = mask.isSome and true in mask.get
func pick*(x: openArray[float]; at: seq[int]): seq[float] =
  for i in at: result.add x[i]
func tiled*(n2: int; x, y: openArray[float]; `out`: var openArray[float]) =
  for i, v in x: `out`[i] = float(n2) * v + y[i mod y.len]
func sizes*(a: Matrix[float]; x: openArray[float]; b: Matrix[float]; `out`: var Matrix[float]) =
  for i in 0 ..< a.rows:
    for j in 0 ..< a.cols: `out`[i, j] = float(x.len * b.rows)
func ones*(n: int; `out`: var openArray[float]) =
  for it in `out`.mitems: it = float(n)
func joined*(words: openArray[string]): string = words.join("+")
func lengths*(words: seq[string]): seq[int] =
  for it in words: result.add it.len
func some*(words: Option[seq[string]]): Option[seq[string]] =
  if words.isSome: result = options.some(words.get.reversed)
func split*(text: string): seq[string] = strutils.split(text, ' ')
func counted*(text: string): (seq[string], seq[float]) = (@[text], @[1.0])
func number*(mode: Mode): int = ord(mode)
func mode_of*(value: int): Mode = Mode(value)
func holed*(it: Holed): int = ord(it)
func least*(it: Positive): int = it
func point*(): Point = Point(x: 1.5, mode: slow)
""",
    "julia": """
@enum Mode fast slow
struct Point
    x::Float64
    mode::Mode
end
or_seven(x::Union{Nothing,Float64}) = x === nothing ? 7.0 : x
"`weighted(x[n], weights[n], label)`"
function weighted(x::Vec{Float64}, weights::Union{Nothing,Vec{Float64}}, label::Union{Nothing,String} = nothing)
    sum = 0.0
    for i in eachindex(x)
        sum += x[i] * (weights === nothing ? 1.0 : weights[i])
    end
    return string(label === nothing ? "-" : label, isinteger(sum) ? Int(sum) : sum)
end
rows(a::Union{Nothing,Mat{Float64}}) = a === nothing ? 0 : size(a, 1)
"`agree(a[n], b[n], c[n])`"
agree(a::Union{Nothing,Vec{Float64}}, b::Union{Nothing,Vec{Float64}}, c::Vec{Float64}) = length(something(a, b, c))
indexes(m::Mat{Float64}, n::Vector{UInt})::Vector{UInt} = n .+ UInt(size(m, 1))
nth(x::Vec{Float64}, n::Int) = x[n+1]
function steps(n::UInt)::UInt
    foreach(i -> progress(i, n), 1:n)
    return n
end
nonzero(mask::Vec{Bool}) = findall(mask) .- 1
function negate(mask::MutVec{Bool})
    mask .= .!mask
    nothing
end
some_true(mask::Union{Nothing,Vector{Bool}}) = mask !== nothing && any(mask)
pick(x::Vec{Float64}, at::Vector{Int}) = x[at.+1]
function tiled(n2::Int, x::Vec{Float64}, y::Vec{Float64}, out::MutVec{Float64})
    for i in eachindex(x)
        out[i] = n2 * x[i] + y[mod1(i, length(y))]
    end
end
function sizes(a::Mat{Float64}, x::Vec{Float64}, b::Mat{Float64}, out::MutMat{Float64})::Nothing
    out .= length(x) * size(b, 1)
    nothing
end
function ones(n::Int, out::MutVec{Float64})
    out .= n
    nothing
end
joined(words::AbstractVector{String}) = join(words, "+")
lengths(words::Vector{String}) = [ncodeunits(it) for it in words]
some(words::Union{Nothing,Vector{String}}) = words === nothing ? nothing : reverse(words)
split(text::String) = Base.split(text, ' ')
counted(text::String) = ([text], [1.0])
number(mode::Mode) = Int(mode)
mode_of(value::Int) = Mode(value)
point() = Point(1.5, slow)
""",
}
#: Languages that can list an enum's values and a struct's fields.
REFLECTIVE = ("zig", "nim", "julia")
#: Types that can't cross: the cell, and the cure.
REFUSED = {
    "rust": [
        ("pub fn f(m: std::collections::HashMap<String, f64>) {}", "To fix: take the keys and the values, Vec<String>"),
        ("pub fn f(a: Vec<Vec<f64>>) {}", "To fix: take Matrix<'_, f64>"),
        ("pub fn f() -> Vec<Vec<f64>> { vec![] }", "To fix: return Vec<[f64; 3]>"),
        ("pub struct P { x: f64 }\npub fn f() -> P { P { x: 1.0 } }", "To fix: return a tuple of its fields"),
        ("pub enum E { A }\npub fn f(e: E) {}", "To fix: take the name of the value, a &str"),
        ("pub fn f(x: &Vec<f64>) {}", "To fix: write &[f64]"),
        ("pub fn f(p: (f64, f64)) {}", "To fix: take its values as parameters of their own"),
        ("pub fn f(x: i128) {}", "To fix: write 64 bits at most"),
        ("pub fn f() -> Vec<(f64, i64)> { vec![] }", "To fix: write a list for each column"),
        ("pub fn f(x: &[f64]) -> &[f64] { x }", "To fix: return Vec<f64>, a copy"),
        ("pub struct E;\npub fn f() -> Result<f64, E> { Err(E) }", "Box<dyn std::error::Error>>; or,"),
    ],
    "zig": [
        ("pub fn f() std.StringHashMap(f64) {\n    unreachable;\n}", "To fix: return the keys and the values"),
        ("pub fn f(a: []const []const f64) void {\n    _ = a;\n}", "To fix: take nif.Matrix(f64)"),
        ("pub fn f(comptime n: usize) usize {\n    return n;\n}", "'n' is comptime, and callers come at run time"),
        ("pub const P = struct { x: f64 };\npub fn f(p: P) void {\n    _ = p;\n}", "To fix: take its fields"),
    ],
    "nim": [
        ("import std/tables\nproc f*(m: Table[string, float]) = discard", "To fix: take the keys and the values"),
        ("proc f*(): seq[seq[float]] = discard", "To fix: as a parameter take Matrix[float]"),
        ("type P = ref object\nproc f*(): P = discard", "To fix: return the object itself, no ref"),
    ],
    "julia": [
        ("f(d::Dict{String,Float64}) = 1", "To fix: take the keys and the values, Vector{String}"),
        ('f() = Dict("a" => 1)', "To fix: return the keys and the values"),
        ("f(a::Vector{Vector{Float64}}) = 1", "To fix: take Mat{Float64}"),
        ("f(s::Symbol) = 1", "To fix: write String"),
        ("f(xs::Float64...) = 1", "take a vector, `xs::Vec{Float64}`, in place of"),
    ],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[nif_lab.Lab]:
    yield from one_with_workers(LANGUAGES)


@pytest.mark.parametrize("lane", ["isolated", "direct"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_none_texts_enums_and_structs(lab: nif_lab.Lab, language: str, lane: str) -> None:
    f = lab.cell(language, SHAPES[language], lane=lane, replace=True).functions
    assert (f["or_seven"](None), f["or_seven"](), f["or_seven"](2)) == (7, 7, 2)
    assert f["or_seven"].__signature__.parameters["x"].default is None
    assert typing.get_type_hints(f["or_seven"])["x"] == (float | None)

    weighted = f["weighted"]
    assert (weighted(X), weighted(X, None, "a"), weighted(X, label="b")) == ("-3", "a3", "b3")
    assert (weighted(X, 2 * X), weighted(X, [3, 4])) == ("-10", "-11")  # a list is copied, as everywhere
    assert (f["rows"](), f["rows"](np.ones((3, 2)))) == (0, 3)
    with pytest.raises(NifValueError, match=r"'weights': expected f64\[n\]\? with n = 2, got f64\[3\]"):
        weighted(X, np.ones(3))
    with pytest.raises(NifTypeError, match=r"'x': expected f64\?, got str"):
        f["or_seven"]("a")

    agree = f["agree"]
    assert (agree(None, None, X), agree(X, None, X), agree(None, X, X)) == (2, 2, 2)
    with pytest.raises(NifValueError, match=r"'c': expected f64\[n\] with n = 1, got f64\[2\]"):
        agree(None, np.ones(1), X)
    with pytest.raises(NifValueError, match=r"'b': expected f64\[n\]\? with n = 2, got f64\[1\]"):
        agree(X, np.ones(1), X)

    words = ["one", "", "zwölf", "x" * 70_000]  # longer than a worker's request
    assert f["joined"](words) == "+".join(words)
    assert f["lengths"](tuple(words)).tolist() == [3, 0, 6, 70_000]
    assert f["lengths"](np.array(["a", "bc"])).tolist() == [1, 2]
    assert (f["joined"]([]), f["joined"](words=iter(["a", "b"]))) == ("", "a+b")
    assert (f["some"](words), f["some"](None), f["some"]([])) == (words[::-1], None, [])
    assert (f["split"]("a bb  c"), f["split"]("ä")) == (["a", "bb", "", "c"], ["ä"])
    names, numbers = f["counted"]("k")
    assert dict(zip(names, numbers, strict=True)) == {"k": 1.0}
    assert typing.get_type_hints(f["split"])["return"] == list[str]
    for wrong, reason in (
        ("abc", r"got str \(put it into a list"),
        ([1], "element 0 is of type int"),
        (3, "got int"),
        (None, "got None"),
    ):
        with pytest.raises(NifTypeError, match=rf"'words': expected str\[_\].*{reason}"):
            f["joined"](wrong)

    # Arrays may have the names of dimensions, and hold indexes.
    assert f["indexes"](np.ones((3, 2)), np.array([0, 1], "u8")).tolist() == [3, 4]
    assert f["nth"](X, 1) == 2  # n is no length of what is read
    assert f["ones"](3).tolist() == [3, 3, 3]  # of what is written it is
    if language == "nim":
        assert (f["holed"]("high"), f["least"](1)) == (5, 1)
        with pytest.raises(NifValueError, match="'it': expected 1 to 9223372036854775807, got 0"):
            f["least"](0)
    if language in REFLECTIVE:
        assert (f["number"]("fast"), f["number"]("slow"), f["mode_of"](0)) == (0, 1, "fast")
        with pytest.raises(NifValueError, match="'mode': expected one of fast, slow, got 'odd'"):
            f["number"]("odd")
        point = f["point"]()
        assert (point.x, point.mode, tuple(point)) == (1.5, "slow", (1.5, "slow"))


@pytest.mark.parametrize("lane", ["isolated", "direct"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_lengths_and_masks(lab: nif_lab.Lab, language: str, lane: str) -> None:
    """Without a documented call arrays have lengths of their own, and outputs those of the first; bools are plain."""
    f = lab.cell(language, SHAPES[language], lane=lane, replace=True).functions
    assert f["pick"](np.arange(5.0), np.array([4, 0])).tolist() == [4, 0]
    with pytest.raises(NifIndexError):
        f["pick"](X, np.array([2]))
    assert f["tiled"](3, np.arange(4.0), X).tolist() == [1, 5, 7, 11]
    np.testing.assert_array_equal(f["sizes"](np.ones((2, 3)), np.ones(5), np.ones((7, 1))), np.full((2, 3), 35))

    assert f["steps"](3) == 3  # progress takes whatever integers a loop has
    mask = np.array([False, True, True])
    assert (f["nonzero"](mask).tolist(), f["nonzero"](mask[:0]).tolist()) == ([1, 2], [])
    assert (f["negate"](mask), mask.tolist()) == (None, [True, False, False])
    assert (f["some_true"](), f["some_true"](mask), f["some_true"](mask[1:])) == (False, True, False)
    odd = np.array([0, 2, 1], np.uint8).view(bool)  # every byte but 0 is true to NumPy
    if language == "julia":
        assert f["nonzero"](odd).tolist() == [1, 2]
    else:
        for name in ("nonzero", "negate", "some_true"):
            with pytest.raises(NifValueError, match=r"'mask': expected bytes of 0 and 1, got 2 \(x != 0 has such\)"):
                f[name](odd)
    assert f["nonzero"](odd != 0).tolist() == [1, 2]
    assert list(inspect.signature(f["tiled"]).parameters) == ["n2", "x", "y", "out"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_type_that_cant_cross_is_refused_with_what_to_write(lab: nif_lab.Lab, language: str) -> None:
    for source, cure in REFUSED[language]:
        with pytest.raises(CellError) as caught:
            lab.cell(language, source)
        assert cure in str(caught.value), source
        assert "following other types implement" not in str(caught.value)


def test_a_documented_call_that_has_its_line_needs_no_period(lab: nif_lab.Lab) -> None:
    for language, source in {
        "rust": "/// `conv(x[n], k[m])`\npub fn conv(x: &[f64], k: &[f64]) -> f64 { x[0] * k[0] }",
        "zig": "/// `conv(x[n], k[m])`\npub fn conv(x: []const f64, k: []const f64) f64 {\n    return x[0] * k[0];\n}",
        "nim": "func conv*(x, k: openArray[float]): float =\n  ## `conv(x[n], k[m])`\n  x[0] * k[0]",
        "julia": '"`conv(x[n], k[m])`"\nconv(x::Vec{Float64}, k::Vec{Float64}) = x[1] * k[1]',
    }.items():
        assert lab.cell(language, source).functions["conv"](np.full(3, 2.0), np.full(2, 3.0)) == 6


def test_errors_of_a_call_show_no_lines_of_the_package(lab: nif_lab.Lab) -> None:
    for call in (
        lambda: lab.rust.sum(np.ones((2, 3))),
        lambda: lab.rust.nobody(1),
        lambda: lab.isolated.zig.sum({"a": 1}),
    ):
        with pytest.raises(nif_lab.errors.NifLabError) as caught:
            call()
        assert [it.name for it in caught.traceback][1:] == ["<lambda>"]
    assert inspect.getattr_static(type(lab.rust), "__getattr__").__name__ == "__getattr__"
