"""For ``nif-lab bench scale``: what the telemetry of many processes costs whoever watches it.

64 real processes are watched in place. 1,000 are simulated: each makes the messages that a worker on another machine
would send, and one collector takes all of them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from statistics import median
from typing import Any, Final

from ..fleet.channel import Fleet
from ..fleet.collector import Collection
from ..fleet.tally import Counters, Origin, State, report
from ..programs import python
from ..segment import BUCKETS
from ..telemetry import Telemetry

__all__ = ["in_place", "simulated", "watch"]

#: Updates a second, and seconds of watching; before that the processes are found.
RATE, SECONDS, BEFORE = 8.0, 10.0, 5.0
#: What each process does: functions, and how often a second it records a call of each.
FUNCTIONS, HZ = 8, 10
#: Rounds of a second each in the simulation.
ROUNDS: Final = 10
CHILD: Final = "import sys; from nif_lab.bench import fleet; fleet.watch(int(sys.argv[1]))"


def in_place(processes: int) -> dict[str, Any] | str:
    """Watch real processes, in a process that has imported little; or say why that can't be done."""
    command = python("-c", CHILD, str(processes))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"its process ended with status {done.returncode}: {done.stderr[-500:]}"
    return dict(json.loads(done.stdout))


def watch(processes: int) -> None:
    """Fork processes that record calls, watch them as a dashboard's page does, and print what that took."""
    telemetry = Telemetry()
    telemetry.recorder("parent")(1e-6)
    children = [_fork(telemetry, number) for number in range(processes)]
    try:
        fleet = Fleet(telemetry.segment, RATE)
        send, taken = _sender(), []

        def take(update: bytes) -> None:
            send(update)
            taken.append(len(update))

        fleet.listen(take)
        time.sleep(BEFORE)
        found = fleet.look()
        before, start = sum(fleet.spent), time.monotonic()
        taken.clear()
        time.sleep(SECONDS)
        seconds = time.monotonic() - start
        spent, updates = sum(fleet.spent) - before, list(taken)
        collector = _processor_time(fleet._process.pid)
        time.sleep(1.0)
        share = _processor_time(fleet._process.pid) - collector
        fleet.close()
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    result = {
        "processes": len(found["processes"]) - 1,
        "calls": sum(it["calls"] for it in found["processes"]),
        "updates_per_s": len(updates) / seconds,
        "bytes_per_s": sum(updates) / seconds,
        "kernel_percent": 100 * spent / seconds,
        "collector_percent": 100 * share,
    }
    print(json.dumps(result))


def _fork(telemetry: Telemetry, number: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        chance = random.Random(number)  # noqa: S311
        records = [telemetry.recorder(f"step_{it}") for it in range(FUNCTIONS)]
        time.sleep(chance.random() / HZ)
        while os.getppid() != 1:
            for record in records:
                record(chance.lognormvariate(-9, 1))
            time.sleep(1 / HZ)
    finally:
        os._exit(0)


def _sender() -> Any:
    """Return what sends an update as ipykernel sends it to a page: serialised, signed, written to a socket."""
    import zmq
    from jupyter_client.session import Session

    session, context = Session(key=os.urandom(32)), zmq.Context()
    out, other = context.socket(zmq.PUB), context.socket(zmq.SUB)
    port = out.bind_to_random_port("tcp://127.0.0.1")
    other.connect(f"tcp://127.0.0.1:{port}")
    other.subscribe(b"")

    def send(update: bytes) -> None:
        content = {"comm_id": "0" * 32, "data": {"method": "custom", "content": {}}}
        session.send(out, "comm_msg", content, ident=b"comm", buffers=[update])

    send.keep = other  # type: ignore[attr-defined]
    return send


def _processor_time(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def simulated(processes: int, seed: int) -> dict[str, Any]:
    """Let simulated processes report for some seconds, each once a second.

    Returns
    -------
    dict
        ``bytes_per_s`` of all messages, the longest message ``bytes_most``, ``collector_percent`` of a processor for
        taking them and making an update, ``update_bytes``, and whether the sum is ``right``.
    """
    chance = random.Random(seed)  # noqa: S311
    members = [(Origin(f"host {it // 32}", f"node{it // 32}", it, 1), State(), State()) for it in range(processes)]
    fleet = Collection(0)
    volumes, longest, spent, sizes = [], 0, [], []
    for number in range(1, ROUNDS + 1):
        messages = []
        for origin, now, sent in members:
            for it in range(FUNCTIONS):
                _call(now.functions.setdefault(("zig", f"kernel_{it}", "isolated"), Counters()), chance)
            messages.append(report(origin, now, sent, number, title=f"worker {origin.pid}"))
        start = time.process_time()
        for message in messages:
            fleet.hear(message)
        fleet.look()
        text = json.dumps(fleet.update())
        spent.append(time.process_time() - start)
        volumes.append(sum(map(len, messages)))
        longest = max(longest, *map(len, messages))
        sizes.append(len(text))
    quiet = [report(origin, now, sent, ROUNDS + extra) for extra in (1, 2) for origin, now, sent in members]
    for message in quiet:
        fleet.hear(message)
    update = fleet.update(whole=True)
    assert update is not None, "all of it"
    calls = sum(counters.calls for _, now, _ in members for counters in now.functions.values())
    return {
        "processes": processes,
        "bytes_per_s": median(volumes),
        "bytes_most": longest,
        "collector_percent": 100 * median(spent),
        "update_bytes": median(sizes),
        "right": sum(row[3] for row in update["total"]) == calls,
    }


def _call(it: Counters, chance: random.Random) -> None:
    """Count some calls, a tenth of a second's worth."""
    for _ in range(HZ):
        ns = int(chance.lognormvariate(12, 1))
        it.calls, it.timed, it.total_ns = it.calls + 1, it.timed + 1, it.total_ns + ns
        it.min_ns, it.max_ns = min(it.min_ns, ns), max(it.max_ns, ns)
        bucket = min(8 * (ns.bit_length() - 3) + (ns >> max(ns.bit_length() - 4, 0)) - 8, BUCKETS - 1)
        it.histogram[bucket] = it.histogram.get(bucket, 0) + 1
