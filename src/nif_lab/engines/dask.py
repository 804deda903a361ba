"""The plugin for Dask's workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed import WorkerPlugin

from ..travel import forget, settings_of
from . import initializer

if TYPE_CHECKING:
    from distributed import Worker

    from ..lab import Lab

__all__ = ["Plugin"]


class Plugin(WorkerPlugin):
    """Give each worker process one Lab, with the policies, pools, cells and libraries of the client's.

    Parameters
    ----------
    lab
        The client's. After a change of its cells or policies register another plugin: it takes the place of this one.

    Examples
    --------
    >>> client.register_plugin(nif_lab.engines.dask.Plugin(lab))
    """

    #: There is one of it: a newer one replaces it.
    name = "nif_lab"

    def __init__(self, lab: Lab) -> None:
        self._settings = settings_of(lab)
        self._start = initializer(lab)

    def setup(self, worker: Worker) -> None:
        """Make the Lab when the worker starts."""
        self._start()

    def teardown(self, worker: Worker) -> None:
        """End the Lab and its worker processes when the worker stops."""
        forget(self._settings)
