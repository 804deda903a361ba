"""Run one step of the set-up and show that it goes on: ``python tools/phase.py "title" command ...``.

The command's own output appears only when it fails. Without a terminal there is a dot every ten seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

SPINNER = "|/-\\"


def main(title: str, command: list[str]) -> int:
    """Run the command; return its status."""
    start, turn, is_terminal = time.monotonic(), 0, sys.stdout.isatty()
    with tempfile.TemporaryFile() as output:
        print(f"{title} ...", end="", flush=True)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while True:
            try:
                status = process.wait(0.2 if is_terminal else 10)
                break
            except subprocess.TimeoutExpired:
                turn += 1
                took = time.monotonic() - start
                print(f"\r{title} {SPINNER[turn % 4]} {took:.0f} s" if is_terminal else ".", end="", flush=True)
        end = f"{'done' if status == 0 else 'failed'} in {time.monotonic() - start:.0f} s"
        print(f"\r\x1b[K{title}: {end}" if is_terminal else f" {end}", flush=True)
        if status:
            output.seek(0)
            sys.stdout.write(output.read().decode(errors="replace"))
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
