"""A worker that answers what it likes: rust/worker/src/channel.rs and message.rs from the other side.

``fake_worker.py SEED PARENT``, started as a worker is. It has a function ``any() -> i64``, and ``some``, which returns
a tuple. With the seed ``shuffled`` it has functions ``f0`` to ``f7``, which return their number, and each process lists
them in another order. With the seed ``another`` each process has other functions.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import random
import signal
import socket
import struct
import sys
import time

REPLY_BELL, REQUEST, HEAD = 64, 320, struct.Struct("<IiiiiIQQQBBHIII")
REPLY = REQUEST + 32 + 16 * 64 + (64 << 10)
ROOM = REPLY + HEAD.size
DONE, ALLOCATE, CALL_BACK = 1, 2, 3
RESULTS = {"some": "(a: f64, b: str, c: i64[_]?)?"}
PR_SET_PDEATHSIG, SYS_FUTEX, FUTEX_WAKE = 1, {"x86_64": 202, "aarch64": 98}, 1


def text(words: str) -> bytes:
    return bytes([len(words)]) + words.encode()


def table(names: list[str]) -> bytes:
    """Return the message that tells what there is to call."""
    rows = [b"".join(map(text, (name, f"{name}() -> {RESULTS.get(name, 'i64')}", ""))) + b"\0" for name in names]
    return b"\0" + b"".join(map(text, ("Fake", "", ""))) + bytes([len(rows)]) + b"".join(rows)


def functions(seed: str) -> list[str]:
    """Return the functions' names in this process's order."""
    if seed == "shuffled":
        names = [f"f{number}" for number in range(8)]
        random.Random(os.getpid()).shuffle(names)
        return names
    return [f"f{os.getpid()}"] if seed == "another" else ["any", "some"]


def reply(rng: random.Random, channel: mmap.mmap) -> None:
    """Write what could be meant, and what couldn't."""
    what, length, ndim = DONE, rng.choice([0, 1, 8, 100, 65536]), rng.randrange(1 << 32)
    channel[ROOM : ROOM + 1000] = rng.randbytes(1000)
    if rng.random() < 0.4:
        what, ndim = ALLOCATE, rng.choice([0, 1, 1, 2, 2, 3, 64, 65, 8192])
        length = 8 * ndim
        shape = [rng.choice([0, 1, 1, 1, 3, 1000, 1 << 31, 1 << 62, -1, -(1 << 63)]) for _ in range(ndim)]
        struct.pack_into(f"<{ndim}q", channel, ROOM, *shape)
    if rng.random() < 0.02:
        what, length = rng.choice([(0, 0), (4, 0), (DONE, 65537), (ALLOCATE, 9), (DONE, (1 << 32) - 1)])
    if rng.random() < 0.02:
        what, length = CALL_BACK, rng.choice([0, 9, 16, 48])
    number = [0, 1, 2, 3, 6, 7, 8, 9, 10, 128, (1 << 31) - 1, -1, -(1 << 31)]
    (results,) = struct.unpack_from("<I", channel, REQUEST + 24)
    if what == DONE and results > 1 and rng.random() < 0.8:
        length = 16 * results
        for i in range(results):
            index = (
                rng.choice([(3, 0), (7, 7, 7, 8), (0, 7)][i]) if rng.random() < 0.9 else rng.choice([1, 2, 9, 70, -1])
            )
            struct.pack_into("<iIQ", channel, ROOM + 16 * i, index, 0, rng.choice([0, 1, 2, (1 << 64) - 1]))
    status, kind, argument = rng.choice([0, 0, rng.choice(number)]), rng.choice(number), rng.choice(number)
    type_index = rng.choice([0, 1, 2, 3, 5, 6, 7, 7, 8, 8, 9, 11, 65, 70, -1])
    value = rng.choice([0, 1, 2, 3, 1 << 63, (1 << 64) - 1])
    dtype = rng.choice([0, 1, 2, 4, 5, 6, 17, 255]), rng.choice([1, 8, 16, 32, 64, 128, 255]), rng.choice([0, 1, 1, 2])
    HEAD.pack_into(channel, REPLY, what, status, kind, argument, type_index, length, value, 0, 0, *dtype, ndim, 0, 0)


def main(seed: str, _parent: str) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    host = socket.socket(fileno=0)
    _, files, _, _ = socket.recv_fds(host, 4, 1)
    names = functions(seed)
    message = table(names)
    host.sendall(struct.pack("<I", len(message)) + message)
    channel = mmap.mmap(files[0], 0)
    asked, answered = (ctypes.c_uint32.from_buffer(channel, at) for at in (0, REPLY_BELL))
    rng, seen = random.Random(seed), 0
    wake = SYS_FUTEX[platform.machine()]
    while True:
        while asked.value == seen:
            time.sleep(0)
        seen = asked.value
        if seed in {"shuffled", "another"}:
            (place,) = struct.unpack_from("<I", channel, REQUEST + 8)
            HEAD.pack_into(channel, REPLY, DONE, 0, 0, 0, 1, 0, int(names[place][1:]), 0, 0, 0, 0, 0, 0, 0, 0)
        elif seed == "greedy":
            HEAD.pack_into(channel, REPLY, ALLOCATE, 0, 0, 0, 0, 0, 0, 0, 0, 2, 64, 1, 0, 0, 0)
        else:
            reply(rng, channel)
        answered.value += 1
        libc.syscall(wake, ctypes.byref(answered), FUTEX_WAKE, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
