/* A stand-in for libcuda.so.1 and libnvrtc.so, over the host's memory: addresses of the device are addresses here, memory of the device
 * is a memfd, and kernels are C functions of the same names. It knows what nif_lab uses, and fails as the driver does: an illegal address
 * makes the context useless. FAKE_CUDA_DEVICES, FAKE_CUDA_INIT and FAKE_CUDA_MEMORY set the number of devices, what cuInit returns, and how
 * many bytes a device has. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int status;
typedef uint64_t address;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL = 700, REGISTERED = 712, NOT_REGISTERED = 713, FAILED = 719 };
enum { GRANULARITY = 2 << 20, DEVICES = 8, MOST = 4096, RANGES = 256 };

static atomic_int broken; /* what the context says from now on */
static atomic_int endless;
static atomic_size_t used;
static atomic_long calls; /* of memory functions: tests count them */
static int contexts[DEVICES];
static _Thread_local void *current;

static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

#define ALIVE()              \
  do {                       \
    if (broken) return broken; \
  } while (0)

status cuInit(unsigned flags) { (void)flags; return (status)setting("FAKE_CUDA_INIT", 0); }
status cuDriverGetVersion(int *version) { *version = 13000; return OK; }
status cuGetErrorName(status code, const char **name) {
  switch (code) {
    case OK: *name = "CUDA_SUCCESS"; break;
    case INVALID: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case NO_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case ILLEGAL: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: return INVALID;
  }
  return OK;
}
status cuDeviceGetCount(int *count) { *count = (int)setting("FAKE_CUDA_DEVICES", 1); return OK; }
status cuDeviceGet(int *device, int number) { *device = number; return OK; }
status cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Stand-in %d", device); return OK; }
status cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = setting("FAKE_CUDA_MEMORY", 1l << 32); return OK; }
status cuDeviceGetAttribute(int *value, int attribute, int device) { (void)device; *value = attribute == 75 ? 9 : 0; return OK; }
status cuDeviceCanAccessPeer(int *can, int device, int other) { *can = device != other && setting("FAKE_CUDA_PEERS", 1); return OK; }
status cuDevicePrimaryCtxRetain(void **context, int device) { *context = &contexts[device]; return OK; }
status cuCtxSetCurrent(void *context) { current = context; return OK; }
status cuCtxGetCurrent(void **context) { *context = current; return OK; }
status cuCtxEnablePeerAccess(void *other, unsigned flags) { (void)other, (void)flags; return OK; }
status cuCtxSynchronize(void) { ALIVE(); return OK; }
status cuMemGetInfo_v2(size_t *free_bytes, size_t *all) { ALIVE(); *all = setting("FAKE_CUDA_MEMORY", 1l << 32); *free_bytes = *all - used; return OK; }

struct location { int kind, id; };
struct property { int kind, handle_types; struct location location; void *windows; unsigned char flags[8]; };

