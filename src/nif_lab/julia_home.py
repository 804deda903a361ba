"""Where Julia is: found in a stated order, or installed by juliapkg; and compiled for once.

The order: ``$NIF_LAB_JULIA``; what juliapkg (that is, juliacall) uses in this environment; juliaup's default, then its
newest; ``julia`` on PATH; where ``make julia`` unpacks one for a checkout. A program that doesn't start or is too old
is passed over, unless ``$NIF_LAB_JULIA`` names it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import BackendError, ToolchainMissing
from .folders import home, private
from .programs import NOWHERE, environment, python, search_path
from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Installation", "cache_folder", "compiled_folder", "find_julia", "install_julia", "places", "told"]

OLDEST: Final = (1, 5)
#: The home of a user who has none.
NO_HOME: Final = Path("/nonexistent")
CURE: Final = (
    "install Julia >= 1.10 (with juliaup, say), or point $NIF_LAB_JULIA at a julia, or (in a"
    " checkout, on Debian) run: make julia"
)

#: What one start of a julia tells about itself: version, folder, library, image.
PROBE: Final = (
    'using Libdl; p = filter(p -> occursin(r"^libjulia\\.(so|\\d|dylib)", basename(p)), Libdl.dllist());'
    " foreach(println, (VERSION, Sys.BINDIR, realpath(first(p)), unsafe_string(Base.JLOptions().image_file)))"
)
#: Has juliapkg find or download a Julia, and what juliacall needs of packages.
RESOLVE: Final = "import juliapkg; juliapkg.resolve(); print('found', juliapkg.executable())"


@dataclass(frozen=True, slots=True)
class Installation:
    """A julia that was found and asked."""

    program: str
    version: str
    bindir: str
    library: str
    image: str

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(n) for n in re.findall(r"\d+", self.version)[:2])


def _note(program: str) -> Path | None:
    """Return where it is noted what that julia is."""
    folder = cache_folder()
    return folder and folder / f"found-{hashlib.sha256(os.path.realpath(program).encode()).hexdigest()[:16]}.json"


def _stamps(program: str, library: str, image: str) -> dict[str, list[int]]:
    """Return size, time and number of each of those files: another Julia in the same place has others."""
    found = {}
    for path in (os.path.realpath(program), library, image):
        about = os.stat(path)
        found[path] = [about.st_size, about.st_mtime_ns, about.st_ino]
    return found


def _noted(program: str) -> Installation | None:
    """Return what an earlier process noted about that julia, if it is the same one still."""
    note = _note(program)
    said = _read(note) if note else {}
    try:
        found = Installation(program, *(said[name] for name in ("version", "bindir", "library", "image")))
        return found if said["stamps"] == _stamps(program, found.library, found.image) else None
    except (KeyError, TypeError, OSError):
        return None


def _write_note(found: Installation) -> None:
    """Note what a julia is, unless its program is a launcher, which lies elsewhere and may start another one."""
    note = _note(found.program)
    if note is None or os.path.dirname(os.path.realpath(found.program)) != os.path.realpath(found.bindir):
        return
    with contextlib.suppress(OSError):
        said = {**asdict(found), "stamps": _stamps(found.program, found.library, found.image)}
        fresh = note.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(said), encoding="utf-8")
        fresh.replace(note)


@cache
def probe(program: str) -> Installation:
    """Start a julia once and ask what it is; on this machine once, if the program is Julia's own.

    Raises
    ------
    ToolchainMissing
        When it doesn't start or is too old.
    """
    noted = _noted(program)
    if noted is not None:
        return noted
    try:
        # In a folder and an environment of ours: a Project.toml beside a notebook is about other code.
        done = subprocess.run(
            [program, "--startup-file=no", "-e", PROBE], cwd=NOWHERE, env=environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        version, bindir, library, image = done.stdout.split("\n")[:4]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ToolchainMissing(f"{program} doesn't start", CURE, str(error)) from None
    found = Installation(program, version, bindir, library, image)
    if found.number < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ToolchainMissing(f"Julia {version} ({program}) is too old: {oldest} is the oldest that works", CURE)
    _write_note(found)
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _depot() -> Path:
    return Path(os.environ.get("JULIA_DEPOT_PATH", "").split(os.pathsep)[0] or (home() or NO_HOME) / ".julia")


def _juliapkg() -> Iterator[str]:
    """Yield the julia that juliapkg was told to use, has chosen, or has installed."""
    for name in ("PYTHON_JULIACALL_EXE", "PYTHON_JULIAPKG_EXE"):
        if os.environ.get(name):
            yield os.environ[name]
    project = os.environ.get("PYTHON_JULIAPKG_PROJECT")
    prefix = sys.prefix if sys.prefix != sys.base_prefix else os.environ.get("CONDA_PREFIX")
    default = Path(prefix) / "julia_env" if prefix else _depot() / "environments" / "pyjuliapkg"
    folder = (Path(project) if project else default) / "pyjuliapkg"
    chosen = _read(folder / "meta.json").get("executable")
    if isinstance(chosen, str):
        yield chosen
    yield str(folder / "install" / "bin" / "julia")


def _juliaup() -> Iterator[str]:
    """Yield juliaup's default julia, then its others, the newest first."""
    # juliaup has a variable of its own for the place, and none of Julia's.
    folder = Path(os.environ.get("JULIAUP_DEPOT_PATH") or (home() or NO_HOME) / ".julia") / "juliaup"
    said = _read(folder / "juliaup.json")
    installed = said.get("InstalledVersions", {})
    default = said.get("InstalledChannels", {}).get(said.get("Default"), {}).get("Version")

    def rank(version: str) -> tuple[bool, list[int]]:
        return version == default, [int(n) for n in re.findall(r"\d+", version.split("+", maxsplit=1)[0])]

    for version in sorted(installed, key=rank, reverse=True):
        it = installed[version]
        within = it.get("BinaryPath") or (it.get("Path") and f"{it['Path']}/bin/julia")
        if within:
            yield str(folder / within)


