/* The kernels that every backend has; docs/kernels.md says what each means. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nif.h"
#include "xxh3.h"

/* --- scalars and vectors --- */

static void noop(void) {}
NIF(noop, "noop() -> None", NIF_FLAG_PURE, "does nothing.", noop())

static double add(double x, double y) { return x + y; }
NIF(add, "add(x: f64, y: f64) -> f64", NIF_FLAG_PURE, "the sum of two numbers.",
    result->v.f = add(a[0].f64, a[1].f64))

/* Partial sums that don't wait for each other, and that the compiler keeps in vectors. */
enum { LANES = 16 };

static double total(const double lanes[LANES]) {
  double all = 0;
  for (int i = 0; i < LANES; i++) {
    all += lanes[i];
  }
  return all;
}

static double dot(nif_f64s x, nif_f64s y) {
  double lanes[LANES] = {0}, rest = 0;
  int64_t whole = x.count - x.count % LANES;
  for (int64_t i = 0; i < whole; i += LANES) {
    for (int lane = 0; lane < LANES; lane++) {
      lanes[lane] += x.data[i + lane] * y.data[i + lane];
    }
  }
  for (int64_t i = whole; i < x.count; i++) {
    rest += x.data[i] * y.data[i];
  }
  return total(lanes) + rest;
}
NIF(dot, "dot(x: f64[n], y: f64[n]) -> f64", NIF_FLAG_PURE, "inner product of two vectors.",
    result->v.f = dot(a[0].f64s, a[1].f64s))

static void axpy(double factor, nif_f64s x, nif_mut_f64s y) {
  for (int64_t i = 0; i < x.count; i++) {
    y.data[i] = factor * x.data[i] + y.data[i];
  }
}
NIF(axpy, "axpy(a: f64, x: f64[n], y: mut f64[n]) -> None", 0, "y = a x + y, in place.",
    axpy(a[0].f64, a[1].f64s, a[2].mut_f64s))

static double sum(nif_f64s x) {
  double lanes[LANES] = {0}, rest = 0;
  int64_t whole = x.count - x.count % LANES;
  for (int64_t i = 0; i < whole; i += LANES) {
    for (int lane = 0; lane < LANES; lane++) {
      lanes[lane] += x.data[i + lane];
    }
  }
  for (int64_t i = whole; i < x.count; i++) {
    rest += x.data[i];
  }
  return total(lanes) + rest;
}
NIF(sum, "sum(x: f64[n]) -> f64", NIF_FLAG_PURE, "the sum of all elements.", result->v.f = sum(a[0].f64s))

static uint64_t checksum(nif_array x) { return xxh3_64(x.bytes, (size_t)x.size); }
NIF(checksum, "checksum(x: any[...]) -> u64", NIF_FLAG_PURE, "XXH3-64 (seed 0) of the bytes in memory order.",
    result->v.i = (int64_t)checksum(a[0].any))

/* --- rows of matrices --- */

/* Memory for so many numbers; NULL, and the call failed, where there is none. */
static double *scratch_of(int64_t rows, int64_t columns) {
  size_t count; /* may not fit: a matrix whose rows lie on one another has any shape */
  double *scratch = __builtin_mul_overflow(rows, columns, &count) ? NULL : calloc(count, sizeof(double));
  if (!scratch) {
    nif_fail(NIF_MEMORY_ERROR, NULL, "out of memory");
  }
  return scratch;
}

/* A row in order: the matrix's own memory, or a copy in `scratch`. */
static const double *gather(nif_f64_matrix m, int64_t row, double *scratch) {
  const double *from = m.data + row * m.row_stride;
  if (m.column_stride == 1) {
    return from;
  }
  for (int64_t column = 0; column < m.columns; column++) {
    scratch[column] = from[column * m.column_stride];
  }
  return scratch;
}

/* Where to write a row in order; `scatter` brings it to its place then. */
static double *target_of(nif_mut_f64_matrix m, int64_t row, double *scratch) {
  return m.column_stride == 1 ? m.data + row * m.row_stride : scratch;
}

static void scatter(nif_mut_f64_matrix m, int64_t row, const double *from) {
  double *to = m.data + row * m.row_stride;
  for (int64_t column = 0; to != from && column < m.columns; column++) {
    to[column * m.column_stride] = from[column];
  }
}

static bool is_empty(nif_mut_f64_matrix m) { return m.rows == 0 || m.columns == 0; }

