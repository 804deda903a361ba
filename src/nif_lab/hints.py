"""A native function's signature in Python's types: for `inspect.signature`, `typing.get_type_hints` and stubs.

``"stats(x: f64[n], *, by: f64 = 1.0) -> (mean: f64, count: i64)"`` is the text that docs/abi.md describes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from ._core import Nif

__all__ = ["Array", "Parameter", "Signature", "SupportsDLPack", "of"]


class SupportsDLPack(Protocol):
    """An array of a library that speaks DLPack."""

    def __dlpack__(self, **options: Any) -> Any: ...


#: What functions take for an array; docs/arrays.md has the libraries.
Array: TypeAlias = ArrayLike | SupportsDLPack

SCALARS: Final = {
    **dict.fromkeys(("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"), "int"),
    **dict.fromkeys(("f32", "f64"), "float"),
    **{it: it for it in ("bool", "str", "bytes", "None")},
}
ELEMENTS: Final = {
    "bool": "bool_", "f16": "float16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
    **{f"{sign}{bits}": f"{'u' * (sign == 'u')}int{bits}" for sign in "iu" for bits in (8, 16, 32, 64)},
}  # fmt: skip
#: The names that a stub's types are made of.
NAMES: Final = {"np": np, "NDArray": NDArray, "Array": Array, "Callable": Callable, "Any": Any}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its name, its type in Python's words, its default as Python writes it, whether by name alone."""

    name: str
    annotation: str
    default: str = ""
    is_keyword: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature in Python's words.

    Attributes
    ----------
    name
        The function's.
    parameters
        In their order.
    result
        The type of what it returns.
    fields
        The names and types of a named tuple's values; empty for other results.
    """

    name: str
    parameters: tuple[Parameter, ...]
    result: str
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def result_class(self) -> str:
        """The name of the named tuple that it returns."""
        return "".join(it.capitalize() for it in re.findall(r"[^\W_]+", self.name)) + "Result"

    def annotations(self) -> dict[str, Any]:
        """Return the types by parameter, and that of the result as ``"return"``."""
        names = dict(NAMES)
        if self.fields:
            fields = [(name, _value(spelled)) for name, spelled in self.fields]
            names[self.result_class] = NamedTuple(self.result_class, fields)
        found = {it.name: _value(it.annotation) for it in self.parameters}
        return {**found, "return": eval(self.result, names)}  # noqa: S307  # of words that this module wrote

    def over(self, plain: inspect.Signature) -> inspect.Signature:
        """Return the signature that the core tells, with types."""
        types = self.annotations()
        parameters = [it.replace(annotation=types.get(it.name, it.empty)) for it in plain.parameters.values()]
        return plain.replace(parameters=parameters, return_annotation=types["return"])


def _value(spelled: str) -> Any:
    return eval(spelled, dict(NAMES))  # noqa: S307  # of words that this module wrote


def _split(text: str) -> list[str]:
    """Split at the commas that stand in no brackets and no text."""
    parts, depth, quoted, begin = [], 0, False, 0
    for at, sign in enumerate(text):
        if sign == '"' and text[at - 1 : at] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (sign in "([") - (sign in ")]")
            if sign == "," and not depth:
                parts.append(text[begin:at].strip())
                begin = at + 1
    return [*parts, last] if (last := text[begin:].strip()) else parts


def _type(spelled: str, *, is_result: bool) -> str:
    """Return a type in Python's words."""
    if spelled.endswith("?"):
        return f"{_type(spelled[:-1], is_result=is_result)} | None"
    if spelled in SCALARS:
        return SCALARS[spelled]
    if spelled == "str[_]":
        return "list[str]" if is_result else "list[str] | tuple[str, ...]"
    if found := re.fullmatch(r"fn\((.*)\)\s*->\s*(\w+)", spelled):
        takes = ", ".join(SCALARS[it] for it in _split(found[1]))
        return f"Callable[[{takes}], {'object' if found[2] == 'None' else SCALARS[found[2]]}]"
    element = spelled.partition("[")[0]
    if not is_result or "[" not in spelled:
        return "Array" if "[" in spelled else "Any"
    return f"NDArray[np.{ELEMENTS[element]}]" if element in ELEMENTS else "NDArray[Any]"


@cache
def parsed(text: str) -> Signature:
    """Read a signature's text."""
    # A parameter may have an arrow of its own, and a default may be any text: brackets are counted.
    name = text.partition("(")[0]
    depth, end = 1, len(name) + 1
    quoted = False
    while depth and end < len(text):
        quoted ^= text[end] == '"' and text[end - 1] != "\\"
        depth += 0 if quoted else (text[end] in "([") - (text[end] in ")]")
        end += 1
    head, result = text[len(name) + 1 : end - 1], text[end:].removeprefix(" -> ").strip() or "Any"
    parameters, outputs, is_keyword = [], [], False
    for part in _split(head):
        if part == "*":
            is_keyword = True
            continue
        one, _, spelled = part.partition(": ")
        spelled, _, default = spelled.partition(" = ")
        is_output = spelled.startswith("mut ") and (one == "out" or one.startswith("out_"))
        annotation = _type(spelled.removeprefix("mut "), is_result=False)
        if is_output:
            outputs.append(_type(spelled.removeprefix("mut "), is_result=True))
            annotation, default = f"{annotation} | None", "None"
        default = {"true": "True", "false": "False"}.get(default, default)
        parameters.append(Parameter(one, annotation, default, is_keyword))
    return _with_result(name, tuple(parameters), result, outputs)


def _with_result(name: str, parameters: tuple[Parameter, ...], result: str, outputs: list[str]) -> Signature:
    is_optional = result.endswith(")?")
    if result.startswith("("):
        items = _split(result.rstrip("?")[1:-1])
        named = [it.partition(": ") for it in items]
        if all(separator for _, separator, _ in named):
            fields = tuple((it, _type(spelled, is_result=True)) for it, _, spelled in named)
            made = Signature(name, parameters, "", fields)
            spelled = f"{made.result_class} | None" if is_optional else made.result_class
            return Signature(name, parameters, spelled, fields)
        spelled = f"tuple[{', '.join(_type(it, is_result=True) for it in items)}]"
        return Signature(name, parameters, f"{spelled} | None" if is_optional else spelled)
    returned = outputs if result == "None" and outputs else [_type(result, is_result=True), *outputs]
    return Signature(name, parameters, returned[0] if len(returned) == 1 else f"tuple[{', '.join(returned)}]")


def of(nif: Nif) -> Signature:
    """Return a function's signature in Python's words."""
    return parsed(nif.signature)
