"""Make a function fail on purpose, and watch what the Lab does about it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

import ipywidgets as widgets

from ..arguments import CONTAINED_KINDS, FAULT_KINDS
from ..text import format_ns, table_html
from .action import Action
from .base import Panel
from .style import colour, title
from .transfers import chooser, sign, status

if TYPE_CHECKING:
    from ..faults import FaultReport
    from ..lab import Lab
    from ..recovery import Step

__all__ = ["FaultPanel"]

#: What each kind does, in the words of docs/faults.md.
MEANINGS: Final = {
    "error_value": "an ordinary error",
    "panic": "a panic, defect or exception",
    "out_of_bounds": "element 8 of eight",
    "overflow": "2^63 - 1 and 1",
    "divide": "1 by 0, in integers",
    "null_store": "a write through a null pointer",
    "wild_write": "NaN into somebody else's array",
    "stack_overflow": "recursion without end",
    "double_free": "one block of memory freed twice",
    "heap_overflow": "a block overrun into the header of the next",
    "abort": "abort()",
    "exit_0": "the process ends as if all were well",
    "exit_7": "the process ends with code 7",
    "infinite_loop": "a loop without end; the deadline is 1 s",
    "stop": "the process stops itself; the deadline is 1 s",
    "huge_allocation": "64 TiB of memory",
    "garbage_reply": "the worker answers nonsense",
}
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
        self._inject, self._backends = lab.faults.inject, lab.backends
        self.report: FaultReport | None = None
        names = [(title(name), name) for name in lab.backends]
        self.language = chooser("Language", names, names[0][1] if names else None, "Whose function fails")
        kinds = [(f"{kind}: {MEANINGS[kind]}", kind) for kind in FAULT_KINDS]
        self.kind = chooser("Fault", kinds, "null_store", "How it fails")
        often = {"once": 1, "always": 0}  # None would be no choice at all
        self.often = chooser("It fails", often, 1, "Once: a retry answers. Always: only another language can")
        lanes = {"in a worker": "isolated", "in this kernel": "direct"}
        self.lane = chooser("Run it", lanes, "isolated", "Only faults that native code survives run in this kernel")
        self.inject = Action("Make it fail", self._run, show=self._show, fail=self._failed)
        self.refusal = widgets.HTML()
        self.result = widgets.HTML(status("Choose a fault. The kernel, its variables and all other calls go on."))
        row = widgets.HBox(
            [self.language, self.kind, self.often, self.lane, self.inject],
            layout=widgets.Layout(flex_flow="row wrap", grid_gap="4px 12px"),
        )
        self.lane.observe(self._allow, "value")
        self.kind.observe(self._allow, "value")
        super().__init__("Faults", [row, self.refusal, self.result])
        self.refresh()

    def _allow(self, _: object = None) -> None:
        """Offer nothing that would end the notebook, or that can't be had."""
        loaded = self.language.value in self._backends and self._backends[self.language.value].loaded
        ends_it = self.lane.value == "direct" and self.kind.value not in CONTAINED_KINDS
        self.inject.disabled = ends_it or not loaded
        self.inject.tooltip = (
            "It would end this kernel: run it in a worker" if ends_it else "" if loaded else "It isn't loaded"
        )
        self.refusal.value = status(f"{self.kind.value} would end this kernel. Run it in a worker.") if ends_it else ""

    def refresh(self) -> None:
        self.attempt(self._allow)

    def _run(self) -> FaultReport:
        # A deadline of a second is inject's own.
        return self._inject(self.language.value, self.kind.value, self.lane.value, times=self.often.value or None)

    def _show(self, report: FaultReport) -> None:
        self.report = report
        self.complain(None)
        self.result.value = _summary(report) + _timeline(report)

    def _failed(self, error: Exception) -> None:
        self.result.value = status("✗ the fault could not be made")
        self.complain(error)

    def text(self) -> str:
        return f"Faults\n  {self.report!r}" if self.report else "Faults\n  none was made"

    def html(self) -> str:
        if self.report is None:
            return "<p>no fault was made</p>"
        rows = [[escape(_words(step)), format_ns(step.seconds * 1e9), step.outcome] for step in self.report.steps]
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


def _words(step: Step) -> str:
    return f"{STEP_NAMES[step.what]}, {title(step.backend)}"


def _timeline(report: FaultReport) -> str:
    """Draw the steps as bars on one time axis, each with its words."""
    # The first try isn't among the steps that followed it: it took what they left of the whole.
    rest = max(report.seconds - sum(step.seconds for step in report.steps), 0.0)
    ended = "answered" if report.error is None and not report.steps else "failed"
    rows = [(f"{STEP_NAMES['try']}, {title(report.backend)}", report.backend, rest, ended)]
    rows += [(_words(it), it.backend, it.seconds, it.outcome) for it in report.steps]
    whole, at, lines = max(report.seconds, 1e-9), 0.0, ""
    for words, backend, seconds, outcome in rows:
        bar = _bar(100 * at / whole, 100 * seconds / whole, backend, outcome)
        took = format_ns(seconds * 1e9)
        after = f"{outcome} after {took}" if seconds else outcome
        lines += f"<li>{escape(words)}: {sign(outcome in GOOD)} {after}{bar}</li>"
        at += seconds
    style = "list-style:none;margin:4px 0;padding:0;display:grid;gap:8px;max-width:640px;line-height:1.4"
    return f'<ol style="{style}">{lines}</ol>'


def _bar(left: float, width: float, backend: str, outcome: str) -> str:
    """Return a bar, in percent of the whole; a step that failed is hatched."""
    ink = colour(backend)
    fill = ink if outcome in GOOD else f"repeating-linear-gradient(45deg,{ink} 0 4px,transparent 4px 8px)"
    left = min(left, 99.0)
    place = f"left:{left:.2f}%;width:{min(width, 100 - left):.2f}%;min-width:3px;height:100%;background:{fill}"
    track = "position:relative;height:14px;background:var(--jp-layout-color2,#f6f8fa)"
    return f'<div style="{track}" aria-hidden="true"><div style="position:absolute;{place}"></div></div>'
