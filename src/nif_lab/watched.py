"""What a Lab records of calls, and how it is asked for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import engines
from .arguments import expect
from .fleet.channel import Fleet

if TYPE_CHECKING:
    from . import arguments
    from .costs import CellsReport
    from .memory import MemoryManager
    from .telemetry import Event, History, Snapshot, Subscription, Telemetry

__all__ = ["Watched"]


class Watched:
    """The part of a Lab that tells what was called: it needs the Lab's telemetry and its memory."""

    telemetry: Telemetry
    memory: MemoryManager
    _fleet: Fleet | None = None

    def register(self, module: ModuleType) -> ModuleType:
        """Have the functions of any module recorded: ``lab.register(my_module)``.

        Its public functions are replaced, in the module, by ones that record each call; they are listed as
        ``python.my_module.f``. They run in this process, as before: one that crashes ends it.

        Parameters
        ----------
        module : module
            An extension module, one of nimpy for instance, or any other.

        Returns
        -------
        module
            The same.
        """
        expect("module", module, ModuleType, "a module")
        for name in getattr(module, "__all__", None) or dir(module):
            function = getattr(module, name)
            if inspect.isroutine(function) and not name.startswith("_") and not hasattr(function, "__wrapped__"):
                setattr(module, name, self.telemetry.recorded(f"{module.__name__}.{name}", function))
        return module

    def snapshot(self) -> Snapshot:
        """Return all counters, and the figures of the memory, as they are now."""
        return replace(self.telemetry.snapshot(), memory=self.memory.metrics())

    def history(self, last: int = 1000) -> History:
        """Return the last calls: when, what, how long, with what outcome, from which notebook cell."""
        return self.telemetry.history(last)

    def cells_report(self) -> CellsReport:
        """Return what each notebook cell cost: its native calls, their number, time and errors, by function."""
        return self.telemetry.cells_report()

    def subscribe(self, topic: arguments.Topic, callback: Callable[[Event], object]) -> Subscription:
        """Call ``callback`` with each event of ``nif:performance``, ``nif:errors`` or ``nif:memory`` from now on.

        It runs on a thread of its own: a slow or raising one delays no call.
        """
        return self.telemetry.subscribe(topic, callback)

    def processes(self, engine: Any = None) -> Fleet:
        """Return what collects the telemetry of all processes that work for this one: ``lab.processes().look()``.

        Processes below this one are read in place. Those of an engine on other machines send theirs.

        Parameters
        ----------
        engine
            Whose workers are shown too. A ``distributed.Client``: its workers get a Lab like this one. Or the module
            ``ray``, after ``ray.init`` with `nif_lab.engines.ray.setup_hook`.

        Raises
        ------
        ArgumentTypeError
            When the engine has no channel.
        """
        if engine is not None:
            engines.follow(engine, self)  # type: ignore[arg-type] # a Lab
        if self._fleet is None or self._fleet.is_closed:
            self._fleet = Fleet(self.telemetry.segment)
        return self._fleet
