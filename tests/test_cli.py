"""The command line: one JSON object, honest exit statuses, clear words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nif_lab import Lab, backends, cli, wire
from nif_lab.build import Built, build


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = cli.main(arguments)
    return status, capsys.readouterr().out


@pytest.mark.slow
def test_doctor_finds_all_languages_well(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["ok"] is True
    assert {name: it["loaded"] for name, it in report["backends"].items()} == dict.fromkeys(backends.names(), True)
    assert all(it["toolchain"] and it["built"] for it in report["backends"].values())
    direct = report["backends"]["julia"]["direct"]
    assert direct["reason"] == ""
    assert {"juliacall", "juliapkg"} <= direct["parts"].keys()
    monkeypatch.setattr(cli, "_direct", lambda name: direct)
    status, out = run(capsys, "doctor")
    assert status == 0
    assert all(name in out for name in backends.names())
    assert f"juliacall {direct['parts']['juliacall']}" in out


def test_doctor_names_the_cure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(type(backends.find("zig")), "library", property(lambda self: Path("/none/libnif_zig.so")))
    monkeypatch.setattr(cli, "_TRY", "raise SystemExit('no runtime here')")
    status, out = run(capsys, "doctor")
    assert status == 1
    assert "direct lane: NOT loaded: its process ended: status 1: no runtime here" in out
    assert "NOT loaded: not built: /none/libnif_zig.so is missing" in out
    assert "to fix: nif-lab build zig" in out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["build", "cobol"], ["doctor", "--yaml"]], ids=" ".join)
def test_bad_use_exits_2_with_one_clear_line(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nif_lab.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "error:" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", backends.names())
def test_each_language_builds_from_its_folder(name: str, tmp_path: Path) -> None:
    done = build(name, tmp_path)
    assert done.built, str(done)
    assert list(tmp_path.iterdir())
    assert f"{name}: built in" in str(done)


def test_a_language_that_cannot_be_built_is_a_result(tmp_path: Path) -> None:
    env = {**os.environ, "PATH": "/none", "CARGO_HOME": "/none", "CARGO": "/none/cargo"}
    code = (
        "import dataclasses, json; from nif_lab.build import build;print(json.dumps(dataclasses.asdict(build('rust'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    result = Built(**json.loads(done.stdout))
    assert not result.built
    assert result.reason
    assert result.cure
    assert "NOT built" in str(result)


def test_a_wheel_built_without_julia_has_its_sources_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NIF_LAB_JULIA", "/none/julia")
    assert build("julia", tmp_path).built
    assert (tmp_path / "julia" / "src" / "NifLab.jl").is_file()
    assert (tmp_path / "julia" / "Project.toml").is_file()


def test_interrupt_and_errors_end_with_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "doctor", interrupted)
    interrupted.__name__, interrupted.__doc__ = "doctor", "Doctor."
    assert cli.main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_inspect_shows_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "frame"
    file.write_bytes(wire.encode(np.arange(3.0), "nim", 1))
    assert cli.main(["inspect", str(file), "--dialect", "nim"]) == 0
    assert "array_f64" in capsys.readouterr().out
    file.write_bytes(file.read_bytes()[:-1])
    assert cli.main(["inspect", str(file), "--dialect", "nim", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["ok"], shown["error"]["code"]) == (False, "LENGTH")
    assert sum(it["length"] for it in shown["fields"]) == file.stat().st_size
    assert cli.main(["inspect", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
