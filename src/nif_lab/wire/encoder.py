"""The reference encoder: a node table and its bytes to a frame.

docs/wire.md numbers the checks; the order here is the order there.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from . import rules, schema
from .errors import WireError
from .rules import COLUMN
from .schema import LIMITS, Dialect, Kind, Marker, Role
from .xxh3 import checksum as hash_of

__all__ = ["encode_nodes"]


class _Encoder:
    """A node table on its way into a frame."""

    def __init__(self, rows: list[list[int]], data: memoryview, dialect: Dialect, version: int, alignment: int) -> None:
        self.rows = [dict(zip(COLUMN, row, strict=True)) for row in rows]
        self.data = data
        self.dialect = dialect
        self.version = version
        self.alignment = alignment
        self.children: defaultdict[int, list[int]] = defaultdict(list)
        for index, row in enumerate(self.rows):
            self.children[row["parent"]].append(index)

    def frame(self, index: int, depth: int, role: Role | None, *, summed: bool) -> tuple[list[bytes | memoryview], int]:
        """Return a frame as pieces, and the row after it."""
        if depth > LIMITS["depth"]:
            raise WireError("DEPTH", index, unit="node")
        row = self.rows[index]
        marker = self._marker(index, row, role)
        shape = self._shape(index, row, marker)
        padding = self._padding(index, row, marker, shape)
        payload = self._data(index, row["data_offset"], row["data_length"])
        expected = rules.fixed_length(marker, row["dtype"])
        if marker.kind == Kind.ARRAY:
            expected = rules.array_length(row["dtype"], shape)
        if expected is not None and len(payload) != expected:
            raise WireError("LENGTH", index, unit="node", detail=f"expected {expected} bytes of data")
        pieces: list[bytes | memoryview] = [payload, bytes(padding)]
        after = index + 1
        if marker.kind == Kind.RECORD:
            pieces, after = self._record(index, row, marker, depth)
        rules.check_booleans(payload, row["dtype"], index, unit="node")
        if marker.name == "gpu_texture" and int.from_bytes(payload[20:24], "little") not in schema.DTYPES:
            raise WireError("VALUE", index, unit="node", detail="the texture has no element type")
        length = sum(map(len, pieces)) - padding
        offset = schema.body_offset(marker, self.dialect, self.version)
        if marker.kind == Kind.RECORD and rules.too_large(offset + length, self.dialect, self.version):
            raise WireError("OVERFLOW", index, unit="node")
        numbers = {**row, "version": self.version, "payload": length, "length": length, "alignment": self.alignment}
        numbers |= {"magic": rules.MAGIC_NUMBER, "flags": int(summed), "reserved": 0, "checksum": 0}
        fields = schema.header(marker, self.dialect, self.version)
        header = b"".join(numbers[it.name].to_bytes(it.size, "little") for it in fields)
        if summed:
            total = rules.checksum_of(header, hash_of(memoryview(b"".join(pieces))))
            header = header[:56] + total.to_bytes(8, "little")
        return [header, *pieces], after

    def _marker(self, index: int, row: dict[str, int], role: Role | None) -> Marker:
        if index == 0 and row["parent"] != -1:
            raise WireError("VALUE", index, unit="node", detail="row 0 is the root, its parent is -1")
        marker = schema.MARKERS.get(row["marker"])
        if marker is None or self.version not in marker.versions or (role and marker.name not in role.markers):
            raise WireError("MARKER", index, unit="node")
        return marker

    def _shape(self, index: int, row: dict[str, int], marker: Marker) -> tuple[int, ...]:
        """Check all that has no size: element type, axes, order, dimensions, what only some nodes have."""
        ndim = row["ndim"]
        order: tuple[int, ...] = (0,)
        if ndim > 1:
            order = (0, 1) if self.version == 2 else (self.dialect.order,)
        allowed = {
            "dtype": marker.dtypes if self.version == 2 else marker.dtypes[-1:],
            "ndim": marker.ndims,
            "order": order,
        }
        for name, those in allowed.items():
            if row[name] not in those:
                words = f"{name} is {row[name]}, {marker.name} has {' or '.join(map(str, those))} here"
                raise WireError("VALUE", index, unit="node", detail=words)
        for axis in range(4):
            size = row[f"shape{axis}"]
            if axis >= ndim and size:
                raise WireError("VALUE", index, unit="node")
            if not 0 <= size <= rules.dimension_max(self.dialect, self.version):
                raise WireError("DIM", index, unit="node")
        if (row["count"] and marker.kind != Kind.RECORD) or (index == 0 and row["name_length"]):
            raise WireError("VALUE", index, unit="node")
        return tuple(row[f"shape{axis}"] for axis in range(ndim))

    def _padding(self, index: int, row: dict[str, int], marker: Marker, shape: tuple[int, ...]) -> int:
        if marker.kind != Kind.ARRAY:
            return 0
        length = rules.array_length(row["dtype"], shape)
        padding = -length % self.alignment if self.version == 1 and self.dialect.aligned else 0
        whole = schema.body_offset(marker, self.dialect, self.version) + length + padding
        if rules.extent(row["dtype"], shape) >= 2**63 or rules.too_large(whole, self.dialect, self.version):
            raise WireError("OVERFLOW", index, unit="node")
        return padding

    def _data(self, index: int, offset: int, length: int) -> memoryview:
        if offset < 0 or length < 0 or offset + length > len(self.data):
            raise WireError("LENGTH", index, unit="node", detail=f"there are {len(self.data)} bytes of data")
        return self.data[offset : offset + length]

    def _record(
        self, index: int, row: dict[str, int], marker: Marker, depth: int
    ) -> tuple[list[bytes | memoryview], int]:
        """Return a record's payload as pieces, and the row after its last child."""
        record = schema.RECORDS[marker.name]
        children = self.children[index]
        if row["count"] != len(children):
            raise WireError("LENGTH", index, unit="node", detail=f"{len(children)} rows name it as their parent")
        if not record.accepts(len(children)):
            raise WireError("VALUE", index, unit="node", detail=f"{marker.name} can't have {len(children)} children")
        title = self._text(index, row["data_offset"], row["data_length"], 0)
        head = _short(len(children)) + _short(len(title)) + title
        seen: set[bytes] = set()
        for place, child in enumerate(children):
            it = self.rows[child]
            name = self._text(child, it["name_offset"], it["name_length"], 1)
            rules.check_name(name, seen, record.role(place), child, unit="node")
            head += _short(len(name)) + name
        pieces: list[bytes | memoryview] = [head, self._fill(len(head))]
        after = index + 1
        for place, child in enumerate(children):
            if child != after:
                raise WireError("VALUE", child, unit="node", detail="rows are in pre-order")
            role = record.role(place)
            frame, after = self.frame(child, depth + 1, role, summed=False)
            if role:
                rules.check_role(role, list(self.rows[child].values()), self.data, child, unit="node")
            pieces += [*frame, self._fill(sum(map(len, frame)))]
        return pieces, after

    def _text(self, index: int, offset: int, length: int, least: int) -> bytes:
        if not least <= length <= LIMITS["name"]:
            raise WireError("LIMIT", index, unit="node")
        text = bytes(self._data(index, offset, length))
        rules.check_text(text, index, unit="node")
        return text

    def _fill(self, length: int) -> bytes:
        return bytes(-length % 64) if self.version == 2 else b""


