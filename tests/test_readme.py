"""What the README says can be pasted and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import nif_lab

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_example_runs(
    lab: nif_lab.Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nif_lab, "Lab", lambda: lab)
    example = re.findall(r"```python\n(.*?)```", README, re.S)[0]
    assert "nif_lab.Lab()" in example
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [str(float(sum(i * i for i in range(1000))))] * 3
    assert printed[3].startswith("Lab: ")


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert [it for it in links if not (ROOT / it).exists()] == []
