"""What a Lab's panels show while it works: updates (`feed`) and pictures (`renderer`), made outside its process.

docs/messages.md is the protocol.
"""

from __future__ import annotations

from .feed import Feed

__all__ = ["Feed"]