/* What was written, to be read. */
static nif_f64_matrix readable(nif_mut_f64_matrix m) {
  return (nif_f64_matrix){m.data, m.rows, m.columns, m.row_stride, m.column_stride};
}

/* --- matrices --- */

/* Row after row of the product, as a sum of rows of b: so memory is read in order. b is put in order first, once. */
static void matmul(nif_f64_matrix left, nif_f64_matrix right, nif_mut_f64_matrix out) {
  int64_t columns = right.columns;
  double *scratch = is_empty(out) ? NULL : scratch_of(right.rows + 1, columns);
  if (!scratch) {
    return;
  }
  double *row_of_out = scratch, *ordered = scratch + columns;
  for (int64_t k = 0; k < right.rows; k++) {
    double *row = ordered + k * columns;
    const double *gathered = gather(right, k, row);
    if (gathered != row) {
      memcpy(row, gathered, (size_t)columns * sizeof(double));
    }
  }
  for (int64_t i = 0; i < left.rows; i++) {
    memset(row_of_out, 0, (size_t)columns * sizeof(double));
    for (int64_t k = 0; k < left.columns; k++) {
      double factor = left.data[i * left.row_stride + k * left.column_stride];
      const double *row = ordered + k * columns;
      for (int64_t j = 0; j < columns; j++) {
        row_of_out[j] += factor * row[j];
      }
    }
    scatter(out, i, row_of_out);
  }
  free(scratch);
}
NIF(matmul, "matmul(a: f64[m,k], b: f64[k,n], out: mut f64[m,n]) -> None", NIF_FLAG_LONG | NIF_FLAG_IDEMPOTENT,
    "the matrix product of a and b.", matmul(a[0].f64_matrix, a[1].f64_matrix, a[2].mut_f64_matrix))

/* Square by square, so that what is read and what is written both stay in the cache. */
static void transpose(nif_f64_matrix from, nif_mut_f64_matrix out) {
  enum { SIDE = 32 };
  for (int64_t top = 0; top < from.rows; top += SIDE) {
    for (int64_t left = 0; left < from.columns; left += SIDE) {
      for (int64_t i = top; i < top + SIDE && i < from.rows; i++) {
        for (int64_t j = left; j < left + SIDE && j < from.columns; j++) {
          double element = from.data[i * from.row_stride + j * from.column_stride];
          out.data[j * out.row_stride + i * out.column_stride] = element;
        }
      }
    }
  }
}
NIF(transpose, "transpose(a: f64[m,n], out: mut f64[n,m]) -> None", NIF_FLAG_IDEMPOTENT, "out[j,i] = a[i,j].",
    transpose(a[0].f64_matrix, a[1].mut_f64_matrix))

/* --- height fields --- */

static const double DEGREE = 0.017453292519943295; /* in radians */

typedef struct {
  double east, north, up; /* the direction of the light */
} sun;

/* Of ground that rises by so much towards the east and the north; NaN stays NaN. */
static double brightness(double east, double north, sun sun) {
  double light = (east * -sun.east + north * -sun.north + sun.up) / sqrt(east * east + north * north + 1);
  return light < 0 ? 0 : light;
}

static void hillshade(nif_f64_matrix z, double dx, double dy, double azimuth, double altitude, nif_mut_f64_matrix out) {
  if (!(dx > 0) || !(dy > 0)) {
    nif_fail(NIF_VALUE_ERROR, !(dx > 0) ? "dx" : "dy", "expected a positive number");
    return;
  }
  double az = azimuth * DEGREE, alt = altitude * DEGREE;
  sun sun = {sin(az) * cos(alt), cos(az) * cos(alt), sin(alt)};
  int64_t rows = z.rows, last = z.columns - 1;
  double *scratch = is_empty(out) ? NULL : scratch_of(4, z.columns);
  for (int64_t row = 0; scratch && row < rows; row++) {
    const double *here = gather(z, row, scratch);
    const double *above = gather(z, row > 0 ? row - 1 : 0, scratch + z.columns);
    const double *below = gather(z, row + 1 < rows ? row + 1 : row, scratch + 2 * z.columns);
    double *shaded = target_of(out, row, scratch + 3 * z.columns);
    double share = row == 0 || row == rows - 1 ? 1 : 0.5; /* slopes are one-sided at the edges */
    for (int64_t column = 0; column <= last; column++) {
      int64_t west = column > 0 ? column - 1 : 0, east = column < last ? column + 1 : last;
      /* An axis of length 1 has no slope, whatever it holds. */
      double rise = last == 0 ? 0 : (here[east] - here[west]) * (east - west == 2 ? 0.5 : 1) / dx;
      double climb = rows == 1 ? 0 : (above[column] - below[column]) * share / dy;
      shaded[column] = brightness(rise, climb, sun);
    }
    scatter(out, row, shaded);
  }
  free(scratch);
}
NIF(hillshade,
    "hillshade(z: f64[m,n], dx: f64, dy: f64, azimuth: f64, altitude: f64, out: mut f64[m,n]) -> None",
    NIF_FLAG_IDEMPOTENT,
    "brightness of a height field lit from azimuth and altitude (in degrees, clockwise from north and above the "
    "horizon); row 0 is north, dx and dy are the spacing.",
    hillshade(a[0].f64_matrix, a[1].f64, a[2].f64, a[3].f64, a[4].f64, a[5].mut_f64_matrix))