def places() -> Iterator[tuple[str, str]]:
    """Yield programs that may be a julia, each with who put it there, in the order they are tried."""
    yield from (("juliapkg", it) for it in _juliapkg())
    yield from (("juliaup", it) for it in _juliaup())
    yield "PATH", "julia"
    yield "make julia", str(Path(sys.prefix) / "lib" / "nif_lab-julia" / "bin" / "julia")


def find_julia() -> Installation:
    """Find the Julia to use; see the module's text for the order.

    Raises
    ------
    ToolchainMissing
        When none works: about the first that was found, or that there is none.
    """
    named = os.environ.get("NIF_LAB_JULIA")
    if named:
        program = shutil.which(named, path=search_path())
        if not program:
            raise ToolchainMissing(f"$NIF_LAB_JULIA is {named}, which isn't a program", CURE)
        return probe(os.path.abspath(program))
    refused: list[ToolchainMissing] = []
    for _, place in places():
        program = shutil.which(place, path=search_path())
        if program:
            try:
                return probe(os.path.abspath(program))
            except ToolchainMissing as missing:
                refused.append(missing)
    raise refused[0] if refused else ToolchainMissing("no Julia on this machine", CURE)


def told(command: Sequence[str], what: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program that takes its time, and show its last line meanwhile; return its status and its words.

    Nothing that it writes lands on the user's own standard output or error.
    """
    lines: list[str] = []
    with (
        Progress() as show,
        subprocess.Popen(
            list(command), env=None if env is None else {**os.environ, **env}, stdin=subprocess.DEVNULL, cwd=NOWHERE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        ) as running,
    ):  # fmt: skip
        show(what)
        assert running.stdout is not None
        try:
            for line in running.stdout:
                lines.append(line)
                show(f"{what}: {line.strip().removeprefix('[juliapkg]').strip()[:80]}")
        except BaseException:
            running.kill()
            raise
    return running.returncode, "".join(lines)


_attempted: set[str] = set()


def install_julia(missing: ToolchainMissing) -> Installation:
    """Have juliapkg download a Julia and what juliacall needs, once in a process.

    Raises
    ------
    ToolchainMissing
        When that doesn't work; ``missing`` where the user wants another one, or no download.
    """
    if _attempted or "NIF_LAB_JULIA" in os.environ or os.environ.get("PYTHON_JULIAPKG_OFFLINE") == "yes":
        raise missing
    try:
        command = python("-c", RESOLVE)
    except ToolchainMissing:
        raise missing from None
    _attempted.add("juliapkg")
    status, said = told(command, "Julia isn't installed: juliapkg installs it")
    try:
        # Where only the packages failed, Julia itself is there, and the isolated lane works.
        return find_julia()
    except ToolchainMissing:
        why = f"juliapkg ended with status {status}"
        raise ToolchainMissing(f"no Julia on this machine, and {why} when it should install one", CURE, said) from None


def cache_folder() -> Path | None:
    """Return where compiled Julia packages of ours are kept; None where nothing can be, or others could change it."""
    try:
        return private("julia")
    except BackendError:
        return None


def compiled_folder(package: Path) -> Path | None:
    """Return where the compiled form of the package that lies there is kept.

    Each copy of our package has a folder: Julia names the file by the Julia and not by where the package lies, so two
    environments would undo each other's work at every start.
    """
    try:
        return private("julia", hashlib.sha256(str(package).encode()).hexdigest()[:16])
    except BackendError:
        return None
