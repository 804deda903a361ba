/* The wire format of docs/wire.md as data: refusals, types, headers and records. */
#ifndef WIRE_FORMAT_H
#define WIRE_FORMAT_H

#include <stddef.h>

#include "wire.h"

enum {
  MOST_DEPTH = 64,
  MOST_NAME = 255,
  FILL = 64, /* version 2: the parts of a record begin at multiples of it */
  MAGIC = 0x46494E89,
  TEXTURE = 0x31,
  BOOL = 5, /* its dtype */
};

/* --- refusals --------------------------------------------------------------------------------------------------- */

typedef enum {
  SHORT, VERSION, MARKER, OVERFLOW, LENGTH, TRAILING, DIM, ALIGN, PAD, VALUE, HANDLE, STALE, DEPTH, LIMIT, DUPLICATE,
  UTF8, CHECKSUM
} wire_code;

/* Say what is wrong, and where: "byte" or "node", and its number; NULL: an argument is at fault. False. */
bool wire_refuse(wire_refusal *refusal, wire_code code, const char *unit, int64_t place);

/* --- types ------------------------------------------------------------------------------------------------------ */

typedef enum { UNKNOWN, SCALAR, ARRAY, DEVICE, RECORD } wire_kind;

/* A type of value. Sets have a bit for each member. */
typedef struct {
  wire_kind kind;
  uint8_t versions;    /* that it exists in */
  uint8_t dtype, ndim; /* the ones of version 1 */
  uint16_t dtypes;     /* that it may have in version 2 */
  uint8_t ndims;       /* numbers of axes that it may have there */
  uint8_t size;        /* bytes of the payload of a scalar or device type */
} wire_marker;

const wire_marker *wire_marker_of(int64_t code);
bool wire_has(unsigned set, int64_t member);
bool wire_is_dtype(uint64_t code); /* that elements can have: not 0 */
int64_t wire_size_of(int64_t dtype);
bool wire_is_alignment(int64_t number);

/* The payload of an array, in bytes; -1: element size times all dimensions that aren't 0 is 2^63 or more. */
int64_t wire_extent(int64_t dtype, int64_t ndim, const int64_t *shape);

/* --- headers ---------------------------------------------------------------------------------------------------- */

/* Version 2's, byte for byte; it has room for what version 1's say. */
typedef struct {
  uint32_t magic;
  uint8_t version, marker, dtype, ndim, order, flags, reserved[6];
  uint64_t shape[4], payload, checksum;
} wire_header;

/* The payloads of device types; behind the last field the structs may be longer. */
typedef struct {
  uint64_t handle, size;
  uint32_t device;
} wire_buffer;

typedef struct {
  uint64_t handle;
  uint32_t height, width, channels, dtype, device;
} wire_texture;

const wire_format *wire_format_of(int64_t dialect, int64_t version); /* both are right */
int64_t wire_header_size(const wire_format *format, const wire_marker *marker, int64_t ndim);
uint64_t wire_checksum(const void *header, const uint8_t *payload, int64_t size);

/* --- records ---------------------------------------------------------------------------------------------------- */

/* What a record's child must be. */
typedef struct {
  const char *name;     /* NULL: any */
  int64_t number;       /* that comes before the name, with a dot; -1: none */
  int64_t first, last;  /* markers */
  int64_t below;        /* a scalar is 0 or more and below this; 0: any number */
  int64_t length;       /* of an array, in elements; 0: any */
} wire_role;

extern const wire_role wire_anything;

bool wire_accepts(int64_t marker, int64_t count); /* whether the record can have so many children */
wire_role wire_role_of(int64_t marker, int64_t index);
bool wire_is_named(const wire_role *role, const uint8_t *name, int64_t size);
bool wire_fits(const wire_role *role, const wire_node *node, const uint8_t *bytes); /* its bounds */

/* --- texts and other bytes -------------------------------------------------------------------------------------- */

bool wire_is_text(const uint8_t *text, int64_t size); /* UTF-8 without NUL */

/* Copy bytes that another process may be writing; what is decided then rests on the copy. */
void wire_snapshot(void *target, const void *source, int64_t size);

/* The place of the first byte above `most`; -1: there is none. */
int64_t wire_first_above(const uint8_t *bytes, int64_t at, int64_t stop, uint8_t most);

#endif /* WIRE_FORMAT_H */