/* (1 2 1) along a row, edges repeated. */
static void smooth_row(const double *source, double *target, int64_t columns) {
  for (int64_t column = 0; column < columns; column++) {
    double left = source[column > 0 ? column - 1 : 0], right = source[column + 1 < columns ? column + 1 : column];
    target[column] = left + 2 * source[column] + right;
  }
}

/* One pass. `target` may be `source`: a row is overwritten only after the next one was read. */
static void smooth_once(nif_f64_matrix source, nif_mut_f64_matrix target, double *scratch) {
  int64_t rows = source.rows, columns = source.columns;
  double *filtered[3] = {scratch, scratch + columns, scratch + 2 * columns}; /* of the last three rows */
  double *gathered = scratch + 3 * columns;
  smooth_row(gather(source, 0, gathered), filtered[0], columns);
  for (int64_t row = 0; row < rows; row++) {
    if (row + 1 < rows) {
      smooth_row(gather(source, row + 1, gathered), filtered[(row + 1) % 3], columns);
    }
    const double *above = filtered[(row > 0 ? row - 1 : 0) % 3], *here = filtered[row % 3];
    const double *below = filtered[(row + 1 < rows ? row + 1 : row) % 3];
    double *smoothed = target_of(target, row, gathered);
    for (int64_t column = 0; column < columns; column++) {
      smoothed[column] = (above[column] + 2 * here[column] + below[column]) / 16;
    }
    scatter(target, row, smoothed);
  }
}

static void smooth(nif_f64_matrix z, int64_t passes, nif_mut_f64_matrix out) {
  if (passes < 0) {
    nif_fail(NIF_VALUE_ERROR, "passes", "expected 0 or more, got %lld", (long long)passes);
    return;
  }
  double *scratch = is_empty(out) ? NULL : scratch_of(4, z.columns);
  if (!scratch) {
    return;
  }
  for (int64_t row = 0; row < z.rows && passes == 0; row++) {
    scatter(out, row, gather(z, row, scratch));
  }
  for (int64_t pass = 0; pass < passes; pass++) {
    smooth_once(pass == 0 ? z : readable(out), out, scratch);
  }
  free(scratch);
}
NIF(smooth, "smooth(z: f64[m,n], passes: i64, out: mut f64[m,n]) -> None", NIF_FLAG_LONG | NIF_FLAG_IDEMPOTENT,
    "the 3 x 3 binomial filter, so many times; edges are repeated.",
    smooth(a[0].f64_matrix, a[1].i64, a[2].mut_f64_matrix))

/* --- counting --- */

static void histogram(nif_f64s x, int64_t bins, double low, double high, nif_mut_i64s out) {
  if (bins < 1) {
    nif_fail(NIF_VALUE_ERROR, "bins", "expected 1 or more, got %lld", (long long)bins);
    return;
  }
  if (!isfinite(low)) {
    nif_fail(NIF_VALUE_ERROR, "low", "expected a finite number");
    return;
  }
  double scale = (double)bins / (high - low);
  if (!(scale > 0 && isfinite(scale))) {
    nif_fail(NIF_VALUE_ERROR, "high", "expected a finite number above low");
    return;
  }
  memset(out.data, 0, (size_t)bins * sizeof(int64_t));
  for (int64_t i = 0; i < x.count; i++) {
    if (x.data[i] >= low && x.data[i] <= high) { /* NaN is neither */
      double cell = (x.data[i] - low) * scale;
      out.data[cell < (double)bins ? (int64_t)cell : bins - 1]++;
    }
  }
}
NIF(histogram, "histogram(x: f64[n], bins: i64, low: f64, high: f64, out: mut i64[bins]) -> None", NIF_FLAG_IDEMPOTENT,
    "how many elements lie in each of so many equal cells of [low, high].",
    histogram(a[0].f64s, a[1].i64, a[2].f64, a[3].f64, a[4].mut_i64s))

