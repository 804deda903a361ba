"""One folder and one file add a language: with them C takes part in the whole conformance suite, tests/conformance."""

from __future__ import annotations

from fifth_language import language

import nif_lab.backends
from nif_lab import Lab


def test_c_is_a_language_as_the_others_are() -> None:
    language.build()
    with language.a_language():
        assert nif_lab.backends.names()[-1] == "c"
        lab = Lab(["zig", "c"])
    assert lab.c.add(1, 2) == lab.isolated.c.add(1, 2) == 3.0
    on_devices = {it for it in lab.zig.functions if it.startswith("gpu_")}
    assert set(lab.c.functions) == set(lab.zig.functions) - on_devices
    assert "c" not in nif_lab.backends.names(), "a language of this test alone"
