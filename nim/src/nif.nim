## Write native functions for nif_lab in Nim: `import nif` and put `{.nif.}` on a proc.
##
## Importing this module makes a library a NIF library: it exports `nif_init`, which returns the table of all functions
## with the pragma. Nim's runtime and the table are set up by the loader (the library's constructor runs `NimMain`),
## exactly once and before any symbol can be called; so `__tvm_ffi_<name>` works without `nif_init`.

import nif/[abi, args, callbacks, errors, gpu, results, sugar, views]

export sugar.nif
export abi.NifFlag, abi.NifDtype, abi.Bool, abi.toBool, abi.toElement, abi.Float16, abi.`$`, abi.dtypeOf, abi.elementSize
export errors.ErrorKind, errors.NifError, errors.fail, errors.cancelled, errors.LogLevel, errors.log, errors.progress
export callbacks.Callback, callbacks.call
export gpu
export views except initAnyArray, handle
export results.ByteSeq, results.options

{.push raises: [], gcsafe.}

const nifLibraryVersion {.strdefine.} = "0.1.0"

func layout(): cstring {.nif: {Pure}.} =
  ## `layout()`: the layout of the ABI's structs: name and size, then each field's offset and size, a line each.
  cstring(layoutText)

proc nifInit(host: ptr NifHost): ptr NifLibrary {.exportc: "nif_init", dynlib, cdecl.} =
  ## The library's table. May be called again, by any thread: it writes the same values.
  var library {.global.}: NifLibrary
  keepHost(host)
  let (functions, count) = table()
  library = NifLibrary(abiVersion: abiVersion, structHash: structHash, language: "nim", compiler: "Nim " & NimVersion,
    libraryVersion: nifLibraryVersion, nFunctions: uint32(count), functions: functions)
  addr library