/* How many steps before |z| > 2. */
static int32_t escape_time(double cr, double ci, int64_t iterations) {
  double zr = 0, zi = 0;
  for (int64_t n = 0; n < iterations; n++) {
    if (zr * zr + zi * zi > 4) {
      return (int32_t)n;
    }
    double next = (zr * zr - zi * zi) + cr;
    zi = 2 * zr * zi + ci;
    zr = next;
  }
  return (int32_t)iterations;
}

static void mandelbrot(int64_t width, int64_t height, double x_min, double x_max, double y_min, double y_max,
                       int64_t iterations, nif_mut_i32_matrix out) {
  if (iterations < 0 || iterations > INT32_MAX) {
    nif_fail(NIF_VALUE_ERROR, "iterations", "expected 0 to 2147483647, got %lld", (long long)iterations);
    return;
  }
  for (int64_t row = 0; row < height; row++) {
    if (nif_cancelled()) {
      nif_fail(NIF_CANCELLED, NULL, "cancelled");
      return;
    }
    double ci = y_max - (y_max - y_min) * ((double)row + 0.5) / (double)height;
    for (int64_t column = 0; column < width; column++) {
      double cr = x_min + (x_max - x_min) * ((double)column + 0.5) / (double)width;
      out.data[row * out.row_stride + column * out.column_stride] = escape_time(cr, ci, iterations);
    }
  }
}
NIF(mandelbrot,
    "mandelbrot(width: i64, height: i64, x_min: f64, x_max: f64, y_min: f64, y_max: f64, iterations: i64, "
    "out: mut i32[height,width]) -> None",
    NIF_FLAG_LONG | NIF_FLAG_IDEMPOTENT | NIF_FLAG_POLLS_CANCEL,
    "iterations before |z| > 2 at the centre of each pixel; row 0 is y_max.",
    mandelbrot(a[0].i64, a[1].i64, a[2].f64, a[3].f64, a[4].f64, a[5].f64, a[6].i64, a[7].mut_i32_matrix))

/* --- networks --- */

/* Shifted by the largest value, so that no exponential overflows. */
static void softmax(nif_mut_f64s values) {
  double largest = -INFINITY, all = 0;
  for (int64_t i = 0; i < values.count; i++) {
    largest = values.data[i] > largest ? values.data[i] : largest;
  }
  for (int64_t i = 0; i < values.count; i++) {
    values.data[i] = exp(values.data[i] - largest);
    all += values.data[i];
  }
  for (int64_t i = 0; i < values.count; i++) {
    values.data[i] /= all;
  }
}

enum { IDENTITY, RELU, TANH, SIGMOID, SOFTMAX };

static double activated(double v, int64_t activation) {
  switch (activation) {
    case RELU: return v <= 0 ? 0 : v;
    case TANH: return tanh(v);
    case SIGMOID: return 1 / (1 + exp(-v));
    default: return v;
  }
}

static void forward(nif_f64_matrix weights, nif_f64s bias, nif_f64s x, int64_t activation, nif_mut_f64s out) {
  if (activation < IDENTITY || activation > SOFTMAX) {
    nif_fail(NIF_VALUE_ERROR, "activation", "expected 0 to 4, got %lld", (long long)activation);
    return;
  }
  for (int64_t row = 0; row < weights.rows; row++) {
    double v = bias.data[row];
    for (int64_t column = 0; column < weights.columns; column++) {
      v += weights.data[row * weights.row_stride + column * weights.column_stride] * x.data[column];
    }
    out.data[row] = activated(v, activation);
  }
  if (activation == SOFTMAX) {
    softmax(out);
  }
}
NIF(forward, "forward(weights: f64[m,n], bias: f64[m], x: f64[n], activation: i64, out: mut f64[m]) -> None",
    NIF_FLAG_IDEMPOTENT,
    "one layer of a network, f(weights x + bias). activation: 0 identity, 1 relu, 2 tanh, 3 sigmoid, 4 softmax over "
    "the layer.",
    forward(a[0].f64_matrix, a[1].f64s, a[2].f64s, a[3].i64, a[4].mut_f64s))
