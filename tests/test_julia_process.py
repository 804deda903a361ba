"""Processes that have Julia in them, in the direct lane: threads beside the user's own juliacall, and the end."""

from __future__ import annotations

import subprocess
import sys

import julia_load
import pytest

from nif_lab import julia_home
from nif_lab.backends import julia as julia_backend

pytestmark = pytest.mark.slow


def test_a_process_whose_julia_was_started_in_a_thread_ends() -> None:
    code = """
import threading, nif_lab
def work():
    lab = nif_lab.Lab(["julia"], lane="direct")
    print(lab.julia.add(1, 2), lab.julia.reason, flush=True)
thread = threading.Thread(target=work)
thread.start(), thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "3.0"), done.stderr


def test_a_process_ends_while_its_threads_call_julia() -> None:
    """Julia stops every thread that comes in once the process ends: one that had the GIL held the process, too."""
    ended = julia_load.exits("direct", 2, 120.0, ("busy", "calling"))
    assert ended["wrong"] == []


def test_a_call_after_julias_end_is_an_error() -> None:
    code = """
import atexit, nif_lab
from nif_lab.errors import NifError
def call():
    try:
        print(lab.julia.add(1, 2))
    except NifError as error:
        print("atexit.register got after the Lab" in str(error))
atexit.register(call)
lab = nif_lab.Lab(["julia"], lane="direct")
atexit.register(call)
lab.julia.add(1, 2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    is_ended = julia_home.find_julia().number >= julia_backend.OLDEST_FOR_JULIACALL
    assert (done.returncode, done.stdout.split()) == (0, ["3.0", "True" if is_ended else "3.0"]), done.stderr


def test_a_collection_waits_for_python_code_that_waits_for_the_gil() -> None:
    """The user's own Julia code runs Python code; a cell in another thread collects garbage meanwhile."""
    code = """
import sys, threading, time, nif_lab
lab = nif_lab.Lab(["julia"], lane="direct")
collecting = lab.cell("julia", "collecting()::Int64 = (GC.gc(); 6)", lane="direct").functions["collecting"]
collecting()
begun = threading.Event()
def python():
    begun.set()
    time.sleep(0.3)
def work():
    begun.wait()
    print(collecting())
thread = threading.Thread(target=work)
thread.start()
if "juliacall" in sys.modules:
    sys.modules["juliacall"].Main.seval("f -> f()")(python)
else:
    python()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "6"), done.stderr