static int is_plain(const struct property *it) { return it->kind == 1 && it->handle_types == 1 && it->location.kind == 1; }
status cuMemGetAllocationGranularity(size_t *size, const struct property *it, int option) {
  (void)option;
  if (!is_plain(it)) return INVALID;
  *size = GRANULARITY;
  return OK;
}
status cuMemAddressReserve(address *found, size_t size, size_t alignment, address wished, unsigned long long flags) {
  ALIVE();
  (void)alignment, (void)flags;
  if (size == 0 || size % GRANULARITY) return INVALID;
  void *at = mmap((void *)wished, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return NO_MEMORY;
  *found = (address)at;
  return OK;
}
status cuMemAddressFree(address at, size_t size) { return munmap((void *)at, size) ? INVALID : OK; }
/* A handle is a descriptor and the size: sizes are multiples of the granularity. */
status cuMemCreate(uint64_t *handle, size_t size, const struct property *it, unsigned long long flags) {
  ALIVE();
  (void)flags;
  calls++;
  if (!is_plain(it) || size == 0 || size % GRANULARITY) return INVALID;
  if (used + size > (size_t)setting("FAKE_CUDA_MEMORY", 1l << 32)) return NO_MEMORY;
  int file = memfd_create("fake_cuda", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, (off_t)size)) return NO_MEMORY;
  used += size;
  *handle = (uint64_t)size << 20 | (uint64_t)file;
  return OK;
}
status cuMemRelease(uint64_t handle) { used -= handle >> 20; return close((int)(handle & 0xfffff)) ? INVALID : OK; }
status cuMemMap(address at, size_t size, size_t offset, uint64_t handle, unsigned long long flags) {
  ALIVE();
  (void)flags;
  if (size != handle >> 20 || offset) return INVALID;
  void *there = mmap((void *)at, size, PROT_NONE, MAP_SHARED | MAP_FIXED, (int)(handle & 0xfffff), 0);
  return there == MAP_FAILED ? INVALID : OK;
}
status cuMemUnmap(address at, size_t size) {
  void *there = mmap((void *)at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return there == MAP_FAILED ? INVALID : OK;
}
status cuMemSetAccess(address at, size_t size, const void *access, size_t count) {
  ALIVE();
  const int *words = access;
  for (size_t i = 0; i < count; i++)
    if (words[3 * i] != 1 || words[3 * i + 2] != 3) return INVALID;
  return mprotect((void *)at, size, PROT_READ | PROT_WRITE) ? INVALID : OK;
}
status cuMemExportToShareableHandle(void *out, uint64_t handle, int kind, unsigned long long flags) {
  (void)flags;
  if (kind != 1) return INVALID;
  int copy = dup((int)(handle & 0xfffff));
  if (copy < 0) return INVALID;
  *(int *)out = copy;
  return OK;
}
status cuMemImportFromShareableHandle(uint64_t *handle, void *descriptor, int kind) {
  if (kind != 1) return INVALID;
  int copy = dup((int)(intptr_t)descriptor);
  off_t size = copy < 0 ? -1 : lseek(copy, 0, SEEK_END);
  if (size <= 0) return INVALID;
  used += size;
  *handle = (uint64_t)size << 20 | (uint64_t)copy;
  return OK;
}

status cuMemsetD8Async(address to, unsigned char value, size_t count, void *stream) { ALIVE(); (void)stream; memset((void *)to, value, count); return OK; }
status cuMemsetD16Async(address to, unsigned short value, size_t count, void *stream) {
  ALIVE();
  (void)stream;
  for (size_t i = 0; i < count; i++) ((unsigned short *)to)[i] = value;
  return OK;
}
status cuMemsetD32Async(address to, unsigned value, size_t count, void *stream) {
  ALIVE();
  (void)stream;
  for (size_t i = 0; i < count; i++) ((unsigned *)to)[i] = value;
  return OK;
}
/* The host's memory that is locked in place. A copy of memory of which only a part is locked fails, as with the driver. */
static struct range { address start; size_t size; } locked[RANGES];
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static atomic_long registered; /* how often memory was locked: tests count it */
long fake_registered(void) { return registered; }
long fake_locked(void) {
  long sum = 0;
  for (int i = 0; i < RANGES; i++) sum += (long)locked[i].size;
  return sum;
}
static status reach(const void *at, size_t size) {
  address start = (address)at, end = start + size;
  status found = OK;
  pthread_mutex_lock(&turn);
  for (int i = 0; i < RANGES; i++) {
    address first = locked[i].start, last = first + locked[i].size;
    if (locked[i].size && start < last && first < end && (start < first || end > last)) found = INVALID;
  }
  pthread_mutex_unlock(&turn);
  return found;
}
status cuMemHostRegister_v2(void *at, size_t size, unsigned flags) {
  ALIVE();
  (void)flags;
  if (!size || (address)at % 4096 || size % 4096) return INVALID;
  status found = NO_MEMORY;
  pthread_mutex_lock(&turn);
  for (int i = 0; i < RANGES; i++)
    if (locked[i].size && (address)at < locked[i].start + locked[i].size && locked[i].start < (address)at + size) found = REGISTERED;
  for (int i = 0; i < RANGES && found == NO_MEMORY; i++) {
    if (locked[i].size) continue;
    locked[i] = (struct range){(address)at, size};
    registered++;
    found = OK;
  }
  pthread_mutex_unlock(&turn);
  return found;
}
status cuMemHostUnregister(void *at) {
  status found = NOT_REGISTERED;
  pthread_mutex_lock(&turn);
  for (int i = 0; i < RANGES; i++) {
    if (!locked[i].size || locked[i].start != (address)at) continue;
    locked[i].size = 0;
    found = OK;
  }
  pthread_mutex_unlock(&turn);
  return found;
}
status cuMemcpyHtoDAsync_v2(address to, const void *from, size_t size, void *stream) {
  ALIVE();
  (void)stream;
  if (reach(from, size)) return INVALID;
  memcpy((void *)to, from, size);
  return OK;
}
status cuMemcpyDtoHAsync_v2(void *to, address from, size_t size, void *stream) {
  ALIVE();
  (void)stream;
  if (reach(to, size)) return INVALID;
  memcpy(to, (void *)from, size);
  return OK;
}
status cuMemcpyDtoDAsync_v2(address to, address from, size_t size, void *stream) { ALIVE(); (void)stream; memmove((void *)to, (void *)from, size); return OK; }
status cuStreamSynchronize(void *stream) {
  (void)stream;
  while (endless) usleep(1000);
  ALIVE();
  return OK;
}
status cuStreamQuery(void *stream) { (void)stream; ALIVE(); return endless ? NOT_READY : OK; }
static atomic_long waits; /* of one stream for another: tests count them */
long fake_waits(void) { return waits; }
long fake_creates(void) { return calls; }
status cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream, (void)event, (void)flags; waits++; return OK; }
status cuEventCreate(void **event, unsigned flags) { (void)flags; *event = malloc(1); return OK; }
status cuEventRecord(void *event, void *stream) { (void)event, (void)stream; return OK; }
status cuEventDestroy_v2(void *event) { free(event); return OK; }

