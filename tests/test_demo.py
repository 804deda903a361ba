"""The demo: real data through four languages, and a report that needs nothing beside itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import reference
from test_lab import Broken

from nif_lab import Lab, cli, demo, demo_report
from nif_lab.errors import ToolchainMissing
from nif_lab.lab import LoadedBackend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(lab: Lab) -> demo.Outcome:
    return demo.study(lab)


def test_the_elevation_is_the_real_one() -> None:
    elevation = demo.load_elevation()
    assert elevation.z.shape == (344, 403)
    assert elevation.z.dtype == np.float64
    assert (elevation.z.min(), elevation.z.max()) == (236, 1076)
    assert 60 < elevation.dx < elevation.dy < 100


def test_every_language_paints_what_numpy_would(lab: Lab, found: demo.Outcome) -> None:
    elevation = found.elevation
    smooth = reference.smooth(elevation.z, demo.PASSES)
    expected = reference.hillshade(smooth, elevation.dx, elevation.dy, demo.AZIMUTH, demo.ALTITUDE)
    assert set(found.shades) == set(lab.backends)
    for shade in found.shades.values():
        np.testing.assert_allclose(shade, expected, rtol=0, atol=demo.TOLERANCE)
    assert found.max_difference <= demo.TOLERANCE


def test_json_is_one_object_and_the_report_has_the_pictures(
    lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    assert cli.main(["demo", "--json", "--report", str(report)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["equal"] is True
    assert len(result["transfers"]) == 12
    assert all(it["verified"] and not it["copied"] for it in result["transfers"])
    assert list(result["hillshade"]) == list(result["smooth"]) == list(lab.backends)
    page = report.read_text()
    images = re.findall(r'<img [^>]*src="([^"]+)"', page)
    pictures = 3 + 4 + 3  # heights, their scale, the relief; a hillshade each; differences from the first
    assert len(images) == pictures + 2 * 4  # and each of four drawings for a light and a dark page
    assert all(it.startswith("data:image/png;base64,") for it in images)
    assert page.count("alt=") == len(images)
    assert not re.search(r"https?://|<script", page)


def test_text_says_what_was_found(lab: Lab) -> None:
    text = demo.format_text(demo.run(lab))
    assert "the pictures are equal" in text
    assert text.count("no copy, verified") == 12
    for name in lab.backends:
        assert len(re.findall(rf"^  {name} .* runs\)$", text, re.M)) == 2


def test_a_missing_language_is_named_and_stops_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = LoadedBackend(Broken(ToolchainMissing("no compiler", "install it"))).load()
    monkeypatch.setattr(lab, "backends", {**lab.backends, "broken": broken})
    found = demo.study(lab)
    assert set(found.shades) == set(lab.backends) - {"broken"}
    page = demo_report.html(found)
    assert "Broken</b> is not loaded: not built: no compiler. To fix: install it" in page


def test_without_any_language_there_is_still_a_report() -> None:
    found = demo.study(Lab([]))
    assert (found.shades, len(found.transfers), found.max_difference) == ({}, 0, 0.0)
    assert "written in no language" in demo_report.html(found)


def test_a_picture_with_a_nan_is_not_equal(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN compares false with everything: it must not pass for a small difference."""
    hillshade = lab.zig.hillshade

    def wrong(*args: object) -> object:
        shade = hillshade(*args)
        shade[7, 7] = np.nan
        return shade

    monkeypatch.setattr(lab.zig, "hillshade", wrong)
    result = demo.run(lab)
    assert result["equal"] is False
    assert "the pictures are NOT EQUAL" in demo.format_text(result)
