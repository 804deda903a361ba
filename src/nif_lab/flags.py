"""What a function says of itself by its flags: ``enum nif_flag`` of nif_lab.h."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["Flag"]


class Flag(IntFlag):
    """The flags of a native function; ``Nif.flags`` holds their sum."""

    #: It may take long: it is called without the GIL.
    LONG = 1
    #: It may be called twice.
    IDEMPOTENT = 2
    #: It has no effect but its result. Such a function is IDEMPOTENT too.
    PURE = 4
    #: It is called on the thread that opened the library.
    THREAD_BOUND = 8
    #: It ends soon after its cancel flag is raised.
    POLLS_CANCEL = 16
    #: It fails on purpose: it stays out of listings, and frames can't call it.
    FAULT = 32
