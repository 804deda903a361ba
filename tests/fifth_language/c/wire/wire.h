/* The codec of docs/wire.md: a frame to its node table, and back. It knows nothing of the host. */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stdint.h>

enum { WIRE_COLUMNS = 14, WIRE_LIVE_COLUMNS = 4, WIRE_MOST_NODES = 512 };

/* Why a frame or a table isn't accepted. */
typedef struct {
  char text[160];
} wire_refusal;

/* Version 2, or a dialect of version 1. */
typedef struct {
  int version;
  int word;                         /* bytes of a dimension or length */
  int order;                        /* of axes, where the header doesn't say */
  bool is_aligned;                  /* whether arrays have an alignment and padding */
  int marker_at, shape_at, size_at; /* in a header */
  int64_t most_dimension;
  uint64_t frame_end; /* a frame is shorter */
} wire_format;

/* A row of the node table: one value. */
typedef struct {
  int64_t marker, dtype, ndim, shape[4], order, data_offset, data_length, name_offset, name_length, parent, count;
} wire_node;

_Static_assert(sizeof(wire_node) == WIRE_COLUMNS * sizeof(int64_t), "the columns of docs/wire.md");

/* The table of a frame, row after row, and how many rows it has; -1: refused. */
int64_t wire_decode(const uint8_t *frame, int64_t size, int64_t dialect, int64_t version, const int64_t *live,
                    int64_t live_rows, int64_t *nodes, wire_refusal *refusal);

/* A table that was checked and measured. It is a copy, as another process may write to the original. */
typedef struct {
  wire_format format;
  const uint8_t *data;
  int64_t data_size, alignment, count;
  bool has_checksum;
  wire_node rows[WIRE_MOST_NODES];
  int64_t lengths[WIRE_MOST_NODES]; /* of the payloads */
  int64_t lead, size;               /* zeros that put the payload at a multiple of 64 bytes; then the frame */
} wire_plan;

/* 0; -1: refused. */
int wire_measure(wire_plan *plan, const int64_t *nodes, int64_t rows, const uint8_t *data, int64_t data_size,
                 int64_t dialect, int64_t version, int64_t alignment, bool checksum, wire_refusal *refusal);

/* Write all lead + size bytes. */
void wire_write(const wire_plan *plan, uint8_t *target);

#endif /* WIRE_H */
