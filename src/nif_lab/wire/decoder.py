"""The reference decoder: a frame to its node table, clear rather than fast.

docs/wire.md numbers the checks; the order here is the order there. `rules` has what the encoder shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from . import rules, schema
from .errors import WireError
from .schema import LIMITS, MAGIC, Dialect, Field, Kind, Marker, Role
from .xxh3 import checksum

__all__ = ["Decoder", "Span", "decode_nodes"]

Nodes: TypeAlias = npt.NDArray[np.int64]

_V1_START: Final = 2


@dataclass(frozen=True, slots=True)
class Span:
    """What a run of bytes is: a number of a header, or a text, a payload or padding, whose `value` is None.

    `path` has the names of the nested values that lead to it; `row` is the last row of the table so far.
    """

    offset: int
    length: int
    name: str
    meaning: str
    path: str
    row: int
    value: int | None = None


@dataclass(slots=True)
class _Header:
    """A frame's header: every field's number, read once, and its place."""

    marker: Marker
    values: dict[str, int]
    places: dict[str, int]
    body: int


class Decoder:
    """One frame being decoded; `rows` and `spans` say how far it came.

    Parameters
    ----------
    frame
        Its bytes.
    dialect
        For version 1.
    version
        1, 2 or 0: the frame's own.
    live
        Rows of `schema.LIVE`; None: handles aren't looked up.
    """

    def __init__(
        self, frame: memoryview, dialect: Dialect, version: int, live: Sequence[Sequence[int]] | None = ()
    ) -> None:
        self.frame = frame
        self.dialect = dialect
        self.version = version or self._own_version()
        self.live = None if live is None else {row[0]: row for row in reversed(rules.check_live(live))}
        self.rows: list[list[int]] = []
        self.spans: list[Span] = []
        self._announced = 1
        self._path: list[str] = []

    def decode(self) -> Nodes:
        """Return the node table."""
        self._frame(0, len(self.frame), 1, -1, (0, 0), None)
        return np.array(self.rows, np.int64)

    def _own_version(self) -> int:
        if not self.frame:
            raise WireError("SHORT", 0)
        version = {1: 1, MAGIC[0]: 2}.get(self.frame[0])
        if version is None:
            raise WireError("SHORT", 1) if len(self.frame) == 1 else WireError("VERSION", 0)
        return version

    def _frame(self, start: int, end: int, depth: int, parent: int, name: tuple[int, int], role: Role | None) -> int:
        """Decode one frame and return where it ends."""
        if depth > LIMITS["depth"]:
            raise WireError("DEPTH", start)
        head = self._header(start, end, depth, role)
        marker, values, places = head.marker, head.values, head.places
        dtype = values.get("dtype", marker.dtypes[-1])
        shape = self._shape(head)
        length, padding = self._sizes(head, dtype, shape)
        claim = places["payload"] if self.version == 2 else places.get("shape0", places.get("length", start))
        after = head.body + length + padding
        if after > end:
            raise WireError("LENGTH", claim)
        if depth == 1 and after < end:
            raise WireError("TRAILING", after)
        if self.version == 2:
            self._check_sum(head, length)
        order = values.get("order", self.dialect.order if len(shape) > 1 else 0)
        row = [
            marker.code,
            dtype,
            len(shape),
            *shape,
            *[0] * (4 - len(shape)),
            order,
            head.body,
            length,
            *name,
            parent,
            0,
        ]
        self.rows.append(row)
        if marker.kind == Kind.RECORD:
            self._record(len(self.rows) - 1, head.body, after, depth)
        else:
            self._payload(head, dtype, length, after)
        return after

    def _header(self, start: int, end: int, depth: int, role: Role | None) -> _Header:
        fields = schema.header(schema.MARKERS[1], self.dialect, self.version)
        self._need(start + sum(it.size for it in fields), end, depth)
        values, places = self._fields(start, fields)
        if values.get("magic", rules.MAGIC_NUMBER) != rules.MAGIC_NUMBER:
            raise WireError("VERSION", start)
        if values["version"] != self.version:
            raise WireError("VERSION", places["version"])
        marker = schema.MARKERS.get(values["marker"])
        if marker is None or self.version not in marker.versions or (role and marker.name not in role.markers):
            raise WireError("MARKER", places["marker"])
        body = start + schema.body_offset(marker, self.dialect, self.version)
        if self.version == 1:
            fixed = rules.fixed_length(marker, marker.dtypes[-1]) or 0
            self._need(body + fixed, end, depth)
            rest = schema.header(marker, self.dialect, 1)[_V1_START:]
            more, where = self._fields(start + _V1_START, rest)
            return _Header(marker, values | more, places | where, body)
        allowed = {
            "dtype": marker.dtypes,
            "ndim": marker.ndims,
            "order": (0, 1) if values["ndim"] > 1 else (0,),
            "flags": (0, 1) if depth == 1 else (0,),
            "reserved": (0,),
        }
        for name, those in allowed.items():
            if values[name] not in those:
                raise WireError("VALUE", places[name])
        return _Header(marker, values, places, body)

    def _need(self, upto: int, end: int, depth: int) -> None:
        if upto > end:
            raise WireError("SHORT" if depth == 1 else "LENGTH", end)

    def _fields(self, at: int, fields: Sequence[Field]) -> tuple[dict[str, int], dict[str, int]]:
        values, places = {}, {}
        for it in fields:
            values[it.name] = self._number(at, it)
            places[it.name] = at
            at += it.size
        return values, places

    def _number(self, at: int, field: Field) -> int:
        value = int.from_bytes(self.frame[at : at + field.size], "little")
        self._note(at, at + field.size, field.name, field.meaning, value)
        return value

    def _note(self, at: int, end: int, name: str, meaning: str, value: int | None = None) -> None:
        if end > at:
            path = "/".join(self._path)
            self.spans.append(Span(at, end - at, name, meaning, path, len(self.rows) - 1, value))

    def _shape(self, head: _Header) -> tuple[int, ...]:
        values = head.values
        ndim = values.get("ndim", head.marker.ndims[0])
        largest = rules.dimension_max(self.dialect, self.version)
        for axis in range(4):
            name = f"shape{axis}"
            if axis >= ndim and values.get(name):
                raise WireError("VALUE", head.places[name])
            if axis < ndim and values[name] > largest:
                raise WireError("DIM", head.places[name])
        return tuple(values[f"shape{axis}"] for axis in range(ndim))

    def _sizes(self, head: _Header, dtype: int, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the lengths of payload and padding, as the header has them."""
        marker, values, places = head.marker, head.values, head.places
        alignment = values.get("alignment", 1)
        if not rules.is_alignment(alignment):
            raise WireError("ALIGN", places["alignment"])
        length = rules.fixed_length(marker, dtype)
        if marker.kind == Kind.ARRAY:
            if rules.extent(dtype, shape) >= 2**63:
                raise WireError("OVERFLOW", places["shape0"])
            length = rules.array_length(dtype, shape)
        claimed = values.get("payload", values.get("length", length))
        assert claimed is not None, "a record has a length in either version"
        padding = -claimed % alignment
        start = places.get("magic", places["version"])
        if rules.too_large(head.body - start + claimed + padding, self.dialect, self.version):
            raise WireError("OVERFLOW", places.get("payload", places.get("length", places.get("shape0", start))))
        if length is not None and claimed != length:
            raise WireError("LENGTH", places["payload"])
        return claimed, padding

    def _check_sum(self, head: _Header, length: int) -> None:
        values, body = head.values, head.body
        if not values["flags"]:
            if values["checksum"]:
                raise WireError("VALUE", head.places["checksum"])
        elif values["checksum"] != rules.checksum_of(
            self.frame[body - 64 : body], checksum(self.frame[body : body + length])
        ):
            raise WireError("CHECKSUM", head.places["checksum"])

    def _payload(self, head: _Header, dtype: int, length: int, after: int) -> None:
        """Check and note the payload and padding of anything but a record."""
        body = head.body
        if head.marker.kind == Kind.DEVICE:
            self._check_device(*self._fields(body, schema.body_fields(head.marker)))
            return
        self._note(body, body + length, "value" if head.marker.kind == Kind.SCALAR else "elements", "")
        self._zeros(body + length, after)
        rules.check_booleans(self.frame[body : body + length], dtype, body)

    def _check_device(self, values: dict[str, int], places: dict[str, int]) -> None:
        if "size" in values:
            used = values["size"]
        elif values["dtype"] in schema.DTYPES:
            used = values["height"] * values["width"] * values["channels"] * schema.DTYPES[values["dtype"]].size
        else:
            raise WireError("VALUE", places["dtype"])
        if self.live is None:
            return
        generation, slot = divmod(values["handle"], 2**32)
        block = self.live.get(slot)
        if block is None:
            raise WireError("HANDLE", places["handle"])
        if generation == 0 or generation != block[1]:
            raise WireError("STALE", places["handle"])
        if used > block[2] or values["device"] != block[3]:
            raise WireError("HANDLE", places["handle"])

    def _zeros(self, at: int, end: int) -> None:
        self._note(at, end, "padding", "zero")
        for place in range(at, end):
            if self.frame[place]:
                raise WireError("PAD", place)

    def _aligned(self, at: int, start: int, end: int) -> int:
        """Skip the zeros up to the next multiple of 64 after `start`: version 2 only."""
        if self.version == 1:
            return at
        after = at + -(at - start) % 64
        if after > end:
            raise WireError("LENGTH", at)
        self._zeros(at, after)
        return after

    def _record(self, row: int, start: int, end: int, depth: int) -> None:
        record = schema.RECORDS[schema.MARKERS[self.rows[row][0]].name]
        if start + 4 > end:
            raise WireError("LENGTH", end)
        count = self._number(start, schema.COUNT)
        size = self._number(start + 2, schema.TITLE_LENGTH)
        self._announced += count
        if self._announced > LIMITS["nodes"]:
            raise WireError("LIMIT", start)
        if not record.accepts(count):
            raise WireError("VALUE", start)
        at = start + 4
        self._text(start + 2, size, end, 0, ("title", record.title))
        self.rows[row][rules.COLUMN["data_offset"]] = at
        self.rows[row][rules.COLUMN["data_length"]] = size
        self.rows[row][rules.COLUMN["count"]] = count
        at += size
        names: list[tuple[int, int]] = []
        seen: set[bytes] = set()
        for index in range(count):
            if at + 2 > end:
                raise WireError("LENGTH", end)
            size = self._number(at, schema.NAME_LENGTH)
            name = self._text(at, size, end, 1, ("name", f"name of child {index}"))
            rules.check_name(name, seen, record.role(index), at + 2)
            names.append((at + 2, size))
            at += 2 + size
        at = self._aligned(at, start, end)
        for index, name_at in enumerate(names):
            role = record.role(index)
            begin, child = at, len(self.rows)
            self._path.append(bytes(self.frame[name_at[0] : sum(name_at)]).decode())
            at = self._frame(begin, end, depth + 1, row, name_at, role)
            if role:
                rules.check_role(role, self.rows[child], self.frame, begin)
            at = self._aligned(at, begin, end)
            self._path.pop()
        if at != end:
            raise WireError("LENGTH", at)

    def _text(self, at: int, size: int, end: int, least: int, what: tuple[str, str]) -> bytes:
        """Check a title or name whose length stands at `at`."""
        if not least <= size <= LIMITS["name"]:
            raise WireError("LIMIT", at)
        if at + 2 + size > end:
            raise WireError("LENGTH", at)
        text = bytes(self.frame[at + 2 : at + 2 + size])
        self._note(at + 2, at + 2 + size, *what)
        rules.check_text(text, at + 2)
        return text


def decode_nodes(
    frame: bytes | bytearray | memoryview | npt.NDArray[np.generic],
    dialect: str | int = "rust",
    version: int | None = None,
    live: Sequence[Sequence[int]] = (),
) -> Nodes:
    """Return a frame's node table: the native `decode`, as reference.

    Parameters
    ----------
    frame
        Contiguous bytes.
    dialect
        Name or code; of no importance in version 2.
    version
        1, 2 or None: the frame's own.
    live
        The live device handles, rows of `schema.LIVE`.

    Returns
    -------
    numpy.ndarray
        int64, one row a value, columns `schema.COLUMNS`; offsets lead into the frame.

    Raises
    ------
    WireError
        The frame breaks a rule.
    """
    own = rules.check_version(version or 0, (0, 1, 2))
    return Decoder(rules.octets(frame), rules.check_dialect(dialect), own, live).decode()
