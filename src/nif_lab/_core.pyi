"""The Rust core (rust/core): opens NIF libraries and calls their functions."""

from collections.abc import Callable
from typing import Any, TypeVar, final

_T = TypeVar("_T")

@final
class Nif:
    name: str
    signature: str
    doc: str
    flags: int
    parameters: list[str]
    function: Callable[..., Any]

@final
class Library:
    backend: str
    path: str | None
    language: str
    compiler: str
    version: str
    functions: dict[str, Nif]

@final
class Owner:
    def __new__(cls, name: str) -> Owner: ...
    def run(self, function: Callable[[], _T]) -> _T: ...

@final
class Block:
    size: int
    def fileno(self) -> int: ...

@final
class Telemetry:
    enabled: bool
    cell: int
    def __new__(cls) -> Telemetry: ...
    def fileno(self) -> int: ...
    def calibrate(self) -> None: ...
    def add_backend(self, name: str) -> int: ...

@final
class Recorder:
    record: Callable[[float], None]
    def __new__(cls, telemetry: Telemetry, backend: int, name: str) -> Recorder: ...

def open_library(path: str, backend: str, telemetry: Telemetry | None = None) -> Library: ...
def open_table(address: int, backend: str, owner: Owner, telemetry: Telemetry | None = None) -> Library: ...
def host_address() -> int: ...
def layout() -> str: ...
def in_shared_memory(address: int, size: int) -> bool: ...
def start_julia(owner: Owner, library: str, bindir: str, image: str, code: str) -> str: ...
