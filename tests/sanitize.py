"""``make sanitize``: Rust's parts under AddressSanitizer, and what is done without locks under ThreadSanitizer.

Rust's sanitizers need no nightly: ``RUSTC_BOOTSTRAP=1`` opens them in the stable compiler. Each has a folder of its
own, rust/target/sanitize-*; any report fails it. docs/reliability.md has what is and isn't covered.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUST = ROOT / "rust"
SUPPRESSIONS = ROOT / "tests" / "sanitizers" / "thread.txt"
TARGET = "x86_64-unknown-linux-gnu"
LIMIT = 3000.0

#: Telemetry's rings, what each process has of its own, mapped files; the bell, the roster, the speaker; the channel.
THREADS = (("--lib", "-p", "nif-memory", "-p", "nif-worker"), ("--test", "channel", "-p", "nif-worker"))

#: Calls, arrays and results in both lanes; the allocator; mapped files; the lane's processes.
ADDRESSES = (
    ("-k", "rust", "tests/conformance"),
    (
        # A sanitizer writes at the exit, and keeps memory that was freed.
        *("-k", "not julia and not exit_with_live_views and not take_no_memory"),
        *(f"tests/test_{it}.py" for it in ("memory", "buffers", "mapped_files", "late", "crew")),
    ),
)
#: Faults on purpose: AddressSanitizer stops them before they show. Codecs of all languages: Julia's library can't be
#: loaded by a sanitized process (it asks for RTLD_DEEPBIND).
LEFT_OUT = tuple(f"tests/conformance/test_{it}.py" for it in ("fault_room", "faults", "codecs"))
#: The worker has handlers of its own for the signals of a crash, on a stack of its own.
OPTIONS = {
    "detect_leaks": 0,
    "detect_odr_violation": 0,
    "allow_user_segv_handler": 1,
    "use_sigaltstack": 0,
    "abort_on_error": 1,
    **dict.fromkeys(("handle_segv", "handle_abort", "handle_sigill", "handle_sigfpe", "handle_sigbus"), 0),
}


def run(*line: str | Path, environ: dict[str, str], cwd: Path = ROOT) -> None:
    """Run a program that has to succeed, and say how long it took."""
    start = time.monotonic()
    subprocess.run(line, cwd=cwd, env={**os.environ, **environ}, check=True, timeout=LIMIT)
    print(f"sanitize: {' '.join(map(str, line[:8]))}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def library(name: str) -> str:
    """Return the path of one of the C compiler's own libraries."""
    line = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def threads() -> None:
    """Run Rust's own tests under ThreadSanitizer."""
    flags = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
    environ = {"RUSTC_BOOTSTRAP": "1", "RUSTFLAGS": flags, "RUSTDOCFLAGS": flags}
    environ["TSAN_OPTIONS"] = f"suppressions={SUPPRESSIONS}"
    for tests in THREADS:
        place = ("--locked", "--target", TARGET, "--target-dir", "target/sanitize-thread")
        run("cargo", "test", *place, *tests, environ=environ, cwd=RUST)


def addresses() -> None:
    """Run the tests in Python with a package of which Rust's parts were built with AddressSanitizer and assertions."""
    # Exceptions of C++ are ASan's to see: the library that throws them has to be there when it starts.
    asan, exceptions = (library(name) for name in ("libasan.so", "libstdc++.so.6"))
    folder = RUST / "target" / "sanitize-address"
    flags = (
        "-Zsanitizer=address -Zexternal-clangrt --cfg nif_sanitized -Cdebug-assertions=on -Cforce-frame-pointers=yes "
        f"-Clink-arg={asan}"
    )
    release = {"LTO": "off", "CODEGEN_UNITS": "16", "STRIP": "none", "DEBUG": "line-tables-only", "OPT_LEVEL": "1"}
    environ = {f"CARGO_PROFILE_RELEASE_{name}": value for name, value in release.items()}
    environ |= {"RUSTC_BOOTSTRAP": "1", "RUSTFLAGS": flags, "PYO3_PYTHON": sys.executable, "NIF_LAB_BUILD": "core"}
    parts = [word for name in ("nif-core", "nif-kernels", "nif-worker") for word in ("-p", name)]
    place = ("--locked", "--release", "--target", TARGET, "--target-dir", folder)
    run("cargo", "build", *place, *parts, environ=environ, cwd=RUST)

    built, package = folder / TARGET / "release", folder / "python" / "nif_lab"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "nif_lab", package)
    for made, name in (
        ("lib_core.so", f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"),
        ("libnif_kernels.so", "_native/libnif_rust.so"),
        ("nif_worker", "_native/nif_worker"),
    ):
        (package / name).unlink(missing_ok=True)  # not written into: another notebook may have it mapped
        shutil.copy(built / made, package / name)
    reports = folder / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    options = {**OPTIONS, "log_path": reports / "report"}
    environ = {
        "LD_PRELOAD": f"{asan}:{exceptions}",
        "NIF_LAB_JULIA": "/nowhere",
        "PYTHONPATH": str(package.parent),
        "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in options.items()),
    }
    skipped = [f"--ignore={it}" for it in LEFT_OUT]
    for tests in ADDRESSES:
        run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *skipped, *tests, environ=environ)
    if found := sorted(reports.iterdir()):
        raise SystemExit(f"sanitize: {len(found)} reports, the first one is {found[0]}:\n{found[0].read_text()[:4000]}")


SANITIZERS = {"threads": threads, "addresses": addresses}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="?", choices=SANITIZERS, help="both unless given")
    which = parser.parse_args().which
    for sanitizer in [which] if which else SANITIZERS:
        try:
            SANITIZERS[sanitizer]()
        except subprocess.SubprocessError as error:
            print(f"sanitize: {error}", file=sys.stderr)
            return 1
    print("sanitize: nothing was reported", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
