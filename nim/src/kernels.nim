## The kernels that every backend has; docs/kernels.md says what each means.

import std/math
import nif, simd, xxh3

{.push raises: [NifError], gcsafe.}

# The shapes were checked before a kernel runs and every index below follows from them, so the inner loops go without
# Nim's bounds and overflow checks: with them the C compiler can't vectorise.
{.push boundChecks: off, rangeChecks: off, overflowChecks: off.}

const lanes = 16 ## partial sums that don't wait for each other, four by four

# --- scalars and vectors -----------------------------------------------------------------------------------

func noop*() {.nif: {Pure}.} =
  ## `noop()`: does nothing.
  discard

func add*(x, y: float64): float64 {.nif: {Pure}.} =
  ## `add(x, y)`: the sum of two numbers.
  x + y

func dot*(x, y: openArray[float64]): float64 {.nif: {Pure}, wide.} =
  ## `dot(x[n], y[n])`: inner product of two vectors.
  let whole = x.len - x.len mod lanes
  var sums: array[4, Quad]
  for i in countup(0, whole - 1, lanes):
    for part in 0 ..< 4:
      addProducts(sums[part], addr x[i + 4 * part], addr y[i + 4 * part])
  for i in whole ..< x.len:
    result += x[i] * y[i]
  result += total(sums)

func axpy*(a: float64; x: openArray[float64]; y: var openArray[float64]) {.nif.} =
  ## `axpy(a, x[n], y[n])`: y = a x + y, in place.
  for i in 0 ..< x.len:
    y[i] = a * x[i] + y[i]

func sum*(x: openArray[float64]): float64 {.nif: {Pure}, wide.} =
  ## `sum(x[n])`: the sum of all elements.
  let whole = x.len - x.len mod lanes
  var sums: array[4, Quad]
  for i in countup(0, whole - 1, lanes):
    for part in 0 ..< 4:
      addTerms(sums[part], addr x[i + 4 * part])
  for i in whole ..< x.len:
    result += x[i]
  result += total(sums)

func checksum*(x: AnyArray): uint64 {.nif: {Pure}.} =
  ## `checksum(x[...])`: XXH3-64 (seed 0) of the bytes in memory order.
  xxh3(x.bytes)

# --- matrix product ----------------------------------------------------------------------------------------

const
  tileRows = 4      ## of the product, kept in registers …
  tileCols = 4      ## … while a tile's sums are made
  panelDepth = 256  ## terms of those sums made at a time: a strip of b of this depth stays in the first cache
  panelRows = 128   ## rows of a packed at a time: they stay in the second cache
  panelCols = 2048

type Tile = array[tileRows, F64x4]

func packed(m: Matrix[float64]; firstRow, firstCol, rows, cols, width: int; into: Row[float64]) =
  ## Copy a part of `m` in strips of `width` columns, row after row, the last strip filled up with zeros.
  var at = 0
  for col in countup(0, cols - 1, width):
    let used = min(width, cols - col)
    for row in 0 ..< rows:
      let source = m.rowFrom(firstRow + row, firstCol + col)
      for i in 0 ..< used:
        into[at + i] = source[i * m.colStride]
      for i in used ..< width:
        into[at + i] = 0
      at += width

func multiplyStrips(a, b: Row[float64]; depth: int): Tile =
  ## The products of a strip of a (transposed) and a strip of b.
  var sums: Tile # a local variable, which stays in registers: nothing else can point to it
  for k in 0 ..< depth:
    let terms = load(addr b[k * tileCols])
    for row in 0 ..< tileRows:
      sums[row] = sums[row] + terms * a[k * tileRows + row]
  sums

func matmul*(a, b: Matrix[float64]; `out`: var Matrix[float64]) {.nif: {Long, Idempotent}.} =
  ## `matmul(a[m,k], b[k,n], out[m,n])`: the matrix product of a and b.
  # Parts of a and b are packed into strips first: so any strides cost the same, and the innermost loop reads memory in
  # order.
  for row in 0 ..< a.rows:
    for col in 0 ..< b.cols:
      `out`[row, col] = 0
  let aRows = a.transposed
  let aPanel = newScratch[float64](panelRows * panelDepth)
  let bPanel = newScratch[float64](panelDepth * panelCols)
  for n in countup(0, b.cols - 1, panelCols):
    let cols = min(panelCols, b.cols - n)
    for k in countup(0, a.cols - 1, panelDepth):
      let depth = min(panelDepth, a.cols - k)
      packed(b, k, n, depth, cols, tileCols, bPanel.row)
      for m in countup(0, a.rows - 1, panelRows):
        let rows = min(panelRows, a.rows - m)
        packed(aRows, k, m, depth, rows, tileRows, aPanel.row)
        for col in countup(0, cols - 1, tileCols):
          for row in countup(0, rows - 1, tileRows):
            let tile = multiplyStrips(aPanel.row(row * depth), bPanel.row(col * depth), depth)
            for i in 0 ..< min(tileRows, rows - row):
              let sums = tile[i].toArray
              for j in 0 ..< min(tileCols, cols - col):
                `out`[m + row + i, n + col + j] = `out`[m + row + i, n + col + j] + sums[j]

