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
