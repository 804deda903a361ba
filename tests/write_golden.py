"""Write tests/golden: the frame of every example in every layout, and what is in it.

Run it when the format changes, which no release does within a version: `python tests/write_golden.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from nif_lab import wire
from nif_lab.wire.examples import EXAMPLES
from nif_lab.wire.schema import DIALECTS

GOLDEN = Path(__file__).with_name("golden")


def golden() -> dict[str, tuple[bytes, dict[str, object]]]:
    """Return name -> (frame, its entry in the index)."""
    files: dict[str, tuple[bytes, dict[str, object]]] = {}
    for marker, value in EXAMPLES.items():
        for version, dialects in ((1, tuple(DIALECTS)), (2, ("rust",))):
            for dialect in dialects:
                try:
                    frame = wire.encode(value, dialect, version)
                except wire.WireError:
                    continue  # version 1 has no tensor
                nodes, _ = wire.flatten(value, dialect, version)
                name = f"{marker}.v{version}" + (f".{dialect}" if version == 1 else "")
                entry = {"marker": marker, "version": version, "dialect": dialect, "nodes": len(nodes)}
                files[name] = (frame, entry)
    return files


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.bin"):
        old.unlink()
    for name, (frame, _) in golden().items():
        (GOLDEN / f"{name}.bin").write_bytes(frame)
    index = {name: entry for name, (_, entry) in golden().items()}
    (GOLDEN / "index.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