/* --- kernels: a module is its source, and kernels are those below that it names */

typedef void kernel(const unsigned char *arguments);
#define TAKE(T, AT) (*(T const *)(arguments + (AT)))

static void axpy(const unsigned char *arguments) {
  double a = TAKE(double, 0);
  const double *x = TAKE(const double *, 8);
  double *y = TAKE(double *, 16);
  for (long long i = 0, n = TAKE(long long, 24); i < n; i++) y[i] = a * x[i] + y[i];
}
static double slope(const double *z, long long before, long long after, long long steps, double spacing) {
  return steps ? (z[after] - z[before]) / (double)steps / spacing : 0;
}
static void hillshade(const unsigned char *arguments) {
  const double *z = TAKE(const double *, 0);
  double dx = TAKE(double, 8), dy = TAKE(double, 16), light[3], *out = TAKE(double *, 48);
  memcpy(light, arguments + 24, sizeof light);
  long long rows = TAKE(long long, 56), columns = TAKE(long long, 64);
  for (long long i = 0; i < rows * columns; i++) {
    long long row = i / columns, column = i % columns;
    long long west = column ? column - 1 : 0, east = column + 1 < columns ? column + 1 : column;
    long long north = row ? row - 1 : 0, south = row + 1 < rows ? row + 1 : row;
    double gx = slope(z, row * columns + west, row * columns + east, east - west, dx);
    double gy = -slope(z, north * columns + column, south * columns + column, south - north, dy);
    double shade = (-gx * light[0] - gy * light[1] + light[2]) / sqrt(gx * gx + gy * gy + 1);
    out[i] = shade < 0 ? 0 : shade;
  }
}
static void smooth(const unsigned char *arguments) {
  const double *z = TAKE(const double *, 0);
  double *out = TAKE(double *, 8);
  long long rows = TAKE(long long, 16), columns = TAKE(long long, 24);
  for (long long i = 0; i < rows * columns; i++) {
    long long row = i / columns, column = i % columns, sides[3] = {column ? column - 1 : 0, column, column + 1 < columns ? column + 1 : column};
    const double *lines[3] = {z + (row ? row - 1 : 0) * columns, z + row * columns, z + (row + 1 < rows ? row + 1 : row) * columns};
    double sum = 0;
    for (int j = 0; j < 3; j++) sum += (j == 1 ? 2 : 1) * (lines[0][sides[j]] + 2 * lines[1][sides[j]] + lines[2][sides[j]]);
    out[i] = sum / 16;
  }
}
/* mixed(char a, double b, int c, const float *x, short d, float *out) */
static void mixed(const unsigned char *arguments) {
  const float *x = TAKE(const float *, 24);
  float *out = TAKE(float *, 40);
  out[0] = (float)TAKE(signed char, 0);
  out[1] = (float)TAKE(double, 8);
  out[2] = (float)TAKE(int, 16);
  out[3] = x[0];
  out[4] = (float)TAKE(short, 32);
}
static void wild(const unsigned char *arguments) { (void)arguments; broken = ILLEGAL; }
static void spin(const unsigned char *arguments) { (void)arguments; endless = 1; }
static void crash(const unsigned char *arguments) { (void)arguments; raise(SIGSEGV); }
static void none(const unsigned char *arguments) { (void)arguments; }

