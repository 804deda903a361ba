"""``nif-lab``: the project without a notebook.

Every command takes ``--json``: one JSON object on standard output (one a line for ``monitor``), and nothing else there.
Status 0 is success, 1 a failure that the output explains, 2 bad use.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import signal
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import __version__, backends
from .errors import BackendError, NifLabError, ToolchainMissing
from .faults import command as campaign
from .gpu import describe as describe_gpu
from .programs import python
from .text import format_bytes
from .wire.schema import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .backends.base import Backend
    from .lab import Lab

__all__ = ["main", "parser"]

#: Of a frame that is shown, every byte with its meaning.
LARGEST_FRAME: Final = 64 << 20


#: The wheel is without them: they compare with other libraries, and need a compiler.
_HAS_BENCHMARKS: Final = importlib.util.find_spec("nif_lab.bench") is not None
#: Opens a backend in a process of its own: what may end or hang one is tried there.
_TRY = """
import json, sys
from nif_lab.lab import Lab
it = Lab([sys.argv[1]], lane="direct").backends[sys.argv[1]]
print("\\0" + json.dumps({"reason": it.reason, "cure": it.cure, "parts": it.backend.parts()}))
"""
#: Seconds until a start counts as a hang; the first one on a machine compiles packages.
_TRY_SECONDS = 600


def _direct(name: str) -> dict[str, Any]:
    """Return what became of a backend in the direct lane: reason, cure, and the versions of its parts."""
    failed = {"reason": "", "cure": "use the isolated lane, and report it", "parts": {}}
    command = python("-c", _TRY, name)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TRY_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {**failed, "reason": f"it didn't start within {_TRY_SECONDS} s"}
    if done.returncode == 0 and "\0" in done.stdout:
        return dict(json.loads(done.stdout.rpartition("\0")[2]))
    status = done.returncode
    how = f"terminated by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    last = "".join(f": {it}" for it in done.stderr.strip().splitlines()[-1:])
    return {**failed, "reason": f"its process ended: {how}{last}"}


def _examine(backend: Backend) -> dict[str, Any]:
    """Look for a language's toolchain and library without loading anything."""
    try:
        compiler = backend.compiler()
        return {"toolchain": compiler.version, "command": " ".join(compiler.command), "built": backend.is_built()}
    except ToolchainMissing as missing:
        return {"toolchain": None, "reason": missing.reason, "cure": missing.cure, "built": backend.is_built()}


def doctor(arguments: argparse.Namespace) -> int:
    """Say what works on this machine, what doesn't, and how to fix it."""
    report = {name: _examine(backends.find(name)) for name in backends.names()}
    from .lab import Lab

    for name, loaded in Lab().backends.items():
        entry = report[name]
        entry["loaded"] = loaded.loaded
        if loaded.library is not None:
            entry |= {"functions": len(loaded.kernels), "path": loaded.path, "compiler": loaded.library.compiler}
        else:
            entry |= {"reason": loaded.reason, "cure": loaded.cure}
        if loaded.loaded and loaded.lane != "direct":
            entry["direct"] = _direct(name)
    healthy = all(entry["loaded"] and not entry.get("direct", {}).get("reason") for entry in report.values())
    gpu = describe_gpu()
    if arguments.json:
        about = {"nif_lab": __version__, "python": platform.python_version(), "machine": platform.machine()}
        print(json.dumps({"ok": healthy, **about, "backends": report, "gpu": gpu}))
        return 0 if healthy else 1
    print(f"nif_lab {__version__}, Python {platform.python_version()}, {platform.machine()}")
    for name, entry in report.items():
        toolchain = entry["toolchain"] or "no toolchain"
        state = f"loaded, {entry['functions']} functions" if entry["loaded"] else f"NOT loaded: {entry['reason']}"
        print(f"  {name:<6} {toolchain:<12} {state}")
        if not entry["loaded"] and entry["cure"]:
            print(f"         to fix: {entry['cure']}")
        direct = entry.get("direct", {"reason": "", "parts": {}})
        if direct["parts"]:
            print(f"         {', '.join(f'{part} {version}' for part, version in direct['parts'].items())}")
        if direct["reason"]:
            print(f"         direct lane: NOT loaded: {direct['reason']}")
            print(f"         to fix: {direct['cure']}")
    compiler = f"NVRTC {gpu['nvrtc']}" if gpu["nvrtc"] else "no NVRTC"
    for it in gpu["devices"]:
        memory = f"{format_bytes(it['free'])} of {format_bytes(it['memory'])} free"
        print(f"  {it['name']:<6} {it['model']}, {memory}, {gpu['driver']}, {compiler}")
    if gpu["reason"]:
        print(f"  gpu    {gpu['reason']}")
        print(f"         to fix: {gpu['cure']}")
    return 0 if healthy else 1


