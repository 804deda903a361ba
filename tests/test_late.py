"""What comes late: writes of a worker's thread after its call, and Ctrl-C behind another library's handler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from lane_client import wait_for
from test_load import struct_hash

from nif_lab import Lab, get_include
from nif_lab.recovery import RecoveryPolicy

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend

LIBRARY = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "nif_lab.h"
#define F(name) static int32_t name(void *env, const nif_any *a, int32_t n, nif_any *r)
static const nif_host *host;
struct late { double *to; int64_t count; char *when; };
static void *write_late(void *given) {
  struct late *it = given;
  while (access(it->when, F_OK)) usleep(1000);
  for (int64_t i = 0; i < it->count; i++) it->to[i] = -1;
  return 0; }
static void start(nif_tensor *x, const char *when) {
  struct late *it = malloc(sizeof *it); pthread_t thread;
  *it = (struct late){x->data, x->shape[0], strdup(when)};
  pthread_create(&thread, 0, write_late, it); }
/* Returns at once; a thread writes into the array as soon as there is a file of that name. */
F(later) { start(a[0].v.p, a[1].v.p); r->type_index = NIF_NONE; return 0; }
/* The same with an array that it returns. */
F(made) {
  nif_tensor *x = host->alloc_tensor((nif_dtype){2, 64, 1}, 1, (int64_t[]){a[0].v.i});
  for (int64_t i = 0; i < x->shape[0]; i++) ((double *)x->data)[i] = 2;
  start(x, a[1].v.p); r->type_index = NIF_TENSOR; r->v.p = x; return 0; }
F(fill) {
  nif_tensor *x = a[0].v.p; for (int64_t i = 0; i < x->shape[0]; i++) ((double *)x->data)[i] = 3;
  r->type_index = NIF_NONE; return 0; }
F(nap) {
  struct timespec t = {(long)a[0].v.f, 0}; while (nanosleep(&t, &t)) {} r->type_index = NIF_NONE; return 0; }
/* Calls f once and then goes on until it is told to stop; f may have made other calls meanwhile. */
F(around) {
  nif_object *f = a[0].v.p; nif_any none = {0}, got = {0}; int32_t status = f->call(f, &none, 0, &got);
  const volatile int32_t *stop = ((struct nif_env *)env)->cancel;
  while (!status && a[1].v.i && !*stop) usleep(1000);
  if (!status) { r->type_index = NIF_NONE; return 0; }
  host->set_error(env, NIF_RAISED, "", -1); return -1; }
static const nif_function all[] = {
  {"around", "around(f: fn()->None, wait: bool) -> None", "", around, 1 | 16, 0},
  {"later", "later(y: mut f64[n], when: str) -> None", "", later, 0, 0},
  {"made", "made(n: i64, when: str) -> f64[n]", "", made, 0, 0},
  {"fill", "fill(y: mut f64[n]) -> None", "", fill, 0, 0},
  {"nap", "nap(s: f64) -> None", "", nap, 1, 0}};
static const nif_library table = {NIF_ABI_VERSION, HASH, "c", "", "1", 5, 0, all, 0, 0};
const nif_library *nif_init(const nif_host *h) { host = h; return &table; }
/* As polars and other users of signal-hook do: with SA_SIGINFO and SA_RESTART, and passed on to the handler before. */
static struct sigaction former;
static void pass_on(int number, siginfo_t *info, void *context) {
  if (former.sa_flags & SA_SIGINFO) former.sa_sigaction(number, info, context); else former.sa_handler(number); }
void take_interrupts(void) {
  struct sigaction ours = {0}; ours.sa_sigaction = pass_on; ours.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGINT, &ours, &former); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late")
    source, out = folder / "late.c", folder / "liblate.so"
    source.write_text(LIBRARY)
    line = ["cc", "-shared", "-fPIC", f"-DHASH={struct_hash()}", f"-I{get_include()}", str(source), "-o", str(out)]
    subprocess.run([*line, "-lpthread"], check=True)
    return out


@pytest.fixture
def late(library: Path) -> LoadedBackend:
    """The library in workers of its own; its Lab lives as long."""
    lab = Lab([], policy=RecoveryPolicy(retries=0, failover=False, crashes=None))
    loaded = lab.load(library, name="late")
    loaded.lab = lab  # type: ignore[attr-defined]
    return loaded


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("what", ["small", "pages", "made", "copied", "file", "beside"])
def test_a_thread_that_writes_after_its_call_reaches_nobody(late: LoadedBackend, tmp_path: Path, what: str) -> None:
    """The memory is somebody else's by then; the worker ends, and the next call has another."""
    lab: Lab = late.lab  # type: ignore[attr-defined]
    (worker, *_), when = late.workers.pids, tmp_path / "now"
    count = 8 if what == "small" else 5000
    kept: list[np.ndarray] = []
    if what == "made":
        assert late.made(count, str(when))[-1] == 2.0
    else:
        y = {
            "copied": lambda: np.zeros(count),
            "file": lambda: np.asarray(lab.memory.map_file(tmp_path / "mapped", size=8 * count, dtype="f8")),
        }.get(what, lambda: lab.memory.zeros(count))()
        late.later(y, str(when))
        if what == "file":
            kept.append(y)
        del y
    others = [lab.memory.zeros(count) for _ in range(8)]
    for it in others:
        it[:] = 1
    if what == "beside":
        late.fill(others[-1])  # another call of this worker meanwhile opens what is its own, and closes it
        others[-1][:] = 1
    when.touch()
    wait_for(lambda: gone(worker))
    assert all(np.all(it == 1) for it in others), "arrays that were never given to this thread"
    assert all(np.all(it == 0) for it in kept), "a file that was given for a call only"
    late.fill(others[0])
    assert np.all(others[0] == 3), "a new worker writes what its call may write"


