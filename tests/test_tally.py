"""Reports of processes: whatever the order in which they come, twice or late, what is known is the same."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labs import new_seed

from nif_lab.fleet.tally import (
    BUDGET,
    NAME_SENT,
    NEVER,
    Counters,
    Key,
    Malformed,
    Origin,
    State,
    join,
    percentile_ns,
    report,
    summed,
    understood,
)
from nif_lab.segment import BOUNDS, BUCKETS

HERE = Origin("aaaaaaaaaaaa", "here", 7, 12345)
numbers = st.integers(0, 2**63 - 1)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=NAME_SENT)
counters = st.builds(
    Counters, *[numbers] * 5, st.just(NEVER) | numbers, numbers,
    st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, 2**40), max_size=30),
)  # fmt: skip
functions = st.dictionaries(st.tuples(words, words, st.sampled_from(["direct", "isolated"])), counters, max_size=6)
failures = st.dictionaries(st.integers(1, 10**6), st.tuples(st.floats(0, 2e9), words, words, words), max_size=8)
states = st.builds(State, functions, failures, st.tuples(numbers, numbers))


def joined(*reports: State) -> State:
    known = State()
    for it in reports:
        join(known, copy.deepcopy(it))
    return known


@settings(max_examples=20, deadline=None)
@given(st.lists(states, max_size=4), st.randoms())
def test_the_order_of_reports_makes_no_difference_and_neither_does_one_that_comes_twice(
    reports: list[State], chance: random.Random
) -> None:
    # An error of a number is one error: what two reports say of it is the same.
    texts = {number: it for report in reports for number, it in report.errors.items()}
    for it in reports:
        it.errors = {number: texts[number] for number in it.errors}
    known = joined(*reports)
    mixed = reports + reports
    chance.shuffle(mixed)
    assert joined(*mixed) == known
    half = len(reports) // 2
    assert joined(joined(*reports[:half]), joined(*reports[half:])) == known


@settings(max_examples=20, deadline=None)
@given(st.lists(functions, max_size=4))
def test_a_sum_is_the_sum_of_its_parts(parts: list[dict[Key, Counters]]) -> None:
    half = len(parts) // 2
    assert summed([summed(parts[:half]), summed(parts[half:])]) == summed(parts) == summed(reversed(parts))
    for name in ("calls", "errors", "recovered", "timed", "total_ns"):
        total = sum(getattr(it, name) for it in summed(parts).values())
        assert total == sum(getattr(it, name) for part in parts for it in part.values())


def grown(state: State, random_: random.Random) -> None:
    """Let some calls happen."""
    for it in state.functions.values():
        if random_.random() < 0.5:
            ns = random_.randrange(1, 10**9)
            it.calls, it.timed, it.total_ns = it.calls + 3, it.timed + 1, it.total_ns + ns
            it.min_ns, it.max_ns = min(it.min_ns, ns), max(it.max_ns, ns)
            bucket = random_.randrange(BUCKETS)
            it.histogram[bucket] = it.histogram.get(bucket, 0) + 1


@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_messages_are_short_and_the_last_numbers_arrive_whatever_was_lost(lost: float) -> None:
    seed = new_seed()
    print(f"seed {seed}")
    random_ = random.Random(seed)
    now, sent, known = State(), State(), State()
    for i in range(25):
        now.functions["zig", f"function_{i}" + "é" * (i % 30), "direct"] = Counters()
    for number in range(1, 200):
        if number < 40:
            grown(now, random_)
        if number % 10 == 0 and number < 40:
            now.errors[number] = (1.5 * number, "zig", "f", "WorkerCrashed: " + "é" * 100)
        message = report(HERE, now, sent, number, title="worker")
        assert len(message) <= BUDGET
        if random_.random() >= lost:
            said = understood(message)
            assert said.origin == HERE
            join(known, said.state)
    assert known.functions == now.functions
    if not lost:
        assert known.errors == now.errors  # their texts fit


@settings(max_examples=20, deadline=None)
@given(states)
def test_every_message_gets_something_across(state: State) -> None:
    sent = State()
    for number in range(1, 200):
        assert len(report(HERE, state, sent, number)) <= BUDGET
        if sent.functions == state.functions:
            return
    pytest.fail("it never ends")


def test_what_is_no_report_is_refused() -> None:
    seed = new_seed()
    print(f"seed {seed}")
    random_ = random.Random(seed)
    state = State({("zig", "sum", "direct"): Counters(3, 1, 0, 2, 70, 30, 40, {33: 2})}, {5: (1.0, "zig", "sum", "no")})
    good = report(HERE, state, State(), 1)
    for wrong in (b"", b"{}", b"[" * 100_000, b"\xff", b"null", good[:-3]):
        with pytest.raises(Malformed):
            understood(wrong)
    said = json.loads(good)
    for name, value in [("origin", [1, 2]), ("functions", [["zig", "sum", "direct", -1]]), ("errors", [[1, "x"]]),
                        ("functions", [["a", "b", "c", *[0] * 7, [BUCKETS, 1]]]), ("memory", [0, 1e300]),
                        ("title", "x" * 65), ("functions", [["a", "b", "c", *[True] * 7, []]])]:  # fmt: skip
        with pytest.raises(Malformed):
            understood(json.dumps({**said, name: value}).encode())
    for _ in range(300):  # a bit that is wrong makes another report, or none: nothing else
        broken = bytearray(good)
        broken[random_.randrange(len(broken))] ^= 1 << random_.randrange(8)
        try:
            understood(bytes(broken))
        except Malformed:
            continue


def test_percentiles_of_a_sum_are_those_of_all_its_calls() -> None:
    seed = new_seed()
    print(f"seed {seed}")
    times = np.random.default_rng(seed).lognormal(9, 2, 20_000)
    buckets = np.searchsorted(BOUNDS, times, "right") - 1
    parts = [dict(zip(*(it.tolist() for it in np.unique(some, return_counts=True)), strict=True))
             for some in np.array_split(buckets, 5)]  # fmt: skip
    total = summed({("", "", ""): Counters(histogram=it)} for it in parts)["", "", ""]
    for share in (0.5, 0.99):
        assert percentile_ns(total.histogram, share) == pytest.approx(np.quantile(times, share), rel=0.07)