def build(arguments: argparse.Namespace) -> int:
    """Build the native libraries of a checkout."""
    from .build import build as build_one
    from .progress import tracked

    done = [build_one(name) for name in tracked(arguments.languages or backends.names(), "build")]
    for it in done:
        if it.built:
            _prepare(it.name)
    if arguments.json:
        print(json.dumps({"ok": all(it.built for it in done), "backends": {it.name: asdict(it) for it in done}}))
    else:
        for it in done:
            print(it)
    return 0 if all(it.built for it in done) else 1


def _prepare(name: str) -> None:
    """Do ahead what starts of that language would take long for; whatever fails, the library is built."""
    backend = backends.find(name)
    with contextlib.suppress(ToolchainMissing):
        backend.warm()
        try:
            backend.quicken()
        except BackendError as error:
            print(f"{name}: its starts stay slow: {error}", file=sys.stderr)


def demo(arguments: argparse.Namespace) -> int:
    """Do the main job on real data, without a browser."""
    from . import demo as demonstration
    from .lab import Lab

    result = demonstration.run(Lab(), arguments.report)
    print(json.dumps(result) if arguments.json else demonstration.format_text(result))
    verified = all(it["verified"] for it in result["transfers"])
    everything = all(it["loaded"] for it in result["backends"].values())
    return 0 if result["equal"] and verified and everything else 1


def monitor(arguments: argparse.Namespace) -> int:
    """Watch the Labs of another process, live."""
    from . import monitor as watching

    return watching.run(
        arguments.pid, interval=arguments.interval, once=arguments.once, json_=arguments.json, every=arguments.all,
        dask=arguments.dask,
    )  # fmt: skip


def bench(arguments: argparse.Namespace) -> int:
    """Measure what a call and what monitoring costs, against other binders."""
    if not _HAS_BENCHMARKS:
        raise NifLabError(
            "the wheel has no benchmarks; run `make build` and `nif-lab bench` in a checkout of the sources"
        )
    from . import bench as benchmarks

    return benchmarks.run(arguments)


def faults(arguments: argparse.Namespace) -> int:
    """Make calls fail in every way there is, and see what becomes of them."""
    return campaign.run(arguments)


def new(arguments: argparse.Namespace) -> int:
    """Write a small, complete project whose library a Lab loads."""
    from . import projects

    try:
        project = projects.new(arguments.language, arguments.name, arguments.folder)
    except (ValueError, OSError) as error:
        raise NifLabError(str(error)) from None
    print(json.dumps({"ok": True, "project": str(project)}) if arguments.json else f"{project}: see its README.md")
    return 0


def stubs(arguments: argparse.Namespace) -> int:
    """Write stub files for editors and type checkers: of the languages, and of libraries and files that are named."""
    from .lab import Lab

    lab = Lab()
    sources = {languages.suffix: languages.name for languages in map(backends.find, backends.names())}
    for file in arguments.files:
        if file.suffix in sources:
            _imported(lab, file, sources[file.suffix])
        else:
            lab.load(file)
    written = lab.stubs(arguments.out)
    if arguments.json:
        print(json.dumps({"ok": True, "files": [str(it) for it in written]}))
    else:
        print("\n".join(map(str, written)))
    return 0


def _imported(lab: Lab, file: Path, language: str) -> None:
    """Compile a file as `nif_lab.importer` does."""
    import importlib.util

    from . import importer

    importer.use(lab)
    loader = importer.Loader(backends.find(language), str(file.absolute()))
    spec = importlib.util.spec_from_file_location(file.stem, file.absolute(), loader=loader)
    assert spec is not None, "it has a loader"
    loader.exec_module(importlib.util.module_from_spec(spec))


