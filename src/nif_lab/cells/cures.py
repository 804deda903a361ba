"""What to write instead of a type that no parameter or result of a cell can have.

The SDKs name the type; what people mean by it, and what they can have in its place, is the same in each language.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ..errors import Message

__all__ = ["cured"]


class _Words(NamedTuple):
    """How a language spells what the cures name."""

    text: str
    texts: str
    vector: str
    numbers: str
    matrix: str
    rows: str
    callback: str
    wide: str
    owned: str


WORDS: Final = {
    "rust": _Words(
        "&str", "Vec<String>", "&[f64]", "Vec<f64>", "Matrix<'_, f64>", "Vec<[f64; 3]>", "Callback<fn(f64) -> f64>",
        "i64, u64 or f64", "String",
    ),
    "zig": _Words(
        "[]const u8", "[]const []const u8", "[]const f64", "[]f64", "nif.Matrix(f64)", "[][3]f64",
        "nif.Callback(fn (f64) f64)", "i64, u64 or f64", "[]const u8",
    ),
    "nim": _Words(
        "string", "seq[string]", "openArray[float]", "seq[float]", "Matrix[float]", "seq[array[3, float]]",
        "Callback[proc (x: float): float]", "int, uint or float", "string",
    ),
    "julia": _Words(
        "String", "Vector{String}", "Vec{Float64}", "Vector{Float64}", "Mat{Float64}", "Matrix{Float64}",
        "Callback{Float64,Tuple{Float64}}", "Int64, UInt64 or Float64", "String",
    ),
}  # fmt: skip
#: What the SDKs say of such a type.
REFUSED: Final = re.compile(
    r"`(?P<a>.+)` can't be (?:the )?(?P<ra>parameter|result|an element)"
    r"|a (?P<rb>parameter|result) can't be of type (?P<b>.+?); it"
    r"|an array can't have (?P<rc>elements) of type (?P<c>.+)"
    r"|can't be the (?P<rd>parameter|result) of a NIF: (?P<d>.+); it"
    r"|^(?!.*a type that)(?:\w+: )?(?:parameter '[^']*': )?(?P<e>\S.*?) can't be the (?P<re>parameter|result) of a NIF"
)
#: What rustc adds of the SDK's own traits; the refusal has the types already.
NOISE: Final = re.compile(
    r"(?:help: the following other types implement trait [^\n]*(?:\n  [^\n]*|\nand \d+ others)*"
    r"|the trait `[^`]*` is not implemented for [^\n]*|unsatisfied trait bound|note: required (?:for|by) [^\n]*"
    r"|help: the trait `\w+` is not implemented for [^\n]*)(?:\n|$)"
)
#: What a type of the cell's own becomes as a result, where the SDK doesn't see its fields.
OWN_RESULTS: Final = {
    "rust": "return a tuple of its fields; their names stand in the documentation, /// `f(x[n]) -> (mean, count)`: …, "
    "and Python gets a named tuple",
    "nim": "return the object itself, no ref, with fields of types that a result can have",
}
MAP: Final = re.compile(r"(?:Hash|BTree|StringHash|Array\w*Hash|hash_)Map|\b(?:Ordered|Count)?Table\[|Dict\{")
FAILURE: Final = (
    "write Result<_, Box<dyn std::error::Error>>; or, for an error of your own, "
    "impl From<E> for Error { fn from(it: E) -> Self { it.to_string().into() } }"
)
SET: Final = re.compile(r"HashSet|BTreeSet|\bset\[|\bSet\{")
NESTED: Final = re.compile(
    r"Vec<Vec<|&\[Vec<|seq\[seq\[|openArray\[seq\[|\[\](?:const )?\[\]"
    r"|(?:Array|Vector)\{(?:Array|Vector)\{|Vec\{(?:Array|Vec)"
)
WIDE: Final = re.compile(r"^[iu](?:128|256)$|^U?Int128$|^Big(?:Int|Float)$|^f(?:16|80|128)$|^[iu]\d+$")
CHARACTERS: Final = ("char", "Char", "Symbol", "str")
FUNCTION: Final = re.compile(r"\b(?:dyn Fn|impl Fn|fn ?\()|^proc |^Function$|\*const fn")


def cured(language: str, message: Message, code: str) -> str:
    """Return a compiler's message with what to write instead, where it is about a type that can't cross."""
    found = REFUSED.search(message.text)
    if not message.is_error or found is None:
        return message.text
    type_ = next(it for it in found.group("a", "b", "c", "d", "e") if it)
    role = next(it for it in found.group("ra", "rb", "rc", "rd", "re") if it)
    if role == "an element":  # of an array, which rustc names later
        role = "result" if "to implement `Item`" in message.text else "parameter"
        type_ = f"Vec<{type_}>"
    elif role == "elements":
        role, type_ = "", f"seq[{type_}]"
    cure = _cure(language, type_, role, code)
    head, *rest = NOISE.sub("", message.text).rstrip("\n").split("\n")
    return "\n".join([head, *([f"To fix: {cure}"] if cure else []), *rest])


def _cure(language: str, type_: str, role: str, code: str) -> str:
    words = WORDS[language]
    is_result = role == "result"
    plain = type_.rpartition(".")[2].strip()
    cures = (
        (MAP.search(type_), _map(words, is_result=is_result)),
        (NESTED.search(type_), _nested(language, role)),
        (type_.startswith("Result<"), FAILURE),
        (
            re.match(r"Vec<Option<|seq\[Option\[|\[\](?:const )?\?", type_),
            f"write {words.numbers}: a missing number is a NaN",
        ),
        (re.match(r"Vec<\(|seq\[(?:tuple\[|\()", type_), "write a list for each column, side by side in a tuple"),
        (is_result and re.match(r"&(?:mut )?\[|impl Iterator", type_), f"return {words.numbers}, a copy"),
        (SET.search(type_), f"write a list, {words.texts if 'tring' in type_ else words.numbers}"),
        (FUNCTION.search(type_), f"take a {words.callback}, which any callable of Python goes into"),
        (WIDE.match(plain), f"write 64 bits at most: {words.wide}"),
        (plain in CHARACTERS, f"write {words.owned if is_result else words.text}, which is Python's str"),
    )
    found = next((cure for applies, cure in cures if applies), None)
    return _shaped(language, type_, plain, is_result=is_result, code=code) if found is None else found


def _map(words: _Words, *, is_result: bool) -> str:
    if is_result:
        both = f"{words.texts} and {words.numbers}"
        return f"return the keys and the values, as a tuple of {both}: dict(zip(*result)) is the map"
    both = f"{words.texts} and {words.vector}"
    return f"take the keys and the values, {both}: f(list(d), numpy.array(list(d.values())))"


def _nested(language: str, role: str) -> str:
    words = WORDS[language]
    lengths = (
        "for rows of one length"
        if language == "julia"
        else f"for rows of a known length, else all rows in one {words.numbers} and their length beside it: "
        "result.reshape(-1, length)"
    )
    return _either(f"take {words.matrix}, which an array of two axes goes into", f"{words.rows} {lengths}", role)


def _either(takes: str, flat: str, role: str) -> str:
    """Return the cure of a parameter, of a result, or both where it isn't known which it is."""
    if role == "parameter":
        return takes
    return f"return {flat}" if role == "result" else f"as a parameter {takes}; as a result return {flat}"


