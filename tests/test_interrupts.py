"""Ctrl-C in a direct call that can't be ended: a line says so while the call runs, in a terminal and in a notebook."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_load import struct_hash

from nif_lab import get_include

#: They poll no cancel flag, and wait for a file of that name. `waits` keeps the GIL, `long_waits` releases it.
LIBRARY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
#include "nif_lab.h"
#define F(name) static int32_t name(void *env, const nif_any *a, int32_t n, nif_any *r)
static const nif_host *host;
static void wait_for(const char *name) {
  char begun[4096]; snprintf(begun, sizeof begun, "%s.begun", name);
  close(open(begun, O_CREAT | O_WRONLY, 0600));
  while (access(name, F_OK)) usleep(1000); }
F(waits) { wait_for(a[0].v.p); r->type_index = NIF_NONE; return 0; }
F(asks) {
  nif_object *f = a[1].v.p; nif_any none = {0}, got = {0};
  wait_for(a[0].v.p);
  if (f->call(f, &none, 0, &got)) { host->set_error(env, NIF_RAISED, "", -1); return -1; }
  r->type_index = NIF_NONE; return 0; }
F(raises) { raise(SIGINT); r->type_index = NIF_FLOAT; r->v.f = a[0].v.f + 1; return 0; }
static const nif_function all[] = {
  {"waits", "waits(name: str) -> None", "", waits, 0, 0},
  {"long_waits", "long_waits(name: str) -> None", "", waits, 1, 0},
  {"asks", "asks(name: str, f: fn()->None) -> None", "", asks, 0, 0},
  {"raises", "raises(x: f64) -> f64", "", raises, 0, 0}};
static const nif_library table = {NIF_ABI_VERSION, HASH, "c", "", "1", 4, 0, all, 0, 0};
const nif_library *nif_init(const nif_host *h) { host = h; return &table; }
"""
LONG = 60.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    source, out = folder / "waiting.c", folder / "libwaiting.so"
    source.write_text(LIBRARY)
    line = ["cc", "-shared", "-fPIC", f"-DHASH={struct_hash()}", f"-I{get_include()}", str(source), "-o", str(out)]
    subprocess.run(line, check=True)
    return out


def wait_for(file: Path) -> None:
    """Wait until a call has begun: it says so by a file, since a kernel prints nothing while the call keeps the GIL."""
    end = time.monotonic() + LONG
    while not file.exists():
        assert time.monotonic() < end, "the call didn't begin"
        time.sleep(0.02)


PROGRAM = """
import sys
from nif_lab import Lab
here = Lab([]).load(sys.argv[1], name="here", lane="direct")
called = []
arguments = (sys.argv[3], lambda: called.append("called")) if sys.argv[2] == "asks" else (sys.argv[3],)
try: getattr(here, sys.argv[2])(*arguments); print("went on")
except KeyboardInterrupt: print("interrupted", *called)
"""


@pytest.mark.parametrize("function", ["waits", "long_waits", "asks"])
def test_a_program_is_told_while_the_call_runs(library: Path, function: str, tmp_path: Path) -> None:
    end, told = tmp_path / "end", tmp_path / "told"
    line = [sys.executable, "-c", PROGRAM, str(library), function, str(end)]
    with told.open("wb") as errors, subprocess.Popen(line, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        try:
            wait_for(tmp_path / "end.begun")
            process.send_signal(signal.SIGINT)
            until = time.monotonic() + LONG
            while "To end it now" not in told.read_text() and time.monotonic() < until:
                time.sleep(0.02)  # nothing ends the call meanwhile
        finally:
            end.touch()
        out, _ = process.communicate(timeout=LONG)
    said = told.read_text().splitlines()
    assert len(said) == 4, f"said once: {said}"
    assert said[1].startswith(f"nif_lab: here.{function} can't be interrupted"), said
    assert said[2].startswith("To fix: "), said
    assert out == "interrupted\n", "Python's exception follows"
    assert process.returncode == 0


def test_a_call_that_ends_soon_is_not_told_of(library: Path) -> None:
    """And its GIL comes back each time, beside a thread that wants it."""
    program = """
import sys, threading, time
from nif_lab import Lab
here = Lab([]).load(sys.argv[1], name="here", lane="direct")
is_over = threading.Event()
def busy():
    while not is_over.is_set(): sum(range(100))
thread = threading.Thread(target=busy); thread.start()
seen = 0
for i in range(300):
    try:
        here.raises(float(i))
        time.sleep(0)
    except KeyboardInterrupt: seen += 1
is_over.set(); thread.join(); time.sleep(0.6)
print(seen)
"""
    line = [sys.executable, "-c", program, str(library)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.stdout, done.stderr) == ("300\n", "")


def test_a_notebook_is_told_while_the_call_runs(library: Path, tmp_path: Path) -> None:
    from jupyter_client.manager import KernelManager

    end = tmp_path / "end"
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=dict(os.environ))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(LONG)
        client.execute(
            f"from nif_lab import Lab\nhere = Lab([]).load({str(library)!r}, name='here', lane='direct')\n"
            f"here.waits({str(end)!r})"
        )

        def listen(kind: str, part: str, seconds: float = LONG) -> str:
            until, seen = time.monotonic() + seconds, []
            while (left := until - time.monotonic()) > 0:
                try:
                    message = client.get_iopub_msg(timeout=left)
                except queue.Empty:
                    break
                content = "".join(str(it) for it in message["content"].values())
                seen.append((message["msg_type"], content))
                if message["msg_type"] == kind and part in content:
                    return content
            raise AssertionError(f"no {kind} with {part!r} among {seen}")

        wait_for(tmp_path / "end.begun")
        manager.interrupt_kernel()
        said = listen("stream", "can't be interrupted")
        assert said.startswith("stderr")
        assert "here.waits" in said
        assert "To fix: call it in a worker process" in said
        end.touch()
        listen("error", "KeyboardInterrupt")
    finally:
        end.touch()
        client.stop_channels()
        manager.shutdown_kernel(now=True)
