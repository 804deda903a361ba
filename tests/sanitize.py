"""``make sanitize``: what is done without locks, by many threads, under ThreadSanitizer.

Rust's sanitizers need no nightly: ``RUSTC_BOOTSTRAP=1`` opens them in the stable compiler. It is built into
rust/target/sanitize-thread; any report fails it. docs/reliability.md has what is and isn't covered.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPRESSIONS = ROOT / "tests" / "sanitizers" / "thread.txt"
TARGET = "x86_64-unknown-linux-gnu"
#: Telemetry's rings, what each process has of its own, mapped files; the bell, the roster, the speaker; the channel.
TESTS = (("--lib", "-p", "nif-memory", "-p", "nif-worker"), ("--test", "channel", "-p", "nif-worker"))
LIMIT = 3000.0


def main() -> int:
    flags = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
    environ = {
        **os.environ,
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": flags,
        "RUSTDOCFLAGS": flags,
        "TSAN_OPTIONS": f"suppressions={SUPPRESSIONS}",
    }
    for tests in TESTS:
        start = time.monotonic()
        line = ["cargo", "test", "--locked", "--target", TARGET, "--target-dir", "target/sanitize-thread", *tests]
        try:
            subprocess.run(line, cwd=ROOT / "rust", env=environ, check=True, timeout=LIMIT)
        except subprocess.SubprocessError as error:
            print(f"sanitize: {error}", file=sys.stderr)
            return 1
        print(f"sanitize: {' '.join(tests)}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print("sanitize: nothing was reported", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
