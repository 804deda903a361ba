"""Try a wheel for aarch64 on another processor: ``python tools/emulate.py WHEEL [ARGUMENT ...]``.

Debian's Python for that processor is unpacked into a folder of its own, with the wheel and what it needs, and runs
`tests/smoke.py` there under QEMU; or what the arguments say: ``-m nif_lab.cli doctor``. The folder goes afterwards.

It takes Debian's packages mmdebstrap, bubblewrap and qemu-user-static (on Ubuntu debian-archive-keyring too), and root
where others may not make namespaces. The kernel has to know QEMU: a Lab starts its workers as it does anywhere.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parent.parent
RELEASE, PYTHON, GLIBC = "bookworm", "3.11", 36  # Debian's, its Python, and the minor number of its C library
PACKAGES = "python3,libstdc++6"
NEEDED = {"mmdebstrap": "mmdebstrap", "bwrap": "bubblewrap", "qemu-aarch64-static": "qemu-user-static"}
KNOWN = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
CURE = f"""\
the kernel doesn't know QEMU: as root
  mount -t binfmt_misc binfmt_misc {KNOWN.parent}
  cat /usr/lib/binfmt.d/{KNOWN.name}.conf > {KNOWN.parent}/register"""


def unpack(folder: Path) -> None:
    """Fill a folder with Debian's Python; nothing is configured, so nothing has to run."""
    options = ["--variant=extract", "--architectures=arm64", f"--include={PACKAGES}", "--quiet"]
    subprocess.run(["mmdebstrap", *options, RELEASE, str(folder)], check=True)
    for it in ("dev", "proc", "root", "tmp", "opt/site", "opt/tests"):
        (folder / it).mkdir(parents=True, exist_ok=True)


def install(wheel: str, folder: Path) -> None:
    """Put a wheel and what it needs into a folder, as that Python would."""
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, GLIBC + 1))]
    options = ["--only-binary=:all:", f"--python-version={PYTHON}", *(f"--platform={tag}_aarch64" for tag in tags)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", f"--target={folder}", *options, wheel]
    subprocess.run(command, check=True)


def homeless(folder: Path) -> list[str]:
    """Return what the wheel's libraries want and neither Python has nor the C library that they are linked for.

    Linkers let that pass, and so does auditwheel. Debian's C library, which is newer, may have it.
    """
    found = []
    for file in (it for it in folder.rglob("*") if it.is_file() and it.read_bytes().startswith(b"\x7fELF")):
        with file.open("rb") as stream:
            elf = ELFFile(stream)
            versions = elf.get_section_by_name(".gnu.version")
            for number, it in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
                is_wanted = it["st_shndx"] == "SHN_UNDEF" and it["st_info"]["bind"] == "STB_GLOBAL"
                is_versioned = isinstance(versions.get_symbol(number)["ndx"], int)
                if is_wanted and not is_versioned and not it.name.startswith(("Py", "_Py")):
                    found.append(f"{file.name}: {it.name}")
    return found


def main(wheel: str, *arguments: str) -> int:
    """Run that Python with the wheel; return its status."""
    if missing := [package for program, package in NEEDED.items() if not shutil.which(program)]:
        sys.exit(f"apt-get install {' '.join(missing)}")
    if not KNOWN.exists():
        sys.exit(CURE)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        debian, site = Path(place, "debian"), Path(place, "site")
        unpack(debian)
        install(wheel, site)
        if wanted := homeless(site / "nif_lab"):
            sys.exit(f"an older C library has no {', '.join(wanted)}")
        command = [
            "bwrap", "--bind", str(debian), "/", "--ro-bind", str(site), "/opt/site",
            "--ro-bind", str(ROOT / "tests"), "/opt/tests", "--proc", "/proc", "--dev", "/dev",
            "--unshare-pid", "--die-with-parent", "--chdir", "/root", "--clearenv",
            "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/root", "--setenv", "PYTHONPATH", "/opt/site",
            "python3", *(arguments or ("/opt/tests/smoke.py",)),
        ]  # fmt: skip
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
