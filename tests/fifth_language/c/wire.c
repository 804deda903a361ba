/* Values in the host's memory: written here, looked at in place, or as frames of the wire protocol (docs/wire.md). */
#include "wire/wire.h"

#include <stdlib.h>
#include <string.h>

#include "nif.h"

static nif_tensor *write(nif_array x) {
  nif_tensor *copy = nif_allocate(x.dtype, x.ndim, x.shape);
  if (copy && x.size > 0) {
    memcpy(copy->data, x.bytes, (size_t)x.size);
  }
  return copy;
}
NIF(write, "write(x: any[...]) -> any[...]", 0,
    "a copy of x in a block from the host's allocator, same dtype and shape.",
    result->v.p = write(a[0].any))

static uintptr_t address(nif_array x) { return (uintptr_t)x.bytes; }
NIF(address, "address(x: any[...]) -> u64", NIF_FLAG_PURE, "where this language sees the data.",
    result->v.i = (int64_t)address(a[0].any))

/* A table as the codec reads it, row after row; NULL, and the call failed, where it can't be. */
typedef struct {
  const int64_t *rows;
  int64_t *copy; /* to be freed; NULL where the argument itself will do */
} table;

static bool open_table(table *it, nif_i64_matrix matrix, const char *argument, int64_t columns, int64_t most_rows) {
  if (matrix.columns != columns) {
    nif_fail(NIF_VALUE_ERROR, argument, "expected %lld columns, got %lld", (long long)columns,
             (long long)matrix.columns);
    return false;
  }
  *it = (table){matrix.data, NULL};
  /* A table that is too long is refused for its length, before anything in it is read. */
  if ((matrix.row_stride == columns && matrix.column_stride == 1) || matrix.rows == 0 || matrix.rows > most_rows) {
    return true;
  }
  it->rows = it->copy = calloc((size_t)matrix.rows, (size_t)columns * sizeof(int64_t));
  if (!it->copy) {
    nif_fail(NIF_MEMORY_ERROR, NULL, "out of memory");
    return false;
  }
  for (int64_t row = 0; row < matrix.rows; row++) {
    for (int64_t column = 0; column < columns; column++) {
      it->copy[row * columns + column] = matrix.data[row * matrix.row_stride + column * matrix.column_stride];
    }
  }
  return true;
}

static nif_tensor *decode(nif_array frame, int64_t dialect, int64_t version, nif_i64_matrix live_handles) {
  table live;
  if (!open_table(&live, live_handles, "live", WIRE_LIVE_COLUMNS, INT64_MAX)) {
    return NULL;
  }
  int64_t nodes[WIRE_MOST_NODES * WIRE_COLUMNS];
  wire_refusal refusal;
  int64_t count =
    wire_decode(frame.bytes, frame.size, dialect, version, live.rows, live_handles.rows, nodes, &refusal);
  free(live.copy);
  if (count < 0) {
    nif_fail(NIF_VALUE_ERROR, NULL, "%s", refusal.text);
    return NULL;
  }
  nif_tensor *written = nif_allocate((nif_dtype){NIF_DTYPE_INT, 64, 1}, 2, (int64_t[]){count, WIRE_COLUMNS});
  if (written) {
    memcpy(written->data, nodes, (size_t)count * WIRE_COLUMNS * sizeof(int64_t));
  }
  return written;
}
NIF(decode, "decode(frame: any[...], dialect: i64, version: i64, live: i64[h,w]) -> any[...]", NIF_FLAG_PURE,
    "the node table of a frame, checked completely; its offsets lead into the frame. live has the device handles that "
    "are accepted.",
    result->v.p = decode(a[0].any, a[1].i64, a[2].i64, a[3].i64_matrix))

static nif_tensor *encode(nif_i64_matrix node_table, nif_array data, int64_t dialect, int64_t version,
                          int64_t alignment, bool checksum) {
  table nodes;
  if (!open_table(&nodes, node_table, "nodes", WIRE_COLUMNS, WIRE_MOST_NODES)) {
    return NULL;
  }
  wire_plan plan;
  wire_refusal refusal;
  nif_tensor *frame = NULL;
  if (wire_measure(&plan, nodes.rows, node_table.rows, data.bytes, data.size, dialect, version, alignment, checksum,
                   &refusal) < 0) {
    nif_fail(NIF_VALUE_ERROR, NULL, "%s", refusal.text);
  } else {
    frame = nif_allocate((nif_dtype){NIF_DTYPE_UINT, 8, 1}, 1, (int64_t[]){plan.lead + plan.size});
  }
  if (frame) {
    wire_write(&plan, frame->data);
  }
  free(nodes.copy);
  return frame;
}
NIF(encode,
    "encode(nodes: i64[m,w], data: any[...], dialect: i64, version: i64, alignment: i64, checksum: bool) -> any[...]",
    NIF_FLAG_PURE,
    "the frame of a node table whose offsets lead into data, after as many zeros as put the payload at a multiple of "
    "64 bytes.",
    result->v.p = encode(a[0].i64_matrix, a[1].any, a[2].i64, a[3].i64, a[4].i64, a[5].boolean))
