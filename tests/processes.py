"""Waiting for others, and who is left of a program that was marked when it began."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The variable of the environment that marks a process and all its children.
TOKEN = "NIF_LAB_TEST_TOKEN"


def marked(token: str) -> list[str]:
    """Every process but this one that was born with the token; multiprocessing's tracker lives as long as we do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{TOKEN}={token}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it ended meanwhile
    return [it for it in found if "resource_tracker" not in it]


def in_time(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until it holds, at most so long."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait until it gives something, and return that."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found
