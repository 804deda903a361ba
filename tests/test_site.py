"""The site: every page is reached, every link inside it works, and no page asks another host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: What a browser loads by itself, as against what a reader follows.
LOADED = re.compile(r"""(?:<(?:script|img|iframe)\b[^>]*\bsrc|<link\b[^>]*\bhref)\s*=\s*["']?(https?://[^"'\s>]+)""")


@pytest.mark.slow
def test_the_site_has_no_dead_link_and_asks_no_other_host(tmp_path: Path) -> None:
    command = [*(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"), *("-c", ROOT / "site")]
    # The notebooks have their own tests; here they keep the outputs that they have.
    env = {**os.environ, "NIF_LAB_DOCS_RUN": "off"}
    made = subprocess.run([*command, ROOT, tmp_path], env=env, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "install.html", "cells.html", "00_tour.html"} <= {it.name for it in pages}
    asked = {page.name: found for page in pages if (found := LOADED.findall(page.read_text()))}
    assert not asked
