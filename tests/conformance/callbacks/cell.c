#include <stdio.h>
#include <threads.h>

static nif_any of_f64(double f) { return (nif_any){.type_index = NIF_FLOAT, .v.f = f}; }
static nif_any of_i64(int64_t i) { return (nif_any){.type_index = NIF_INT, .v.i = i}; }
static double to_f64(nif_any it) { return it.type_index == NIF_FLOAT ? it.v.f : (double)it.v.i; }

static double integrate(nif_object *f, double a, double b, int64_t n) {
  double h = (b - a) / (double)n, total = 0;
  for (int64_t i = 0; i < n; i++) {
    nif_any given = nif_call_back(f, 1, (nif_any[]){of_f64(a + ((double)i + 0.5) * h)});
    if (given.type_index == NIF_NONE) break;
    total += h * to_f64(given);
  }
  return total;
}
NIF(integrate, "integrate(f: fn(f64)->f64, a: f64, b: f64, n: i64) -> f64", 0, "The midpoint rule.",
    result->v.f = integrate(a[0].callback, a[1].f64, a[2].f64, a[3].i64))

static int64_t tally(nif_object *f, int64_t n) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; i++) {
    nif_any even = {.type_index = NIF_BOOL, .v.i = i % 2 == 0};
    nif_any given = nif_call_back(f, 2, (nif_any[]){of_i64(i), even});
    if (given.type_index == NIF_NONE) break;
    total += given.v.i;
  }
  return total;
}
NIF(tally, "tally(f: fn(i32,bool)->i64, n: i32) -> i64", 0, "", result->v.i = tally(a[0].callback, a[1].i64))

static void each(nif_object *f, int64_t n) {
  for (int64_t i = 0; i < n; i++) nif_call_back(f, 1, (nif_any[]){of_i64(i)});
}
NIF(each, "each(f: fn(u8)->None, n: u8) -> None", 0, "", each(a[0].callback, a[1].i64))

NIF(small, "small(f: fn()->i8) -> i64", 0, "", result->v.i = nif_call_back(a[0].callback, 0, NULL).v.i)

NIF(wide, "wide(f: fn(u64,f32)->u64) -> u64", 0, "",
    result->v.i = nif_call_back(a[0].callback, 2, (nif_any[]){of_i64(-1), of_f64(0.1f)}).v.i)

NIF(holds, "holds(f: fn(f64)->bool, x: f64) -> bool", 0, "",
    result->v.i = nif_call_back(a[0].callback, 1, (nif_any[]){of_f64(a[1].f64)}).v.i)

static nif_tensor tensor_of(const void *data, nif_dtype dtype, int64_t *count) {
  return (nif_tensor){.data = (void *)data, .device = {NIF_DEVICE_CPU, 0}, .ndim = 1, .dtype = dtype, .shape = count};
}

static const nif_dtype F64 = {NIF_DTYPE_FLOAT, 64, 1}, U8 = {NIF_DTYPE_UINT, 8, 1};

static double at(nif_object *f, const double *data, int64_t count) {
  nif_tensor tensor = tensor_of(data, F64, &count);
  return to_f64(nif_call_back(f, 1, (nif_any[]){{.type_index = NIF_TENSOR, .v.p = &tensor}}));
}

static double least(nif_object *f, nif_f64s x) {
  double whole = at(f, x.data, x.count), half = at(f, x.data, x.count / 2);
  return whole < half ? whole : half;
}
NIF(least, "least(f: fn(f64[_])->f64, x: f64[n]) -> f64", 0, "The smallest value of f at x and at the first half of x.",
    result->v.f = least(a[0].callback, a[1].f64s))

static void derivative(nif_object *f, double t, nif_f64s y, nif_mut_f64s out) {
  nif_tensor from = tensor_of(y.data, F64, &y.count), to = tensor_of(out.data, F64, &out.count);
  nif_call_back(f, 3, (nif_any[]){of_f64(t), {.type_index = NIF_TENSOR, .v.p = &from}, {.type_index = NIF_TENSOR, .v.p = &to}});
}
NIF(derivative, "derivative(f: fn(f64,f64[_],mut f64[_])->None, t: f64, y: f64[n], out: mut f64[n]) -> None", 0,
    "What f writes.", derivative(a[0].callback, a[1].f64, a[2].f64s, a[3].mut_f64s))

static int64_t octets(nif_object *f) {
  int64_t count = 3;
  nif_tensor tensor = tensor_of((const uint8_t[]){1, 2, 255}, U8, &count);
  return nif_call_back(f, 2, (nif_any[]){{.type_index = NIF_TENSOR, .v.p = &tensor}, of_i64(7)}).v.i;
}
NIF(octets, "octets(f: fn(u8[_],u8)->i64) -> i64", 0, "", result->v.i = octets(a[0].callback))

static double tried(nif_object *f, double x) {
  nif_any given, args[] = {of_f64(x)};
  return f->call(f, args, 1, &given) == 0 ? to_f64(given) : -1;
}
NIF(tried, "tried(f: fn(f64)->f64, x: f64) -> f64", 0, "Gets over what is raised.",
    result->v.f = tried(a[0].callback, a[1].f64))

NIF(unwrapped, "unwrapped(f: fn(f64)->f64, x: f64) -> f64", NIF_FLAG_LONG, "",
    result->v.f = to_f64(nif_call_back(a[0].callback, 1, (nif_any[]){of_f64(a[1].f64)})))

static int64_t steps(int64_t n, double seconds) {
  for (int64_t i = 1; i <= n; i++) {
    nif_progress(i, n);
    thrd_sleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
  }
  return n;
}
NIF(steps, "steps(n: i64, seconds: f64) -> i64", NIF_FLAG_LONG, "", result->v.i = steps(a[0].i64, a[1].f64))

static int64_t says(int64_t n) {
  for (int64_t i = 0; i < n; i++) printf("line %lld\n", (long long)i);
  printf("dots...");
  fprintf(stderr, "oh %lld", (long long)n);
  return n;
}
NIF(says, "says(n: i64) -> i64", 0, "", result->v.i = says(a[0].i64))
