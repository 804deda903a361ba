"""Make a function fail on purpose, and watch what the Lab does about it."""

from __future__ import annotations

import signal
import time
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

import ipywidgets as widgets

from ..arguments import CONTAINED_KINDS, FAULT_MEANINGS
from ..errors import CallTimeout, CircuitOpen, WorkerCrashed
from ..text import format_ns, table_html
from .action import Action
from .base import Panel
from .style import colour, title
from .transfers import chooser, sign, status

if TYPE_CHECKING:
    from ..errors import NifError
    from ..faults import FaultReport
    from ..lab import Lab

__all__ = ["FaultPanel"]

GOOD: Final = ("answered", "closed")
STEP_NAMES: Final = {
    "try": "first try",
    "retry": "tried again",
    "restart": "in a new worker",
    "failover": "another language",
    "circuit": "circuit",
}


class FaultPanel(Panel):
    """Choose a language and a fault; the worker that fails isn't the notebook.

    Parameters
    ----------
    lab
        Whose ``lab.faults`` and ``lab.recovery`` are used.
    """

    def __init__(self, lab: Lab) -> None:
        self._inject, self._backends, self._recovery = lab.faults.inject, lab.backends, lab.recovery
        self.report: FaultReport | None = None
        names = [(title(name), name) for name in lab.backends]
        self.language = chooser("Language", names, names[0][1] if names else None, "Whose function fails")
        kinds = [(f"{kind}: {meaning}", kind) for kind, meaning in FAULT_MEANINGS.items() if kind in lab.faults.kinds]
        self.kind = chooser("Fault", kinds, "null_store", "How it fails")
        often = {"once": 1, "always": 0}  # None would be no choice at all
        self.often = chooser("It fails", often, 1, "Once: a retry answers. Always: only another language can")
        lanes = {"in a worker": "isolated", "in this kernel": "direct"}
        self.lane = chooser("Run it", lanes, "isolated", "Only faults that native code survives run in this kernel")
        self.inject = Action("Make it fail", self._run, show=self._show, fail=self._failed)
        self.close_it = Action(
            "Close the circuit", self._close_circuit, show=lambda _: self._allow(), fail=self._failed
        )
        self.refusal = widgets.HTML()
        self.result = widgets.HTML(status("Choose a fault. The kernel, its variables and all other calls go on."))
        row = widgets.HBox(
            [self.language, self.kind, self.often, self.lane, self.inject],
            layout=widgets.Layout(flex_flow="row wrap", grid_gap="4px 12px"),
        )
        for it in (self.lane, self.kind, self.language):
            it.observe(self._allow, "value")
        note = widgets.HBox(
            [self.refusal, self.close_it], layout=widgets.Layout(flex_flow="row wrap", grid_gap="4px 12px")
        )
        super().__init__("Faults", [row, note, self.result])
        self.refresh()

    def _allow(self, _: object = None) -> None:
        """Offer nothing that would end the notebook, or that can't be had."""
        loaded = self.language.value in self._backends and self._backends[self.language.value].loaded
        ends_it = self.lane.value == "direct" and self.kind.value not in CONTAINED_KINDS
        self.inject.disabled = ends_it or not loaded
        self.refusal.value, self.inject.tooltip = self._say(ends_it)
        is_open = self._recovery.circuit(self.language.value or "") != "closed"
        self.close_it.layout.display = None if is_open and loaded else "none"

    def _say(self, ends_it: bool) -> tuple[str, str]:
        """Return what stands beside the button, and its tooltip."""
        name, kind = self.language.value, self.kind.value
        if name not in self._backends:
            return status("No language is loaded."), "No language is loaded"
        backend = self._backends[name]
        if not backend.loaded:
            reason = f"{backend.title} isn't loaded: {backend.reason}"
            return status(f"{reason}. To fix: {backend.cure}" if backend.cure else reason), reason
        if ends_it:
            return status(f"{kind} would end this kernel. Run it in a worker."), "It would end this kernel"
        return (status(self._circuit(name)), "") if self._recovery.circuit(name) != "closed" else ("", "")

    def _circuit(self, name: str) -> str:
        """Say what an open circuit means, and until when."""
        circuit, policy = self._recovery.circuit_of(name), self._recovery.policy(name, "fault")
        if circuit.state == "half-open":
            return f"⚠ The circuit of {title(name)} is half-open: one call is being tried."
        at = time.strftime("%H:%M:%S", time.localtime(circuit.tries_at))
        return (
            f"⚠ The circuit of {title(name)} is open: {policy.crashes} workers ended within {policy.window:g} s, so "
            f"calls fail at once. From {at} on one call is let through; if it succeeds, the circuit closes."
        )

    def _close_circuit(self) -> None:
        self._recovery.close_circuit(self.language.value)

    def refresh(self) -> None:
        self.attempt(self._allow)

    def _run(self) -> FaultReport:
        self.fade(self.result)
        # A deadline of a second is inject's own.
        return self._inject(self.language.value, self.kind.value, self.lane.value, times=self.often.value or None)

    def _show(self, report: FaultReport) -> None:
        self.report = report
        self.complain(None)
        self.result.value = _summary(report) + _timeline(report)
        self._allow()

    def _failed(self, error: Exception) -> None:
        self.result.value = status("✗ the fault could not be made")
        self.complain(error)
        self._allow()

    def text(self) -> str:
        return f"Faults\n  {self.report!r}" if self.report else "Faults\n  none was made"

    def html(self) -> str:
        if self.report is None:
            return "<p>no fault was made</p>"
        rows = [
            [escape(it.words), format_ns(it.seconds * 1e9) if it.seconds else "–", escape(it.outcome)]
            for it in _lines(self.report)
        ]
        return _summary(self.report) + table_html(["step", "time", "outcome"], rows)


