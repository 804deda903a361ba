"""A system image of Julia's with our package: made once, and used for what it was made for alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nif_lab import julia_image, machine
from nif_lab.errors import BackendError
from nif_lab.julia_home import Installation

#: Writes an archive, as a julia does with --output-o, and a dot for each time; starts with any image.
IMAGER = """#!/bin/sh
case "$*" in *--output-o*) ;; *) test ! -e "$0.refuses"; exit ;; esac
printf . >> "$0.ran"
test -e "$0.fails" && exit 3
while [ "$1" != --output-o ]; do shift; done
echo 'int image;' | {cc} -x c -c - -o "$2.part" && ar rcs "$2" "$2.part"
"""


def test_an_image_is_for_one_julia_one_package_and_one_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    program, library, base = (tmp_path / it for it in ("julia", "libjulia.so", "sys.so"))
    program.write_text(IMAGER.format(cc=machine.compiler("CC")))
    program.chmod(0o755)
    subprocess.run([machine.compiler("CC"), "-shared", "-x", "c", "/dev/null", "-o", library], check=True)
    base.write_bytes(b"the image that it came with")
    found = Installation(str(program), "1.5.3", str(tmp_path), str(library), str(base))
    ran = tmp_path / "julia.ran"

    def image(state: str) -> str:
        return julia_image.with_image(found, tmp_path, state).image

    assert image("one") == found.image
    for _ in range(2):
        julia_image.make_image(found, tmp_path, "one")
    first = Path(image("one"))
    assert ctypes.CDLL(str(first)).image is not None
    assert ran.read_text() == ".", "it is made once"
    assert image("two") == found.image, "of another state of the package"
    with monkeypatch.context() as other:
        other.setattr(julia_image, "_processor", lambda: "another")
        assert image("one") == found.image
    newer = replace(found, version="1.9.0")
    assert not julia_image.needs_image(newer)
    assert julia_image.with_image(newer, tmp_path, "one") == newer
    julia_image.make_image(found, tmp_path, "two")
    killed = first.parent / "making-one"
    killed.mkdir()
    os.utime(killed, (0, 0))
    (tmp_path / "julia.refuses").touch()
    with pytest.raises(BackendError, match="julia ended with status 1"):
        julia_image.make_image(found, tmp_path, "three")  # with which no julia starts
    (tmp_path / "julia.fails").touch()
    with pytest.raises(BackendError, match="julia ended with status 3"):
        julia_image.make_image(found, tmp_path, "three")
    assert list(first.parent.iterdir()) == [Path(image("two"))], "older ones go, and no leftovers stay"
    base.write_bytes(b"another one, in the same place")
    assert image("two") == found.image
