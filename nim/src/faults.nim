## Deliberate failures: those that Nim reports, and those that end a process.

import std/[posix, volatile]
import nif

{.push raises: [NifError], gcsafe.}

func errorValue*(message: string) {.nif: {Fault}.} =
  ## `error_value(message)`: fails with this message, as any function would.
  fail(Value, message)

func panic*(message: string) {.nif: {Fault}.} =
  ## `panic(message)`: raises a defect with this message.
  raise newException(Defect, message)

func outOfBounds*(index: int64): int64 {.nif: {Fault}.} =
  ## `out_of_bounds(index)`: element `index` of [0, 1, ..., 7].
  const elements = [0'i64, 1, 2, 3, 4, 5, 6, 7]
  elements[index]

func overflow*(x: int64): int64 {.nif: {Fault}.} =
  ## `overflow(x)`: x + 1, checked.
  x + 1

func divide*(x, y: int64): int64 {.nif: {Fault}.} =
  ## `divide(x, y)`: the truncated quotient, checked.
  x div y

type Kind {.pure.} = enum
  ## What `fault` knows.
  ErrorValue = "error_value"
  Panic = "panic"
  OutOfBounds = "out_of_bounds"
  Overflow = "overflow"
  Divide = "divide"
  NullStore = "null_store"
  WildWrite = "wild_write"
  StackOverflow = "stack_overflow"
  DoubleFree = "double_free"
  HeapOverflow = "heap_overflow"
  Abort = "abort"
  Exit0 = "exit_0"
  Exit7 = "exit_7"
  InfiniteLoop = "infinite_loop"
  Stop = "stop"
  HugeAllocation = "huge_allocation"
  GpuIllegal = "gpu_illegal"
  GpuEndless = "gpu_endless"

const word = 0x6d696e ## what the fuse calls this language: "nim"

# The heap's own words come from libc, whose checks are meant.
proc malloc(size: csize_t): pointer {.importc, header: "<stdlib.h>".}
proc free(memory: pointer) {.importc, header: "<stdlib.h>".}
proc usableSize(memory: pointer): csize_t {.importc: "malloc_usable_size", header: "<malloc.h>".}
proc abort() {.importc, header: "<stdlib.h>", noreturn.}
proc raiseSignal(signal: cint): cint {.importc: "raise", header: "<signal.h>".}

func kindOf(name: string): Kind =
  ## Unlike `parseEnum` it takes every letter seriously.
  for kind in Kind:
    if $kind == name:
      return kind
  fail(Value, "kind", "no such kind of fault")

proc nullStore() =
  var nowhere: ptr byte
  volatileStore(volatileLoad(addr nowhere), 1)

proc wildWrite(x: pointer; offset: int64) =
  ## Write 64 numbers from element `offset` of `x` on, whatever lies there.
  let first = cast[uint64](x) + cast[uint64](offset) * 8
  for i in 0'u64 ..< 64:
    volatileStore(cast[ptr float64](first + 8 * i), NaN)
  fail(General, "the wild write went through")

proc descend(depth: uint): uint =
  ## Call itself without end; what is read after the call keeps its frame on the stack.
  var frame = depth
  volatileStore(addr frame, depth)
  descend(depth + 1) + volatileLoad(addr frame)

proc doubleFree() =
  var memory = malloc(24)
  free(memory)
  free(volatileLoad(addr memory))

proc heapOverflow() =
  ## Write over the end of a block, over the size in the header of the next one, and free that.
  let memory = cast[uint](malloc(24))
  let next = memory + uint(usableSize(cast[pointer](memory))) + uint(sizeof(csize_t))
  for address in memory ..< next:
    volatileStore(cast[ptr byte](address), 0xff)
  free(cast[pointer](next))

proc hugeAllocation(size: int64) =
  var memory = newSeq[byte](size)
  volatileStore(addr memory[0], 1)
  fail(General, "the memory was given")

proc burn(kind: Kind; number: int64; x: pointer) =
  case kind
  of ErrorValue: fail(General, "on purpose")
  of Kind.Panic: panic("on purpose")
  of OutOfBounds: discard outOfBounds(8)
  of Overflow: discard overflow(high(int64))
  of Divide: discard divide(1, 0)
  of NullStore: nullStore()
  of WildWrite: wildWrite(x, number)
  of StackOverflow: discard descend(0)
  of DoubleFree: doubleFree()
  of HeapOverflow: heapOverflow()
  of Abort: abort()
  of Exit0: quit(0)
  of Exit7: quit(7)
  of InfiniteLoop:
    while true:
      cpuRelax()
  of Stop: discard raiseSignal(SIGSTOP)
  of HugeAllocation: hugeAllocation(number)
  of GpuIllegal, GpuEndless: # one block of one thread; which kernel it is, the number says
    launch(cast[uint64](number), [1'u32, 1, 1, 1, 1, 1, 0], [], nil, 0)

proc fault*(kind: string; fuse: var openArray[int64]; x: openArray[float64]): float64 {.nif: {Fault, Idempotent}.} =
  ## `fault(kind, fuse[k], x[n])`: the sum of x, unless the fuse burns: then it fails as `kind` says.
  let known = kindOf(kind)
  if fuse.len != 3:
    fail(Value, "fuse", "expected i64[k] with k = 3, got i64[" & $fuse.len & "]")
  if fuse[0] > 0 and fuse[1] == word:
    # Volatile, so that it is in memory before the process may be gone.
    volatileStore(addr fuse[0], fuse[0] - 1)
    burn(known, fuse[2], (if x.len > 0: unsafeAddr x[0] else: nil))
  for value in x:
    result += value
