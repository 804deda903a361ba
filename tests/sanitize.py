"""``make sanitize``: the crates under two sanitizers, and the conformance suite over sanitized libraries.

Rust's sanitizers need no nightly: ``RUSTC_BOOTSTRAP=1`` opens them in the stable compiler. Each part is built into
rust/target/sanitize-* and says how long it took; any report fails it. CONTRIBUTING.md has what is and isn't covered.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUST = ROOT / "rust"
LISTS = ROOT / "tests" / "sanitizers"
TARGET = "x86_64-unknown-linux-gnu"
#: What the direct lane's conformance suite runs with both, and how long one part may take.
LANGUAGES, LIMIT = ("rust", "c"), 3000.0
#: Tests of the suite that end a process on purpose, or that measure what a sanitizer changes.
LEFT_OUT = "not tvm and not memory and not long and not stack"


def environment(sanitizer: str, **more: str) -> dict[str, str]:
    """Return the environment in which cargo builds and runs with a sanitizer."""
    flags = f"-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer --cfg sanitized"
    return {
        **os.environ,
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": flags,
        "RUSTDOCFLAGS": flags,
        "NIF_LAB_BUILD": "core",
        "PYO3_PYTHON": sys.executable,
        "TSAN_OPTIONS": f"suppressions={LISTS / 'thread.txt'}",
        "LSAN_OPTIONS": f"suppressions={LISTS / 'address.txt'}",
        **more,
    }


def cargo(sanitizer: str, *what: str) -> None:
    line = ["cargo", what[0], "--locked", "--target", TARGET, "--target-dir", f"target/sanitize-{sanitizer}", *what[1:]]
    subprocess.run(line, cwd=RUST, env=environment(sanitizer), check=True, timeout=LIMIT)


def packages(*names: str) -> list[str]:
    return [it for name in names for it in ("-p", f"nif-{name}" if name else "nif")]


def threads() -> None:
    """Arena, rings, lane and telemetry, with many threads, under ThreadSanitizer."""
    cargo("thread", "test", "--lib", "--tests", *packages("memory", "worker", "core"))


def addresses() -> None:
    """The same, the copies and the SDK under AddressSanitizer and LeakSanitizer."""
    cargo("address", "test", "--lib", "--tests", *packages("memory", "worker", "core", "copy", ""))


def conformance() -> None:
    """The direct lane's conformance suite over a core, Rust kernels (ASan) and C kernels (ASan, UBSan)."""
    cargo("address", "build", *packages("core", "kernels"))
    site = RUST / "target" / "sanitize-site"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "nif_lab", site / "nif_lab", symlinks=True)
    built = RUST / "target" / "sanitize-address" / TARGET / "debug"
    (core,) = (it for it in (site / "nif_lab").glob("_core*.so") if "314t" not in it.name)
    for made, to in (
        (built / "lib_core.so", core),
        (built / "libnif_kernels.so", site / "nif_lab/_native/libnif_rust.so"),
    ):
        to.unlink(missing_ok=True)
        shutil.copy(made, to)
    sources = sorted((ROOT / "tests/fifth_language/c").rglob("*.c"))
    compiler = shutil.which("cc")
    assert compiler, "no C compiler: install gcc"
    line = [compiler, "-std=c11", "-g", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-fvisibility=hidden"]
    line += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-Wl,-Bsymbolic"]
    line += [f"-I{ROOT / 'src/nif_lab/include'}", f"-I{ROOT / 'tests/fifth_language/c'}", *map(str, sources)]
    out = site / "nif_lab/_native/libnif_c.so"
    out.unlink(missing_ok=True)
    subprocess.run([*line, "-lm", "-ldl", "-o", str(out)], check=True)
    asked = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environ = {
        **os.environ,
        "PYTHONPATH": str(site),
        "LD_PRELOAD": str(Path(asked.stdout.strip()).resolve()),
        # Python's own leaks aren't ours; faults of the suite are caught or passed on by the libraries' own handlers.
        "ASAN_OPTIONS": "detect_leaks=0:allow_user_segv_handler=1:use_sigaltstack=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    which = " or ".join(f"{name}-direct or (direct and {name})" for name in LANGUAGES)
    tests = ["test_kernels.py", "test_types.py", "test_values.py", "test_tables.py", "test_codecs.py", "test_errors.py"]
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"({which}) and {LEFT_OUT}"]
    line += [str(ROOT / "tests/conformance" / it) for it in tests]
    subprocess.run(line, cwd=ROOT, env=environ, check=True, timeout=LIMIT)


PARTS: dict[str, Callable[[], None]] = {"threads": threads, "addresses": addresses, "conformance": conformance}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all unless given")
    failed = []
    for name in parser.parse_args().parts or PARTS:
        print(f"sanitize: {name}: {PARTS[name].__doc__}", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            PARTS[name]()
        except subprocess.SubprocessError as error:
            failed.append(name)
            print(f"sanitize: {error}", file=sys.stderr)
        print(f"sanitize: {name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(f"sanitize: {'failed: ' + ', '.join(failed) if failed else 'nothing was reported'}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
