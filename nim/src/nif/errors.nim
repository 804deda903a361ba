## How a NIF fails, and what it can ask of the call it serves.

import std/volatile
import ./abi

{.push raises: [], gcsafe.}

type
  ErrorKind* = enum
    ## What went wrong; the Lab has one exception for each.
    Type = 1      ## an argument of the wrong type, or the wrong number of arguments
    Value = 2     ## an argument of the right type with a value the function refuses
    General = 3   ## anything else that a function says about itself
    Panic = 4     ## an exception or defect that nobody expected
    Memory = 5    ## no memory
    Cancelled = 6 ## the call noticed that it should stop
    Index = 11    ## an index is out of bounds
    Raised = 12   ## a callback failed; its host knows why
    Gpu = 13      ## the driver of a GPU refused, or a kernel failed

  NifError* = object of CatchableError
    ## Raised by `fail`; becomes the exception of its kind on the caller's side.
    kind*: ErrorKind
    argument*: string ## the argument at fault, by name; empty for none

func fail*(kind: ErrorKind; argument, message: string) {.noreturn, raises: [NifError].} =
  ## End the call: `argument` is at fault.
  ##
  ## .. code-block:: nim
  ##   fail(Value, "bins", "expected 1 or more, got " & $bins)
  raise (ref NifError)(kind: kind, argument: argument, msg: message)

func fail*(kind: ErrorKind; message: string) {.noreturn, raises: [NifError].} =
  ## End the call; no argument in particular is at fault.
  fail(kind, "", message)

# --- the running call --------------------------------------------------------------------------------------

var
  running {.threadvar.}: ptr NifEnv
    ## The environment of this thread's innermost call that may ask for it: one with the flag `PollsCancel`, or with a
    ## result in memory or of several values. nil for a TVM-FFI client's and outside of calls.
  keptHost: ptr NifHost

proc enterCall*(env: ptr NifEnv): ptr NifEnv =
  ## Make `env` the running call's; returns the one to restore with `leaveCall`.
  result = running
  running = env

proc leaveCall*(outer: ptr NifEnv) =
  running = outer

proc keepHost*(host: ptr NifHost) =
  ## Remember who opened the library; a null host changes nothing.
  if host != nil:
    atomicStoreN(addr keptHost, host, ATOMIC_RELEASE)

proc cancelled*(): bool =
  ## Whether the running call should stop. A function that asks has the flag `PollsCancel`.
  running != nil and running.cancel != nil and volatileLoad(running.cancel) != 0

proc roomForResults*(): int =
  ## How many values the running call's host has room for.
  if running == nil: 1 else: max(1, int(running.nResults))

proc allocTensor*(dtype: NifDtype; shape: openArray[int64]): ptr NifTensor {.raises: [NifError].} =
  ## A block from the host's memory, its elements of any value, to be the result of the running call.
  if running == nil or running.host == nil:
    fail(Memory, "needs a host to allocate")
  let first = if shape.len > 0: unsafeAddr shape[0] else: nil
  result = running.host.allocTensor(dtype, int32(shape.len), first)
  if result == nil:
    fail(Memory, "out of memory")

type LogLevel* = enum
  ## Python's numbers.
  Debug = 10, Info = 20, Warning = 30, Error = 40

proc log*(level: LogLevel; message: string) =
  ## Tell the host, if there is one; never fails.
  let host = atomicLoadN(addr keptHost, ATOMIC_ACQUIRE)
  if host != nil and host.log != nil:
    host.log(int32(ord(level)), cstring(message))

func clamped[T: SomeInteger](value: T): int64 {.inline.} =
  when T is SomeUnsignedInt and sizeof(T) == 8: int64(min(value, T(high(int64))))
  else: int64(value)

proc progress*[A, B: SomeInteger](done: A; total: B) {.inline.} =
  ## How far the running call is: `done` of `total` steps. It costs a few nanoseconds; a function with the flag `Long` may
  ## call it in every turn of a loop, on the thread of the call.
  let host = atomicLoadN(addr keptHost, ATOMIC_ACQUIRE)
  if host != nil:
    host.progress(clamped(done), clamped(total))

proc gpuServices*(): ptr NifGpu =
  ## What the host offers for GPUs; nil where there is no host or it has nothing for them.
  let host = atomicLoadN(addr keptHost, ATOMIC_ACQUIRE)
  if host == nil: nil else: host.gpu

# --- telling the caller ------------------------------------------------------------------------------------

type TvmSetError = proc (kind, message: cstring) {.cdecl, raises: [], gcsafe.}

proc dlsym(handle: pointer; symbol: cstring): pointer {.importc, header: "<dlfcn.h>".}

proc tvmSetError(): TvmSetError =
  ## TVM-FFI's own setter where this process has it, else nil. `nil` as handle is RTLD_DEFAULT.
  var found {.global.}: pointer
  result = cast[TvmSetError](atomicLoadN(addr found, ATOMIC_ACQUIRE))
  if result == nil: # TVM-FFI may be loaded later than this library, so a miss isn't kept
    result = cast[TvmSetError](dlsym(nil, "TVMFFIErrorSetRaisedFromCStr"))
    atomicStoreN(addr found, cast[pointer](result), ATOMIC_RELEASE)

proc report*(env: ptr NifEnv; function: string; kind: ErrorKind; message, argument: string; index: int) =
  ## Record why the call fails, with the host or else with TVM-FFI.
  if env != nil:
    if env.host != nil:
      env.host.setError(env, int32(ord(kind)), cstring(message), int32(index))
    return
  if kind == Raised:
    return # whoever raised it has told
  let setError = tvmSetError()
  if setError != nil:
    let name = case kind
      of Type: cstring"TypeError"
      of Value: cstring"ValueError"
      of Index: cstring"IndexError"
      else: cstring"RuntimeError"
    let place = if argument.len > 0: function & "(): argument '" & argument & "': " else: function & "(): "
    setError(name, cstring(place & message))