def _short(number: int) -> bytes:
    return number.to_bytes(2, "little")


def encode_nodes(
    nodes: npt.ArrayLike,
    data: Any,
    dialect: str | int = "rust",
    version: int = 2,
    alignment: int = 8,
    *,
    checksum: bool = True,
) -> bytes:
    """Return the frame of a node table: the native `encode`, as reference (without its leading zeros).

    Parameters
    ----------
    nodes
        int64, one row a value, columns `schema.COLUMNS`; offsets lead into `data`.
    data
        Contiguous bytes.
    dialect
        Name or code; of no importance in version 2.
    version
        1 or 2.
    alignment
        Of arrays in the zig dialect of version 1: a power of two, at most 64.
    checksum
        Whether a version 2 frame gets a checksum.

    Raises
    ------
    WireError
        The table can't be written so; `offset` is the row.
    """
    rules.check_version(version, (1, 2))
    layout = rules.check_dialect(dialect)
    if not rules.is_alignment(alignment):
        raise WireError("ALIGN", detail=f"got {alignment}")
    table = np.asarray(nodes, np.int64).reshape(-1, len(COLUMN))
    if not len(table):
        raise WireError("SHORT", detail="the node table has no rows")
    if len(table) > LIMITS["nodes"]:
        raise WireError("LIMIT", detail=f"{len(table)} values")
    encoder = _Encoder(table.tolist(), rules.octets(data), layout, version, alignment)
    pieces, after = encoder.frame(0, 1, None, summed=checksum and version == 2)
    if after != len(table):
        raise WireError("TRAILING", after, unit="node")
    return b"".join(pieces)
