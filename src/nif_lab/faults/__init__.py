"""Faults on purpose: one at a time with ``lab.faults.inject``, all of them with ``nif-lab faults``.

injection.py makes one call fail and reports what became of it; campaign.py does that for every kind in every language,
beside calls that don't fail; verdict.py sums the campaign up; command.py is ``nif-lab faults``.
"""

from __future__ import annotations

from .injection import FaultReport, Faults

__all__ = ["FaultReport", "Faults"]
