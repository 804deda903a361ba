/* The kernels of docs/kernels.md that devices have, with the same meaning. Arrays are row-major; threads stride over the elements, so any
 * grid will do. Compiled without fused operations, as the CPU's are. */

static __device__ long long first() { return blockIdx.x * (long long)blockDim.x + threadIdx.x; }
static __device__ long long step() { return gridDim.x * (long long)blockDim.x; }

extern "C" __global__ void axpy(double a, const double *x, double *y, long long n) {
  for (long long i = first(); i < n; i += step()) y[i] = a * x[i] + y[i];
}

/* Difference of two heights over their distance; 0 along an axis of length 1. */
static __device__ double slope(const double *z, long long before, long long after, long long steps, double spacing) {
  return steps ? (z[after] - z[before]) / (double)steps / spacing : 0.0;
}

extern "C" __global__ void hillshade(const double *z, double dx, double dy, double light_x, double light_y, double light_z,
                                     double *out, long long rows, long long columns) {
  for (long long i = first(); i < rows * columns; i += step()) {
    long long row = i / columns, column = i % columns;
    long long west = column ? column - 1 : 0, east = column + 1 < columns ? column + 1 : column;
    long long north = row ? row - 1 : 0, south = row + 1 < rows ? row + 1 : row;
    double gx = slope(z, row * columns + west, row * columns + east, east - west, dx);
    double gy = -slope(z, north * columns + column, south * columns + column, south - north, dy);
    double shade = (-gx * light_x - gy * light_y + light_z) / sqrt(gx * gx + gy * gy + 1.0);
    out[i] = shade < 0.0 ? 0.0 : shade;
  }
}

extern "C" __global__ void smooth(const double *z, double *out, long long rows, long long columns) {
  for (long long i = first(); i < rows * columns; i += step()) {
    long long row = i / columns, column = i % columns;
    long long west = column ? column - 1 : 0, east = column + 1 < columns ? column + 1 : column;
    const double *above = z + (row ? row - 1 : 0) * columns, *here = z + row * columns;
    const double *below = z + (row + 1 < rows ? row + 1 : row) * columns;
    double left = above[west] + 2.0 * here[west] + below[west];
    double middle = above[column] + 2.0 * here[column] + below[column];
    double right = above[east] + 2.0 * here[east] + below[east];
    out[i] = (left + 2.0 * middle + right) / 16.0;
  }
}
