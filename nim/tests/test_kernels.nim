## The kernels are plain procs: called here as any Nim program would.

import std/[math, random, unittest]
import kernels, nif

proc noise(n: int): seq[float64] =
  for _ in 0 ..< n:
    result.add rand(-1.0 .. 1.0)

template refused(wanted: ErrorKind; name: string; call: untyped) =
  try:
    call
    check false
  except NifError as e:
    check (e.kind, e.argument) == (wanted, name)

suite "kernels":
  randomize(7)

  test "vectors of every length":
    for n in 0 .. 40:
      let (x, y) = (noise(n), noise(n))
      var (inner, total) = (0.0, 0.0)
      var moved = y
      for i in 0 ..< n:
        inner += x[i] * y[i]
        total += x[i]
      check abs(dot(x, y) - inner) < 1e-13
      check abs(sum(x) - total) < 1e-13
      axpy(3.0, x, moved)
      for i in 0 ..< n:
        check moved[i] == 3.0 * x[i] + y[i]

  test "matmul and transpose, through any strides":
    for (m, k, n) in [(0, 3, 2), (1, 1, 1), (3, 0, 2), (5, 7, 6), (131, 259, 9)]:
      var (left, right, product, turned) = (noise(m * k), noise(k * n), newSeq[float64](m * n), newSeq[float64](m * n))
      let (a, b) = (left.toMatrix(m, k), right.toMatrix(k, n))
      var (c, t) = (product.toMatrix(m, n), turned.toMatrix(n, m))
      matmul(a, b, c)
      for i in 0 ..< m:
        for j in 0 ..< n:
          var term = 0.0
          for p in 0 ..< k:
            term += a[i, p] * b[p, j]
          check abs(c[i, j] - term) < 1e-12
      transpose(c, t)
      for i in 0 ..< m:
        for j in 0 ..< n:
          check t[j, i] == c[i, j]
      var turnedBack = newSeq[float64](m * n)
      var again = turnedBack.toMatrix(n, m).transposed
      transpose(t, again)
      check m * n == 0 or again[m - 1, n - 1] == c[m - 1, n - 1]

  test "hillshade of level ground is the sine of the altitude":
    var (ground, image) = (newSeq[float64](35), newSeq[float64](35))
    var shaded = image.toMatrix(5, 7)
    hillshade(ground.toMatrix(5, 7), 1.0, 1.0, 315.0, 30.0, shaded)
    for value in image:
      check almostEqual(value, 0.5)
    refused(Value, "dx"): hillshade(ground.toMatrix(5, 7), NaN, 1.0, 0.0, 0.0, shaded)
    refused(Value, "dy"): hillshade(ground.toMatrix(5, 7), 1.0, 0.0, 0.0, 0.0, shaded)

  test "smooth spreads a point, and by columns as by rows":
    var (point, image) = (newSeq[float64](25), newSeq[float64](25))
    point[12] = 16
    var smoothed = image.toMatrix(5, 5)
    smooth(point.toMatrix(5, 5), 1, smoothed)
    check image == @[0.0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 2, 4, 2, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0]
    var other = newSeq[float64](25)
    var byColumns = other.toMatrix(5, 5).transposed
    smooth(point.toMatrix(5, 5).transposed, 1, byColumns)
    check other == image
    refused(Value, "passes"): smooth(point.toMatrix(5, 5), -1, smoothed)

  test "histogram":
    var counts = newSeq[int64](4)
    histogram([0.0, 0.9, 1.0, 2.5, 4.0, 4.1, -0.1, NaN, Inf], 4, 0.0, 4.0, counts)
    check counts == @[2'i64, 1, 1, 1]
    refused(Value, "bins"): histogram([0.0], 0, 0.0, 1.0, counts)
    refused(Value, "low"): histogram([0.0], 4, NegInf, 1.0, counts)
    refused(Value, "high"): histogram([0.0], 4, 1.0, 1.0, counts)

  test "mandelbrot":
    var times = newSeq[int32](35)
    var image = times.toMatrix(5, 7)
    mandelbrot(7, 5, -2.0, 1.0, -1.0, 1.0, 50, image)
    check image[2, 4] == 50 # within the set
    check image[0, 0] == 2 # c is in the circle, c² + c isn't
    for col in 0 ..< 7:
      check image[0, col] == image[4, col] # it is symmetric
    refused(Value, "iterations"): mandelbrot(7, 5, -2.0, 1.0, -1.0, 1.0, -1, image)

  test "a matrix checks its indexes":
    var numbers = noise(6)
    var m = numbers.toMatrix(2, 3)
    expect RangeDefect:
      discard m[2, 0]
    expect RangeDefect:
      m[0, -1] = 1.0
