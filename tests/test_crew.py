"""A backend's workers under what a system and a library do to them: floods, full sockets, short limits, forks, signals.

What could freeze or end the process is run in one of its own: a program below, under a time limit.
"""

from __future__ import annotations

from nif_lab.recovery import RecoveryPolicy

ALONE = RecoveryPolicy(retries=0, failover=False, crashes=None)

#: What every program below begins with.
HEAD = """
import ctypes, gc, os, resource, signal, struct, sys, threading, time
import numpy as np
from nif_lab import Lab, _core
from nif_lab import errors
"""

SOURCE = """
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "nif_lab.h"
#define F(name) static int32_t name(void *env, const nif_any *a, int32_t n, nif_any *r)
F(noop) { r->type_index = NIF_NONE; return 0; }
F(nap) { struct timespec t = {(long)a[0].v.f, (long)(a[0].v.f * 1e9) % 1000000000}; nanosleep(&t, 0); r->type_index = NIF_NONE; return 0; }
F(say) { static char b[4096]; memset(b, 'y', sizeof b); b[4095] = 10; long left = a[0].v.i;
  while (left > 0) { long w = write(2, b, left < 4096 ? left : 4096); if (w <= 0) break; left -= w; } r->type_index = NIF_NONE; return 0; }
F(stray) { unsigned char b[4] = {255, 255, 0, 0}; int fd, t; socklen_t l = sizeof t;
  for (fd = 3; fd < 64; fd++) if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &t, &l) == 0) if (write(fd, b, 4) < 0) break;
  r->type_index = NIF_NONE; return 0; }
F(quit) { _exit(3); }
F(spawn) { pid_t p = fork(); if (p == 0) { close(0); close(1); close(2); for (;;) pause(); } r->type_index = NIF_INT; r->v.i = p; return 0; }
static const nif_function all[] = {
  {"noop", "noop() -> None", "", noop, 0, 0}, {"nap", "nap(s: f64) -> None", "", nap, 1, 0},
  {"say", "say(k: i64) -> None", "", say, 1, 0}, {"stray", "stray() -> None", "", stray, 0, 0},
  {"quit", "quit() -> None", "", quit, 0, 0}, {"spawn", "spawn() -> i64", "", spawn, 0, 0},
};
static const nif_library table = {NIF_ABI_VERSION, NIF_ABI_HASH, "c", "", "1", 6, 0, all, 0, 0};
const nif_library *nif_init(const nif_host *h) { (void)h; return &table; }
"""