def _shaped(language: str, type_: str, plain: str, *, is_result: bool, code: str) -> str:
    """Return the cure of a tuple, an array of a fixed length, a reference, or a type of the cell's own."""
    name = re.escape(plain)
    is_own = re.search(rf"\b(?:struct|type|union)\s+{name}\b|\b{name}\*?\s*=\s*(?:ref )?(?:object|struct|union)", code)
    if language == "rust" and re.search(rf"\benum\s+{name}\b", code):
        takes, gives = f"take the name of the value, a {WORDS[language].text}, and `match` it", "a &'static str"
        return f"return the name of the value, {gives}" if is_result else takes
    if is_result:
        return OWN_RESULTS.get(language, "") if is_own else ""
    return _parameter(WORDS[language], type_) or ("take its fields as parameters of their own" if is_own else "")


def _parameter(words: _Words, type_: str) -> str:
    if found := re.match(r"&(mut )?Vec<(.+)>$", type_):
        return f"write &{found[1] or ''}[{found[2]}]"
    if type_ in ("&String", "&mut String"):
        return "write &str, or String for a copy"
    if found := re.match(r"&([iuf]\d+|[iu]size|bool)$", type_):
        return f"write {found[1]}"
    if re.match(r"&?(?:mut )?\[.+; ?\w+\]$|\[\d+\]|array\[|@Vector|SVector|SArray", type_):
        return f"take {words.vector}, and look at its length"
    is_tuple = type_.startswith(("(", "tuple[", "Tuple{", "NTuple{", "NamedTuple{"))
    return "take its values as parameters of their own: f(*x) passes them" if is_tuple else ""
