## What a NIF sees of the caller's memory: views that own nothing, and scratch memory that can run out politely.

import ./abi, ./errors

{.push raises: [], gcsafe.}

# --- matrices ----------------------------------------------------------------------------------------------

type
  Matrix*[T] = object
    ## Rows and columns with any strides, negative ones too. A parameter `var Matrix[T]` may be written.
    data*: ptr UncheckedArray[T] ## element [0, 0]
    rows*, cols*: int
    rowStride*, colStride*: int  ## in elements

  Row*[T] = ptr UncheckedArray[T] ## the elements of a row, side by side

# Templates, so that `{.push rangeChecks: off.}` around a loop counts for the accesses in it.

template `[]`*[T](m: Matrix[T]; row, col: int): T =
  let (i, j) = (row, col)
  rangeCheck i >= 0 and i < m.rows and j >= 0 and j < m.cols
  m.data[i * m.rowStride + j * m.colStride]

template `[]=`*[T](m: var Matrix[T]; row, col: int; value: T) =
  let (i, j) = (row, col)
  rangeCheck i >= 0 and i < m.rows and j >= 0 and j < m.cols
  m.data[i * m.rowStride + j * m.colStride] = value

func toMatrix*[T](data: var openArray[T]; rows, cols: int): Matrix[T] =
  ## See `data` as a row-major matrix.
  doAssert data.len == rows * cols
  let first = if data.len > 0: addr data[0] else: nil
  Matrix[T](data: cast[ptr UncheckedArray[T]](first), rows: rows, cols: cols, rowStride: cols, colStride: 1)

func transposed*[T](m: Matrix[T]): Matrix[T] =
  ## The same memory with rows and columns exchanged.
  Matrix[T](data: m.data, rows: m.cols, cols: m.rows, rowStride: m.colStride, colStride: m.rowStride)

func rowFrom*[T](m: Matrix[T]; row, col: int): Row[T] {.inline.} =
  ## A row from a column on, unchecked; the elements are `m.colStride` apart.
  cast[Row[T]](addr m.data[row * m.rowStride + col * m.colStride])

func isRowwise*[T](m: Matrix[T]): bool =
  ## Whether the elements of a row lie side by side.
  m.colStride == 1 or m.cols <= 1

# A kernel that works on whole rows needs only one loop, for elements side by side: `gather` brings the row of a
# matrix with other strides into that form, `target` and `scatter` bring a result back.

func gather*[T](m: Matrix[T]; row: int; scratch: Row[T]): Row[T] =
  ## The elements of a row side by side: in place where they are so already, else copied into `scratch`.
  result = m.rowFrom(row, 0)
  if not m.isRowwise:
    for col in 0 ..< m.cols:
      scratch[col] = result[col * m.colStride]
    result = scratch

func target*[T](m: var Matrix[T]; row: int; scratch: Row[T]): Row[T] =
  ## Where to write the elements of a row side by side; `scatter` then brings them to their places.
  if m.isRowwise: m.rowFrom(row, 0) else: scratch

func scatter*[T](m: var Matrix[T]; row: int; scratch: Row[T]) =
  ## Copy a row that `target` had written to `scratch`; nothing to do where it was written in place.
  if not m.isRowwise:
    let elements = m.rowFrom(row, 0)
    for col in 0 ..< m.cols:
      elements[col * m.colStride] = scratch[col]

# --- arrays of any kind ------------------------------------------------------------------------------------

type
  Bytes* = object
    ## Borrowed bytes: the parameter type `bytes`.
    data*: ptr UncheckedArray[byte]
    len*: int

  AnyArray* = object
    ## Contiguous memory of any element type and rank: the parameter type `any[...]`.
    data*: ptr UncheckedArray[byte]
    len*: int ## in bytes
    dtype*: NifDtype
    dims: ptr UncheckedArray[int64]
    rank: int

  Tensor* = object
    ## A result that the host's memory holds; row-major.
    handle: ptr NifTensor

func initAnyArray*(data: pointer; len: int; dtype: NifDtype; dims: ptr UncheckedArray[int64]; rank: int): AnyArray =
  AnyArray(data: cast[ptr UncheckedArray[byte]](data), len: len, dtype: dtype, dims: dims, rank: rank)

template bytes*(x: AnyArray | Bytes): openArray[byte] =
  ## The memory itself.
  toOpenArray(x.data, 0, x.len - 1)

template shape*(x: AnyArray): openArray[int64] =
  toOpenArray(x.dims, 0, x.rank - 1)

proc newTensor*(dtype: NifDtype; shape: openArray[int64]): Tensor {.raises: [NifError].} =
  ## A tensor for the running call to return; its elements have any value at first.
  Tensor(handle: allocTensor(dtype, shape))

func data*(x: Tensor): ptr UncheckedArray[byte] =
  cast[ptr UncheckedArray[byte]](cast[uint](x.handle.data) + uint(x.handle.byteOffset))

func handle*(x: Tensor): ptr NifTensor = x.handle

# --- scratch memory ----------------------------------------------------------------------------------------

type Scratch*[T] = object
  ## Uninitialised memory that is freed at the end of its scope. Unlike a `seq` it can be refused: Nim ends the
  ## process when a `seq` finds no memory.
  data: Row[T]

proc `=destroy`*[T](x: Scratch[T]) =
  if x.data != nil:
    dealloc(x.data)

proc `=copy`*[T](target: var Scratch[T]; source: Scratch[T]) {.error.}

func newScratch*[T](count: int): Scratch[T] {.raises: [NifError].} =
  ## Room for `count` elements, or an error of kind `Memory`.
  if count > high(int) div sizeof(T):
    fail(Memory, "out of memory")
  {.cast(noSideEffect).}:
    result = Scratch[T](data: cast[Row[T]](alloc(count * sizeof(T))))
  if result.data == nil and count > 0:
    fail(Memory, "out of memory")

func row*[T](x: Scratch[T]; first = 0): Row[T] {.inline.} =
  ## The memory from element `first` on.
  cast[Row[T]](addr x.data[first])