func transpose*(a: Matrix[float64]; `out`: var Matrix[float64]) {.nif: {Idempotent}.} =
  ## `transpose(a[m,n], out[n,m])`: out[j,i] = a[i,j].
  # Square by square, through a copy of the square: so memory is read and written in whole lines of the cache, whatever
  # the distance between rows.
  const side = 32
  var square: array[side, array[side + 1, float64]] # the odd row length spreads a column over the cache
  for top in countup(0, a.rows - 1, side):
    let height = min(side, a.rows - top)
    for left in countup(0, a.cols - 1, side):
      let width = min(side, a.cols - left)
      for row in 0 ..< height:
        let source = a.rowFrom(top + row, left)
        for col in 0 ..< width:
          square[row][col] = source[col * a.colStride]
      for col in 0 ..< width:
        let target = `out`.rowFrom(left + col, top)
        for row in 0 ..< height:
          target[row * `out`.colStride] = square[row][col]

# --- height fields -----------------------------------------------------------------------------------------

func notNegative(x: float64): float64 =
  ## 0 instead of what is less; NaN stays NaN.
  if x < 0: 0.0 else: x

type Sun = tuple[east, north, up: float64] ## the direction of the light

func brightness[T: float64 | F64x4](east, north: T; sun: Sun): T {.inline.} =
  ## Of ground that rises by so much towards the east and the north.
  notNegative((east * -sun.east + north * -sun.north + sun.up) / sqrt(east * east + north * north + 1.0))

func hillshade*(z: Matrix[float64]; dx, dy, azimuth, altitude: float64; `out`: var Matrix[float64])
    {.nif: {Idempotent}.} =
  ## `hillshade(z[m,n], dx, dy, azimuth, altitude, out[m,n])`: brightness of a height field lit from azimuth and
  ## altitude (in degrees, clockwise from north and above the horizon); row 0 is north, dx and dy are the spacing.
  if not (dx > 0):
    fail(Value, "dx", "expected a positive number")
  if not (dy > 0):
    fail(Value, "dy", "expected a positive number")
  let
    (rows, cols) = (z.rows, z.cols)
    (az, alt) = (degToRad(azimuth), degToRad(altitude))
    sun: Sun = (sin(az) * cos(alt), cos(az) * cos(alt), sin(alt))
    scratch = newScratch[float64](5 * cols)
    level = scratch.row(4 * cols)
  for col in 0 ..< cols:
    level[col] = 0
  for row in 0 ..< (if cols == 0: 0 else: rows):
    let
      here = z.gather(row, scratch.row)
      # A single row has no slope towards the north, whatever it holds.
      above = if rows == 1: level else: z.gather(max(row - 1, 0), scratch.row(cols))
      below = if rows == 1: level else: z.gather(min(row + 1, rows - 1), scratch.row(2 * cols))
      shaded = `out`.target(row, scratch.row(3 * cols))
      share = if row == 0 or row == rows - 1: 1.0 else: 0.5 # slopes are one-sided at the edges

    template shade(col: int; rise: float64) =
      shaded[col] = brightness(rise, (above[col] - below[col]) * share / dy, sun)

    if cols == 1:
      shade(0, 0.0)
    else:
      var col = 1
      while col + 4 < cols:
        let rise = (load(addr here[col + 1]) - load(addr here[col - 1])) * 0.5 / dx
        let climb = (load(addr above[col]) - load(addr below[col])) * share / dy
        store(addr shaded[col], brightness(rise, climb, sun))
        col += 4
      for col in col ..< cols - 1:
        shade(col, (here[col + 1] - here[col - 1]) * 0.5 / dx)
      shade(0, (here[1] - here[0]) / dx)
      shade(cols - 1, (here[cols - 1] - here[cols - 2]) / dx)
    `out`.scatter(row, shaded)

func smoothRow(source, target: Row[float64]; cols: int) =
  ## (1 2 1) along a row, edges repeated.
  if cols == 1:
    target[0] = 4 * source[0]
    return
  target[0] = 3 * source[0] + source[1]
  for col in 1 ..< cols - 1:
    target[col] = source[col - 1] + 2 * source[col] + source[col + 1]
  target[cols - 1] = source[cols - 2] + 3 * source[cols - 1]

func smoothOnce(source: Matrix[float64]; target: var Matrix[float64]; scratch: Row[float64]) =
  ## One pass. `target` may be `source`: a row is overwritten only after the next one was read.
  let (rows, cols) = (source.rows, source.cols)
  let gathered = cast[Row[float64]](addr scratch[3 * cols])
  template filtered(row: int): Row[float64] =
    cast[Row[float64]](addr scratch[(row mod 3) * cols]) # the last three rows, filtered along the row
  smoothRow(source.gather(0, gathered), filtered(0), cols)
  for row in 0 ..< rows:
    if row + 1 < rows:
      smoothRow(source.gather(row + 1, gathered), filtered(row + 1), cols)
    let
      above = filtered(max(row - 1, 0))
      here = filtered(row)
      below = filtered(min(row + 1, rows - 1))
      smoothed = target.target(row, gathered)
    for col in 0 ..< cols:
      smoothed[col] = (above[col] + 2 * here[col] + below[col]) / 16
    target.scatter(row, smoothed)

