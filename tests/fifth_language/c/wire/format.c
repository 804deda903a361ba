#include "format.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "../xxh3.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they are");
_Static_assert(sizeof(wire_header) == 64 && offsetof(wire_texture, device) == 24, "docs/wire.md has these places");

/* --- refusals --------------------------------------------------------------------------------------------------- */

bool wire_refuse(wire_refusal *refusal, wire_code code, const char *unit, int64_t place) {
  static const char *const words[] = {
    [SHORT] = "SHORT: the frame ends within its header",
    [VERSION] = "VERSION: not a frame of the expected version",
    [MARKER] = "MARKER: no such type, or not accepted here",
    [OVERFLOW] = "OVERFLOW: the size is more than the format can express",
    [LENGTH] = "LENGTH: sizes and the bytes that are there do not agree",
    [TRAILING] = "TRAILING: bytes after the end",
    [DIM] = "DIM: a dimension above the limit",
    [ALIGN] = "ALIGN: the alignment is not 1, 2, 4, 8, 16, 32 or 64",
    [PAD] = "PAD: padding is not zero",
    [VALUE] = "VALUE: a value that is not allowed here",
    [HANDLE] = "HANDLE: no such device block, or not as described",
    [STALE] = "STALE: the handle's block was freed",
    [DEPTH] = "DEPTH: nested more than 64 deep",
    [LIMIT] = "LIMIT: more than 512 values, or a name that is empty or over 255 bytes",
    [DUPLICATE] = "DUPLICATE: two children of one name",
    [UTF8] = "UTF8: a name that is not UTF-8, or contains NUL",
    [CHECKSUM] = "CHECKSUM: the checksum is wrong",
  };
  int size = snprintf(refusal->text, sizeof refusal->text, "%s", words[code]);
  if (unit) {
    snprintf(refusal->text + size, sizeof refusal->text - (size_t)size, " (%s %lld)", unit, (long long)place);
  }
  return false;
}

/* --- types ------------------------------------------------------------------------------------------------------ */

static const uint8_t sizes[] = {0, 4, 8, 4, 8, 1, 1, 2, 1, 2, 4, 8, 2, 8, 16};

enum { BOTH = 1 << 1 | 1 << 2, ONLY_2 = 1 << 2 };

#define SCALAR_OF(dtype, size) {SCALAR, BOTH, dtype, 0, 1 << dtype, 1 << 0, size}
#define ARRAY_OF(dtype, ndim) {ARRAY, BOTH, dtype, ndim, 1 << dtype, 1 << ndim, 0}
#define NO_ELEMENTS(kind, size) {kind, BOTH, 0, 0, 1 << 0, 1 << 0, size}

static const wire_marker markers[] = {
  [0x01] = SCALAR_OF(1, 4), SCALAR_OF(2, 8), SCALAR_OF(3, 4), SCALAR_OF(4, 8), SCALAR_OF(5, 1),
  [0x10] = ARRAY_OF(1, 1), ARRAY_OF(2, 1), ARRAY_OF(3, 1), ARRAY_OF(4, 1),
  [0x20] = ARRAY_OF(1, 2), ARRAY_OF(2, 2), ARRAY_OF(1, 3), ARRAY_OF(2, 3),
  [0x30] = NO_ELEMENTS(DEVICE, 20), NO_ELEMENTS(DEVICE, 28),
  [0x40] = NO_ELEMENTS(RECORD, 0), NO_ELEMENTS(RECORD, 0), NO_ELEMENTS(RECORD, 0),
  [0x50] = {ARRAY, BOTH, 14, 1, 1 << 13 | 1 << 14, 1 << 1, 0},
  [0x60] = {ARRAY, ONLY_2, 0, 0, 0x7FFE, 0x1F, 0},
};

const wire_marker *wire_marker_of(int64_t code) {
  bool is_known = code >= 0 && code < (int64_t)(sizeof markers / sizeof *markers);
  return &markers[is_known ? code : UNKNOWN];
}

bool wire_has(unsigned set, int64_t member) { return member >= 0 && member < 16 && (set >> member & 1); }

bool wire_is_dtype(uint64_t code) { return code - 1 < sizeof sizes - 1; }

int64_t wire_size_of(int64_t dtype) { return sizes[dtype]; }

bool wire_is_alignment(int64_t number) { return number >= 1 && number <= 64 && (number & (number - 1)) == 0; }

int64_t wire_extent(int64_t dtype, int64_t ndim, const int64_t *shape) {
  int64_t size = sizes[dtype];
  bool is_empty = false;
  for (int64_t axis = 0; axis < ndim; axis++) {
    is_empty |= shape[axis] == 0;
    if (shape[axis] > 0 && __builtin_mul_overflow(size, shape[axis], &size)) {
      return -1;
    }
  }
  return is_empty ? 0 : size;
}

/* --- headers ---------------------------------------------------------------------------------------------------- */