def inspect(arguments: argparse.Namespace) -> int:
    """Show every byte of a frame of the wire protocol: which field it is, what it means, what is wrong."""
    from . import wire

    frame = _read_frame(arguments.file)
    found = wire.inspect(frame, arguments.dialect, arguments.frame_version)
    if arguments.json:
        fields = [
            {"offset": it.offset, "length": it.length, "bytes": it.bytes.hex(), "name": it.name, "path": it.path,
             "meaning": it.meaning, "valid": it.valid}
            for it in found.fields
        ]  # fmt: skip
        wrong = found.error and {"code": found.error.code, "offset": found.error.offset, "rule": found.error.rule}
        print(json.dumps({"ok": found.valid, "fields": fields, "error": wrong}))
    else:
        print(found)
    return 0 if found.valid else 1


def _read_frame(path: Path) -> bytes:
    """Read a file that may be anything: a pipe isn't waited for, and no device is read."""
    give = "give the path of a file that holds one frame"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise NifLabError(f"{path} isn't an ordinary file; {give}")
            if about.st_size > LARGEST_FRAME:
                raise NifLabError(f"{path} has {about.st_size:,} bytes, and {LARGEST_FRAME:,} can be shown; {give}")
            return file.read(LARGEST_FRAME)
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the path
        raise NifLabError(f"{path}: {getattr(error, 'strerror', None) or error}; {give}") from None


def parser() -> argparse.ArgumentParser:
    """Return the command line as argparse knows it."""
    top = argparse.ArgumentParser(prog="nif-lab", description="Native functions of four languages, from one place.")
    top.add_argument("--version", action="version", version=f"nif_lab {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run in (doctor, build, demo, monitor, bench, faults, inspect, new, stubs):
        summary = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(run.__name__, help=summary, description=summary)
        command.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")
        command.set_defaults(run=run)
        if run is build:
            command.add_argument("languages", nargs="*", metavar="LANGUAGE", type=_language, help="all unless given")
        if run is monitor:
            command.add_argument(
                "pid", nargs="?", type=int, metavar="PID", help="the only process with a Lab unless given"
            )
            command.add_argument("--once", action="store_true", help="look once and return")
            command.add_argument("--interval", type=float, default=0.5, metavar="SECONDS", help="between looks (0.5)")
            command.add_argument("--all", action="store_true", help="the processes below it too, as a tree")
            command.add_argument("--dask", metavar="ADDRESS", help="also the workers of this cluster; its scheduler")
        if run is bench:
            _benchmark_arguments(command)
        if run is faults:
            campaign.add_arguments(command)
        if run is inspect:
            command.add_argument("file", type=Path, metavar="FILE", help="holds one frame and nothing else")
            command.add_argument(
                "--dialect", choices=tuple(DIALECTS), default="rust", help="of a version 1 frame (rust)"
            )
            command.add_argument("--frame-version", type=int, choices=(1, 2), help="the frame's own unless given")
        if run is new:
            command.add_argument("language", metavar="LANGUAGE", type=_language, help=", ".join(backends.names()))
            command.add_argument("name", metavar="NAME", help="of the project, its library and its folder")
            command.add_argument(
                "--folder", type=Path, default=Path(), metavar="DIR", help="where its folder is made (.)"
            )
        if run is stubs:
            command.add_argument("files", nargs="*", type=Path, metavar="FILE", help="a library, or a file to import")
            command.add_argument(
                "--out", type=Path, default=Path("typings"), metavar="DIR", help="where the stubs go (typings)"
            )
        if run is demo:
            report = command.add_argument("--report", type=Path, default=Path("report.html"), metavar="FILE")
            report.help = "where the HTML report goes (report.html)"
    return top


def _benchmark_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bench``; where it isn't installed, all are taken, so that `bench` can say so."""
    if _HAS_BENCHMARKS:
        from .bench import add_arguments

        add_arguments(command)
    else:
        command.add_argument("suite", nargs=argparse.REMAINDER, help="in a checkout of the sources only")


def _language(name: str) -> str:
    if name not in backends.names():
        raise argparse.ArgumentTypeError(f"no language '{name}'; there are {', '.join(backends.names())}")
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except NifLabError as error:
        print(f"nif-lab {arguments.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"nif-lab {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
