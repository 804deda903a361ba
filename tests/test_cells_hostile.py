"""Cells that do what no function may: end the process, leave threads behind, use up the stack, fail while they fail."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import pytest
from labs import one_with_workers

from nif_lab import backends
from nif_lab.errors import CellError, NifPanic, WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nif_lab import Lab

pytestmark = pytest.mark.slow

LANGUAGES = backends.names()
HOSTILE = {
    "rust": """
use std::{hint::black_box, process, thread, time::Duration};
pub fn leave() { process::exit(0) }
pub fn behind() { thread::spawn(|| loop { thread::sleep(Duration::from_millis(1)) }); }
pub fn words() { eprint!("last words"); process::abort() }
pub fn deep(n: u64) -> u64 { if n == 0 { 0 } else { 1 + black_box(deep(black_box(n - 1))) } }
pub fn wide() -> u8 { black_box([1u8; 64 << 20])[12345] }
pub fn flood(n: u64) { for _ in 0..n { println!("0123456789") } }
struct Odd;
impl Drop for Odd { fn drop(&mut self) { panic!("in drop") } }
pub fn odd() { let _odd = Odd; }
pub fn fine() -> i64 { 7 }
""",
    "zig": """
pub fn leave() void {
    std.process.exit(0);
}
fn wait() void {
    while (true) std.Thread.yield() catch {};
}
pub fn behind() !void {
    (try std.Thread.spawn(.{}, wait, .{})).detach();
}
pub fn words() void {
    std.debug.print("last words", .{});
    std.process.abort();
}
pub fn deep(n: u64) u64 {
    if (n == 0) return 0;
    var m = n - 1;
    std.mem.doNotOptimizeAway(&m);
    return 1 + deep(m);
}
pub fn wide() u8 {
    var a: [64 << 20]u8 = undefined;
    @memset(&a, 1);
    std.mem.doNotOptimizeAway(&a);
    return a[12345];
}
pub fn flood(n: u64) void {
    for (0..n) |_| std.debug.print("0123456789\\n", .{});
}
pub fn fine() i64 {
    return 7;
}
""",
    "nim": """
proc abort() {.importc, header: "<stdlib.h>".}
proc leave*() = quit(0)
proc words*() =
  stderr.write "last words"
  abort()
proc deep*(n: uint64): uint64 =
  if n == 0: 0'u64 else: 1 + deep(n - 1) + (n and 0)
proc wide*(): uint8 =
  var a {.noinit, volatile.}: array[64 * 1024 * 1024, uint8]
  for i in 0 ..< 64 * 1024: a[i * 1024] = 1
  a[0]
proc flood*(n: int) =
  for _ in 0 ..< n: echo "0123456789"
type Odd = object
  x: int
proc `=destroy`(odd: Odd) = raise newException(Defect, "in destroy")
proc odd*(): int =
  let odd = Odd(x: 1)
  odd.x
proc fine*(): int = 7
""",
    "julia": """
leave()::Nothing = exit(0)
behind()::Nothing = (Threads.@spawn(while true; sleep(0.001); end); nothing)
words()::Nothing = (print(stderr, "last words"); ccall(:abort, Cvoid, ()); nothing)
deep(n::UInt64)::UInt64 = n == 0 ? UInt64(0) : 1 + deep(n - 1)
flood(n::UInt64)::Nothing = for _ in 1:n; println("0123456789"); end
function odd()::Nothing
    finalizer(_ -> error("in a finalizer"), Ref(1))
    GC.gc()
end
fine() = 7
""",
}
#: What never ends while it is compiled, where the compiler itself ends it.
ENDLESS = {
    "rust": (
        "const N: u64 = { let mut n = 0; loop { n += 1; if n == u64::MAX { break n } } };\npub fn f() -> u64 { N }",
        1,
    ),
    "zig": ("comptime {\n    var n: u64 = 0;\n    while (true) n += 1;\n}\npub fn f() void {}", 3),
    "nim": ("static:\n  while true: discard\nproc f*() = discard", 0),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from one_with_workers(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_hostile_cell_costs_its_own_calls_alone(lab: Lab, language: str) -> None:
    f = lab.cell(language, HOSTILE[language], name=f"hostile {language}").functions
    with pytest.raises(WorkerCrashed, match="exit with code 0") as left:
        f["leave"]()
    assert left.value.exit_code == 0
    assert f["fine"]() == 7
    if "behind" in f:
        assert (f["behind"](), f["fine"]()) == (None, 7)
    with pytest.raises(WorkerCrashed, match=r"SIGABRT.*\n  it wrote: last words\n") as said:
        f["words"]()
    assert said.value.detail.startswith("last words")
    if language == "julia":
        with pytest.raises(NifPanic, match="StackOverflowError"):
            f["deep"](10**8)
    else:
        for call in (lambda: f["deep"](10**8), f["wide"]):
            with pytest.raises(WorkerCrashed) as caught:
                call()
            assert caught.value.signal == 11
    if language == "julia":  # the runtime says what a finalizer threw, and goes on
        assert f["odd"]() is None
    elif "odd" in f:
        with pytest.raises(NifPanic, match="in d"):
            f["odd"]()
    assert f["fine"]() == 7


@pytest.mark.parametrize("language", LANGUAGES)
def test_much_output_arrives_whole(lab: Lab, language: str) -> None:
    flood = lab.cell(language, HOSTILE[language], name=f"hostile {language}").functions["flood"]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        flood(20_000)  # more than a pipe and what a Lab holds
    assert (err if language == "zig" else out).getvalue() == "0123456789\n" * 20_000


@pytest.mark.parametrize("language", ENDLESS)
def test_what_is_computed_while_compiling_ends(lab: Lab, language: str) -> None:
    source, line = ENDLESS[language]
    start = time.perf_counter()
    with pytest.raises(CellError) as caught:
        lab.cell(language, source)
    assert line in [it.line for it in caught.value.messages if it.is_error]
    assert time.perf_counter() - start < 120


def test_a_lab_where_no_standard_stream_is_open() -> None:
    """Its memory must not get their numbers: a panic's text would be written into it."""
    code = (
        "import os; os.close(0); os.close(2); import nif_lab; lab = nif_lab.Lab(['rust'], lane='isolated'); "
        "print([os.readlink(f'/proc/self/fd/{it}') for it in (0, 2)], lab.rust.add(1, 2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "['/dev/null', '/dev/null'] 3.0\n"