const wire_format *wire_format_of(int64_t dialect, int64_t version) {
  static const wire_format version2 = {
    2, 8, 0, false, offsetof(wire_header, marker), offsetof(wire_header, shape), offsetof(wire_header, payload),
    INT64_C(1) << 40, UINT64_C(1) << 63};
  static const wire_format dialects[] = {
    {1, 4, 0, false, 1, 2, 2, INT32_MAX, UINT64_C(1) << 32},
    {1, 4, 0, true, 1, 2, 2, INT32_MAX, UINT64_C(1) << 32},
    {1, 8, 0, false, 1, 2, 2, INT64_C(1) << 40, UINT64_C(1) << 63},
    {1, 8, 1, false, 1, 2, 2, INT64_C(1) << 40, UINT64_C(1) << 63},
  };
  return version == 2 ? &version2 : &dialects[dialect];
}

int64_t wire_header_size(const wire_format *format, const wire_marker *marker, int64_t ndim) {
  if (format->version == 2) {
    return sizeof(wire_header);
  }
  switch (marker->kind) {
  case ARRAY:
    return format->shape_at + ndim * format->word + format->is_aligned;
  case RECORD:
    return format->size_at + format->word;
  default:
    return format->shape_at;
  }
}

uint64_t wire_checksum(const void *header, const uint8_t *payload, int64_t size) {
  return xxh3_64(payload, (size_t)size) ^ xxh3_64(header, offsetof(wire_header, checksum));
}

/* --- records ---------------------------------------------------------------------------------------------------- */

const wire_role wire_anything = {NULL, -1, 0, 255, 0, 0};

/* The children: first the fixed ones, then whole groups, or any others. */
static const struct {
  int fixed, group;
  wire_role roles[3];
} records[] = {
  {0, 3, {{"weights", 0, 0x20, 0x21, 0, 0}, {"bias", 0, 0x10, 0x11, 0, 0}, {"activation", 0, 3, 3, 5, 0}}},
  {0, 2, {{"shape", 0, 0x13, 0x13, 0, 0}, {"dtype", 0, 3, 3, 15, 0}}},
  {2, 0, {{"grid", -1, 0x12, 0x12, 0, 3}, {"block", -1, 0x12, 0x12, 0, 3}}},
};

bool wire_accepts(int64_t marker, int64_t count) {
  int fixed = records[marker - 0x40].fixed, group = records[marker - 0x40].group;
  return count >= fixed && (group == 0 || (count - fixed) % group == 0);
}

wire_role wire_role_of(int64_t marker, int64_t index) {
  int fixed = records[marker - 0x40].fixed, group = records[marker - 0x40].group;
  const wire_role *roles = records[marker - 0x40].roles;
  if (index < fixed) {
    return roles[index];
  }
  if (group == 0) {
    return wire_anything;
  }
  wire_role role = roles[fixed + (index - fixed) % group];
  role.number = (index - fixed) / group;
  return role;
}

bool wire_is_named(const wire_role *role, const uint8_t *name, int64_t size) {
  char number[24] = "";
  if (!role->name) {
    return true;
  }
  int before = role->number < 0 ? 0 : snprintf(number, sizeof number, "%d.", (int)role->number);
  return size == before + (int64_t)strlen(role->name) && memcmp(name, number, (size_t)before) == 0 &&
         memcmp(name + before, role->name, strlen(role->name)) == 0;
}

bool wire_fits(const wire_role *role, const wire_node *node, const uint8_t *bytes) {
  int32_t number = 0;
  if (role->below > 0) {
    memcpy(&number, bytes + node->data_offset, sizeof number);
  }
  return number >= 0 && (role->below == 0 || number < role->below) &&
         (role->length == 0 || node->shape[0] == role->length);
}

/* --- texts and other bytes -------------------------------------------------------------------------------------- */

/* By Unicode's table of well-formed byte sequences: what may come second depends on what comes first. */
bool wire_is_text(const uint8_t *text, int64_t size) {
  for (int64_t at = 0, more; at < size; at += more + 1) {
    uint8_t first = text[at];
    if (first == 0 || (first >= 0x80 && first < 0xC2) || first > 0xF4) {
      return false;
    }
    more = (first >= 0xC2) + (first >= 0xE0) + (first >= 0xF0);
    if (more >= size - at) {
      return false;
    }
    uint8_t least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    uint8_t most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF; /* no surrogates; U+10FFFF is the last */
    for (int64_t i = 1; i <= more; i++, least = 0x80, most = 0xBF) {
      if (text[at + i] < least || text[at + i] > most) {
        return false;
      }
    }
  }
  return true;
}

void wire_snapshot(void *target, const void *source, int64_t size) {
  if (size > 0) {
    memcpy(target, source, (size_t)size);
  }
  atomic_signal_fence(memory_order_acq_rel); /* so that no compiler reads them again instead */
}

int64_t wire_first_above(const uint8_t *bytes, int64_t at, int64_t stop, uint8_t most) {
  for (int64_t size; at < stop; at += size) {
    uint8_t part[64] = {0}, highest = 0;
    size = stop - at < (int64_t)sizeof part ? stop - at : (int64_t)sizeof part;
    wire_snapshot(part, bytes + at, size);
    for (size_t i = 0; i < sizeof part; i++) {
      highest = part[i] > highest ? part[i] : highest;
    }
    for (int64_t i = 0; highest > most && i < size; i++) {
      if (part[i] > most) {
        return at + i;
      }
    }
  }
  return -1;
}