def _summary(report: FaultReport) -> str:
    what = {
        "recovered": f"answered all the same, by {report.answered_by}",
        "contained": f"raised {type(report.error).__name__}; nothing else was touched",
        "lost": "a wrong answer, or something else was touched",
    }[report.outcome]
    text = f"{report.kind} in {report.backend}, {report.lane} lane: {what}, after {format_ns(report.seconds * 1e9)}"
    said = f'<pre style="white-space:pre-wrap;font-size:12px">{escape(str(report.error))}</pre>'
    return status(f"{sign(report.outcome != 'lost')} {text}") + (said if report.error else "")


class _Line(NamedTuple):
    """One step as it is shown."""

    words: str
    backend: str
    seconds: float
    good: bool
    outcome: str


def _lines(report: FaultReport) -> list[_Line]:
    # The first try isn't among the steps that followed it: it took what they left of the whole.
    rest = max(report.seconds - sum(step.seconds for step in report.steps), 0.0)
    answered = report.error is None and report.first is None
    error = report.error if report.first is None else report.first.error
    if isinstance(error, CircuitOpen):
        rest = 0.0  # no call was made
    first = _Line(f"{STEP_NAMES['try']}, {title(report.backend)}", report.backend, rest, answered, _outcome(error))
    others = [
        _Line(
            f"{STEP_NAMES[it.what]}, {title(it.backend)}",
            it.backend,
            it.seconds,
            it.outcome in GOOD,
            _outcome(it.error),
        )
        for it in report.steps
    ]
    return [first, *others]


def _outcome(error: NifError | None) -> str:
    """Say how a step ended: by which signal, code or exception."""
    if error is None:
        return "answered"
    if isinstance(error, CircuitOpen):
        return "not made: the circuit was open"
    if isinstance(error, WorkerCrashed) and error.signal is not None:
        return f"failed: its worker was terminated by {_signal_name(error.signal)}"
    if isinstance(error, WorkerCrashed) and error.exit_code is not None:
        return f"failed: its worker ended with exit code {error.exit_code}"
    if isinstance(error, CallTimeout):
        return "failed: the call took longer than its deadline"
    return f"failed: {type(error).__name__}: {error.reason}"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _timeline(report: FaultReport) -> str:
    """Draw the steps as bars on one time axis, each with its words."""
    whole, at, lines = max(report.seconds, 1e-9), 0.0, ""
    for it in _lines(report):
        bar = _bar(100 * at / whole, 100 * it.seconds / whole, it.backend, it.good)
        after = f", after {format_ns(it.seconds * 1e9)}" if it.seconds else ""
        lines += f"<li>{escape(it.words)}: {sign(it.good)} {escape(it.outcome)}{after}{bar}</li>"
        at += it.seconds
    style = "list-style:none;margin:4px 0;padding:0;display:grid;gap:8px;max-width:640px;line-height:1.4"
    return f'<ol style="{style}">{lines}</ol>'


def _bar(left: float, width: float, backend: str, good: bool) -> str:
    """Return a bar, in percent of the whole; a step that failed is hatched."""
    ink = colour(backend)
    fill = ink if good else f"repeating-linear-gradient(45deg,{ink} 0 4px,transparent 4px 8px)"
    left = min(left, 99.0)
    place = f"left:{left:.2f}%;width:{min(width, 100 - left):.2f}%;min-width:3px;height:100%;background:{fill}"
    track = "position:relative;height:14px;background:var(--jp-layout-color2,#f6f8fa)"
    return f'<div style="{track}" aria-hidden="true"><div style="position:absolute;{place}"></div></div>'