def test_a_worker_without_threads_writes_in_every_call(late: LoadedBackend) -> None:
    """What is closed is opened again: the same arrays, others, and after a thread was there."""
    lab: Lab = late.lab  # type: ignore[attr-defined]
    for arrays in ([lab.memory.zeros(700)] * 3, [lab.memory.zeros(700 * (1 + i)) for i in range(3)]):
        for y in arrays * 2:
            y[:] = 0
            late.fill(y)
            assert np.all(y == 3)
    (worker, *_) = late.workers.pids
    for _ in range(3):
        late.later(lab.memory.zeros(8), "/no such file")
        late.fill(y)
        y[:] = 0
        late.fill(y)
        assert np.all(y == 3)
    assert not gone(worker)


INTERRUPTED = """
import ctypes, os, signal, sys, threading, time
from nif_lab import Lab
lab = Lab(["rust"]); late = lab.load(sys.argv[1], name="late", lane="isolated"); late.nap(0.0)
here = lab.load(sys.argv[1], name="here", lane="direct")
take = ctypes.CDLL(sys.argv[1]).take_interrupts
if sys.argv[2] == "before": take()
busy = threading.Thread(target=late.nap, args=(2.0,), daemon=True)
long = (2000, 2000, -0.5, 0.5, -0.5, 0.5, 20_000)
for name, call in {
    "direct": lambda: lab.rust.mandelbrot(*long),
    "isolated, its flag": lambda: lab.isolated.rust.mandelbrot(*long),
    "isolated": lambda: late.nap(60.0),
    "a call within a call": lambda: here.around(lambda: lab.rust.mandelbrot(*long), False),
    "a call around a call": lambda: here.around(lambda: lab.rust.mandelbrot(8, 8, -0.5, 0.5, -0.5, 0.5, 9), True),
    "taken within a call": lambda: here.around(lambda: sys.argv[2] == "before" or take() or None, True),
    "direct again": lambda: lab.rust.mandelbrot(*long),
    "a turn": lambda: (busy.start(), time.sleep(0.3), late.nap(60.0)),
    "plain Python": lambda: time.sleep(60.0),
}.items():
    lab.isolated.rust.noop()
    threading.Timer(0.3 if name != "a turn" else 0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    try: call(); print(name, "went on")
    except KeyboardInterrupt: assert time.monotonic() - start < 20, name
busy.join(); assert lab.rust.add(1, 2) == 3; late.nap(0.0)
"""


@pytest.mark.parametrize("when", ["before", "within"])
def test_ctrl_c_behind_a_handler_of_another_library(library: Path, when: str) -> None:
    """In every lane, in calls within calls, and if the library came in the middle of a call."""
    line = [sys.executable, "-c", INTERRUPTED, str(library), when]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
