"""Pickling: a Lab's things in other processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pytest
import tasks
from labs import ANSWER, copied, in_lane, new_lab

from nif_lab import backends, errors, pickling, rebuilt, travel
from nif_lab.lending import LentBuffer
from nif_lab.memory import Pool
from nif_lab.recovery import RecoveryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nif_lab.lab import Lab

pytestmark = pytest.mark.slow
X = np.arange(10.0)


@pytest.fixture(scope="module")
def other() -> Iterator[ProcessPoolExecutor]:
    """Give another process: a fresh one, that knows nothing of this one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def there(other: ProcessPoolExecutor, *task: Any) -> Any:
    return other.submit(*task).result(timeout=120)


def eventually(said: Any, what: Any) -> None:
    end = time.monotonic() + 30
    while said() != what and time.monotonic() < end:
        time.sleep(0.01)
    assert said() == what


def every_error() -> list[type[errors.NifLabError]]:
    found, waiting = [], [errors.NifLabError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += kind.__subclasses__()
    return found


def test_every_exception_arrives_with_all_that_it_says() -> None:
    for kind in every_error():
        error = rebuilt._again(kind, ("the text", 7), {})
        error.__dict__.update(reason="why", signal=11, cure="how", tried=("a step",))
        for pickler in (pickle, cloudpickle):
            again = pickle.loads(pickler.dumps(error))
            assert type(again) is kind
            assert again.args == error.args, kind
            assert again.__dict__ == error.__dict__, kind
            assert str(again) == str(error), kind


@pytest.fixture(scope="module")
def quick() -> Lab:
    """Make a Lab of the languages that start at once."""
    return new_lab(["rust", "zig", "nim"])


def test_what_is_unpickled_in_its_own_process_is_itself(quick: Lab) -> None:
    lab = quick
    for pickler in (pickle, cloudpickle):
        for thing in (lab, lab.memory, lab.telemetry, lab.recovery, lab.ledger, lab.wire, lab.faults, lab.cells,
                      lab.isolated, lab.zig, in_lane(lab, "zig", "isolated")):  # fmt: skip
            assert pickle.loads(pickler.dumps(thing)) is thing
        assert pickle.loads(pickler.dumps(lab.nim.sum)) == lab.nim.sum
    assert copy.deepcopy(lab.nim.sum) == lab.nim.sum
    assert len(pickle.dumps(lab.zig.sum)) < 1000


@pytest.mark.parametrize("language", backends.names())
def test_functions_arrive_in_other_processes(lab: Lab, other: ProcessPoolExecutor, language: str) -> None:
    for lane in ("direct", "isolated") if language != "julia" else ("isolated",):
        function = in_lane(lab, language, lane).sum
        assert there(other, tasks.call, function, X) == X.sum(), lane
        assert there(other, function, X) == X.sum(), lane


def test_cells_arrive_as_they_were_when_they_were_sent(other: ProcessPoolExecutor) -> None:
    lab = new_lab(["zig", "nim"])
    for language in ("zig", "nim"):
        lab.cell(language, ANSWER[language].format("answer", 1), name="a")
        first = getattr(lab, language).answer
        old = pickle.dumps(first)
        assert there(other, tasks.call, first) == 1
        lab.cell(language, ANSWER[language].format("answer", 2), name="a")
        assert pickle.loads(pickle.dumps(first)) is first
        assert there(other, tasks.call, first) == 2
        # Who holds a handle calls what the cell has become; a pickle has what it was.
        assert pickle.loads(old)() == 1
        assert there(other, pickle.loads, pickle.dumps(first))() == 2


def test_a_lab_arrives_with_policy_pools_cells_and_libraries(other: ProcessPoolExecutor, tmp_path: Path) -> None:
    policy = RecoveryPolicy(retries=3, failover=False, timeout=9.0)
    pools = (Pool("only", 1 << 20, 10, 1 << 30),)
    from nif_lab import Lab

    lab = Lab(["zig"], pools=pools, policy=policy)
    lab.strict = True
    lab.cell("zig", ANSWER["zig"].format("seven", 7))
    lab.load(copied(lab, "zig", tmp_path), "mine")
    assert there(other, tasks.described, lab) == (policy, pools, True, ["mine"])
    assert there(other, tasks.attribute, lab, "zig", "seven").startswith("<zig.seven")
    assert there(other, tasks.call, lab.mine.sum, X) == X.sum()
    lab.recovery.set(RecoveryPolicy(retries=0), "zig", "dot")
    assert there(other, tasks.described, lab)[0] == RecoveryPolicy(retries=0)


def test_a_library_that_is_another_one_there_is_refused(other: ProcessPoolExecutor, tmp_path: Path) -> None:
    lab = new_lab(["zig"])
    lab.load(file := copied(lab, "zig", tmp_path), "mine")
    sent = pickle.dumps(lab.mine.sum)
    with file.open("ab") as library:
        library.write(b"\0")
    visitor = pickle.loads(sent)  # at home its hash doesn't matter: it is loaded
    assert visitor(X) == X.sum()
    function = there(other, pickle.loads, sent)  # comes back as it is known here
    assert function(X) == X.sum()
    with pytest.raises(errors.AbiError, match=r"in process \d+ on .*: the mine library isn't the one"):
        there(other, _unpickled_call, sent)


def _unpickled_call(sent: bytes) -> Any:
    return pickle.loads(sent)(X)


def test_a_missing_compiler_is_said_with_the_process(other: ProcessPoolExecutor) -> None:
    lab = new_lab(["rust"])
    lab.cell("rust", ANSWER["rust"].format("answer", 5))
    pid = there(other, tasks.where)
    with pytest.raises(errors.ToolchainMissing, match=rf"in process {pid} on .*: rustc isn't here") as caught:
        there(other, tasks.toolchainless, lab.rust.answer)
    assert caught.value.cure == "install it"


def test_a_buffer_goes_to_processes_of_this_machine_by_handle(other: ProcessPoolExecutor) -> None:
    lab = new_lab(["zig"])
    buffer = lab.memory.from_array(X)
    assert there(other, tasks.write, buffer, 42.0) == "LentBuffer"
    assert buffer[0] == 42.0
    total, copies, pid = there(other, tasks.isolated_sum, lab, buffer)
    assert (total, copies) == (X.sum() + 42.0, 0)
    assert pid != os.getpid()
    assert lab.ledger.totals.share_of_bytes == 1.0
    assert lab.ledger.totals.transfers == 2
    there(other, tasks.where)  # the task before is forgotten there
    eventually(lambda: buffer.owners, {"python": 1})


def test_a_borrower_owns_the_buffer_until_it_dies() -> None:
    lab = new_lab([])
    buffer = lab.memory.from_array(X)
    with pickling.by_handle():
        sent = pickle.dumps(buffer)
    assert pickle.loads(sent) is buffer
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = pickle.loads(sent)
        ok = type(mine) is LentBuffer and mine.array.tolist() == X.tolist() and not mine.released
        view = mine.array
        mine.release()
        os.write(write, b"1" if ok and mine.released and view[3] == 3.0 else b"0")
        time.sleep(60)
        os._exit(0)
    assert os.read(read, 1) == b"1"
    assert buffer.owners == {"python": 1, f"process {pid}": 1}
    buffer.release()
    assert not buffer.released  # a view of it is left there
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    eventually(lambda: buffer.released, True)
    for it in (read, write):
        os.close(it)


def test_a_stale_handle_is_refused(other: ProcessPoolExecutor) -> None:
    lab = new_lab([])
    buffer = lab.memory.from_array(X)
    with pickling.by_handle():
        sent = pickle.dumps(buffer)
    buffer.release()
    lab.memory.from_array(X)  # another generation in the same place, perhaps
    with pytest.raises(errors.BufferReleased):
        there(other, pickle.loads, sent)
    with pytest.raises(errors.BufferReleased):
        pickle.dumps(buffer)


def test_a_buffer_goes_elsewhere_by_value(quick: Lab) -> None:
    lab = quick
    mark = lab.ledger.mark()
    buffer = lab.memory.from_array(X, ["rust", "zig"])
    again = pickle.loads(pickle.dumps(buffer))
    assert again.array.tolist() == X.tolist()
    assert again.owners == {"rust": 1, "zig": 1}
    assert again.handle != buffer.handle
    assert [(it.bytes, it.place) for it in lab.ledger.since(mark)] == [(X.nbytes, "pickle")]


def test_what_cannot_travel_says_what_to_send(quick: Lab, tmp_path: Path) -> None:
    lab = quick
    cases = {
        "a temporary file": lab.memory.map_file(size=8),
        "belongs to its process": lab.zig.library,
        "is gone": new_lab([]).memory,
    }
    for text, thing in cases.items():
        for pickler in (pickle, cloudpickle):
            with pytest.raises(travel.NotPortable, match=f"(?s){text}.*To fix: "):
                pickler.dumps(thing)
    named = lab.memory.map_file(tmp_path / "file", size=16, dtype="f8")
    named.array[:] = 1, 2
    assert pickle.loads(pickle.dumps(named)).array.tolist() == [1, 2]