func smooth*(z: Matrix[float64]; passes: int64; `out`: var Matrix[float64]) {.nif: {Long, Idempotent}.} =
  ## `smooth(z[m,n], passes, out[m,n])`: the 3 x 3 binomial filter, so many times; edges are repeated.
  if passes < 0:
    fail(Value, "passes", "expected 0 or more, got " & $passes)
  if z.rows == 0 or z.cols == 0:
    return
  if passes == 0:
    for row in 0 ..< z.rows:
      for col in 0 ..< z.cols:
        `out`[row, col] = z[row, col]
    return
  let scratch = newScratch[float64](4 * z.cols)
  smoothOnce(z, `out`, scratch.row)
  for _ in 1 ..< passes:
    smoothOnce(`out`, `out`, scratch.row)

# --- counting ----------------------------------------------------------------------------------------------

func isFinite(x: float64): bool =
  x - x == 0

func histogram*(x: openArray[float64]; bins: int64; low, high: float64; `out`: var openArray[int64])
    {.nif: {Idempotent}.} =
  ## `histogram(x[n], bins, low, high, out[bins])`: how many elements lie in each of so many equal cells of [low, high].
  if bins < 1:
    fail(Value, "bins", "expected 1 or more, got " & $bins)
  if not isFinite(low):
    fail(Value, "low", "expected a finite number")
  let scale = float64(bins) / (high - low)
  if not (scale > 0 and isFinite(scale)):
    fail(Value, "high", "expected a finite number above low")
  for count in `out`.mitems:
    count = 0
  for value in x:
    if value >= low and value <= high: # NaN is neither
      let cell = (value - low) * scale
      # The scale is infinite where the cells are narrower than numbers can be; then the cell may be NaN.
      let i = if cell < float64(bins): int64(cell) else: bins - 1
      inc `out`[i]

func softmax(values: var openArray[float64]) =
  ## Shifted by the largest value, so that no exponential overflows.
  var largest = -Inf
  for v in values:
    largest = max(largest, v)
  var all = 0.0
  for v in values.mitems:
    v = exp(v - largest)
    all += v
  for v in values.mitems:
    v /= all

func forward*(weights: Matrix[float64]; bias, x: openArray[float64]; activation: int64; `out`: var openArray[float64])
    {.nif: {Idempotent}.} =
  ## `forward(weights[m,n], bias[m], x[n], activation, out[m])`: one layer of a network, f(weights x + bias).
  ##
  ## activation: 0 identity, 1 relu, 2 tanh, 3 sigmoid, 4 softmax over the layer.
  if activation notin 0'i64 .. 4'i64:
    fail(Value, "activation", "expected 0 to 4, got " & $activation)
  for row in 0 ..< weights.rows:
    var total = bias[row]
    for col in 0 ..< weights.cols:
      total += weights[row, col] * x[col]
    `out`[row] = total
  case activation
  of 1:
    for v in `out`.mitems:
      if v <= 0: v = 0
  of 2:
    for v in `out`.mitems: v = tanh(v)
  of 3:
    for v in `out`.mitems: v = 1 / (1 + exp(-v))
  of 4: softmax(`out`)
  else: discard

func escapeTimes(cr, ci: F64x4; iterations: int64): I64x4 =
  ## For four points: how many steps before |z| > 2.
  var zr, zi: F64x4
  var inside = zr > -1.0 # all of them: -1
  for n in 0 ..< iterations:
    inside = inside.andNot(zr * zr + zi * zi > 4.0)
    # Asking every time would take as long as the steps; those of points outside don't count anyway.
    if n mod 8 == 0 and inside.isZero:
      break
    result = result - inside
    let next = zr * zr - zi * zi + cr
    zi = zr * 2.0 * zi + ci
    zr = next

proc mandelbrot*(width, height: int64; xMin, xMax, yMin, yMax: float64; iterations: int64; `out`: var Matrix[int32])
    {.nif: {Long, Idempotent, PollsCancel}.} =
  ## `mandelbrot(width, height, x_min, x_max, y_min, y_max, iterations, out[height,width])`: iterations before |z| > 2
  ## at the centre of each pixel; row 0 is y_max.
  if iterations < 0 or iterations > high(int32):
    fail(Value, "iterations", "expected 0 to 2147483647, got " & $iterations)
  for row in 0 ..< int(height):
    if cancelled():
      fail(Cancelled, "cancelled")
    let ci = yMax - (yMax - yMin) * (float64(row) + 0.5) / float64(height)
    for left in countup(0, int(width) - 1, 4):
      var cr: array[4, float64]
      for i in 0 ..< 4:
        cr[i] = xMin + (xMax - xMin) * (float64(left + i) + 0.5) / float64(width)
      let times = escapeTimes(load(addr cr[0]), splat(ci), iterations).toArray
      for i in 0 ..< min(4, int(width) - left):
        `out`[row, left + i] = int32(times[i])
