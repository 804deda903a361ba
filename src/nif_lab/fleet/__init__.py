"""Telemetry of many processes as one: read in place on this machine, sent by an engine's channel from others.

docs/scale.md says what is sent and what it costs. Nothing is imported here: the collector has as few modules as it can.
"""

from __future__ import annotations

__all__ = ()