static const struct named { const char *name; kernel *call; } kernels[] = {
  {"axpy", axpy}, {"hillshade", hillshade}, {"smooth", smooth}, {"mixed", mixed}, {"wild", wild}, {"spin", spin}, {"gpu_illegal", wild}, {"gpu_endless", spin}, {"crash", crash},
  {"none", none}, {"three", none},
};

status cuModuleLoadData(void **module, const void *image) { ALIVE(); *module = strdup(image); return OK; }
status cuModuleUnload(void *module) { free(module); return OK; }
status cuModuleGetFunction(void **function, void *module, const char *name) {
  char call[128];
  snprintf(call, sizeof call, "%s(", name);
  if (!strstr(module, call)) return NOT_FOUND;
  for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
    if (!strcmp(kernels[i].name, name)) {
      *function = (void *)&kernels[i];
      return OK;
    }
  }
  return NOT_FOUND;
}
status cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned i, unsigned j, unsigned k, unsigned shared, void *stream,
                      void **list, void **extra) {
  ALIVE();
  (void)shared, (void)stream;
  if (!x || !y || !z || !i || !j || !k || (uint64_t)i * j * k > 1024 || list) return INVALID;
  unsigned char arguments[MOST] = {0};
  if (extra) {
    if (extra[0] != (void *)1 || extra[2] != (void *)2 || extra[4]) return INVALID;
    memcpy(arguments, extra[1], *(size_t *)extra[3]);
  }
  ((const struct named *)function)->call(arguments);
  return OK;
}

/* --- the compiler: what it makes is the source itself */

struct program { char *source, *name; char log[4096]; };
int nvrtcVersion(int *major, int *minor) { *major = 13, *minor = 0; return 0; }
const char *nvrtcGetErrorString(int code) { return code == 6 ? "NVRTC_ERROR_COMPILATION" : code ? "NVRTC_ERROR" : "NVRTC_SUCCESS"; }
int nvrtcGetNumSupportedArchs(int *count) { *count = 2; return 0; }
int nvrtcGetSupportedArchs(int *found) { found[0] = 80, found[1] = 90; return 0; }
int nvrtcCreateProgram(struct program **it, const char *source, const char *name, int n, const char **headers, const char **names) {
  (void)n, (void)headers, (void)names;
  *it = calloc(1, sizeof **it);
  (*it)->source = strdup(source);
  (*it)->name = strdup(name);
  return 0;
}
int nvrtcCompileProgram(struct program *it, int n, const char **options) {
  if (n < 1 || strncmp(options[0], "--gpu-architecture=", 19)) return 5;
  const char *at = strstr(it->source, "no_such_type");
  if (!at) return 0;
  int line = 1;
  const char *start = it->source;
  for (const char *c = start; c < at; c++)
    if (*c == '\n') line++, start = c + 1;
  snprintf(it->log, sizeof it->log, "%s(%d): error: identifier \"no_such_type\" is undefined\n  %.*s\n  %*s^\n\n1 error detected in the compilation of \"%s\".\n",
           it->name, line, (int)strcspn(start, "\n"), start, (int)(at - start), "", it->name);
  return 6;
}
int nvrtcGetProgramLogSize(struct program *it, size_t *size) { *size = strlen(it->log) + 1; return 0; }
int nvrtcGetProgramLog(struct program *it, char *log) { strcpy(log, it->log); return 0; }
int nvrtcGetCUBINSize(struct program *it, size_t *size) { *size = strlen(it->source) + 1; return 0; }
int nvrtcGetCUBIN(struct program *it, char *code) { strcpy(code, it->source); return 0; }
int nvrtcGetPTXSize(struct program *it, size_t *size) { return nvrtcGetCUBINSize(it, size); }
int nvrtcGetPTX(struct program *it, char *code) { return nvrtcGetCUBIN(it, code); }
int nvrtcDestroyProgram(struct program **it) { free((*it)->source), free((*it)->name), free(*it); return 0; }
