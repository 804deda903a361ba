/* A frame to its node table. The numbers in the comments are those of the checks in docs/wire.md. */
#include <string.h>

#include "format.h"

/* A name's place in the frame. */
typedef struct {
  int64_t at, size;
} span;

/* The table so far, and what else it takes. */
typedef struct {
  const wire_format *format;
  const uint8_t *frame;
  const int64_t *live;
  int64_t live_rows;
  wire_refusal *refusal;
  wire_node *rows;
  int64_t count;                              /* of rows */
  int64_t announced;                          /* the root and the children of all records so far */
  span names[WIRE_MOST_NODES];                /* of all of them */
  uint8_t copies[WIRE_MOST_NODES][MOST_NAME]; /* of the names of one record, to compare */
} decoder;

/* Where a frame is, and what its record says of it. */
typedef struct {
  int64_t start, stop, depth, parent;
  span name;
  wire_role role;
} place;

/* A header that was checked, filled up with what the format says of fields it doesn't have. */
typedef struct {
  wire_header fields;
  const wire_marker *marker;
  int64_t size; /* its own */
  int64_t padding;
  uint8_t alignment; /* 1 where the format has none */
} header;

static bool refuse(decoder *d, wire_code code, int64_t at) { return wire_refuse(d->refusal, code, "byte", at); }

/* --- headers ---------------------------------------------------------------------------------------------------- */

/* What only version 2 has: 6. */
static bool check_fields(decoder *d, const place *where, const header *h) {
  static const uint8_t zeros[sizeof h->fields.reserved];
  const wire_header *it = &h->fields;
  size_t wrong = !wire_has(h->marker->dtypes, it->dtype)     ? offsetof(wire_header, dtype)
                 : !wire_has(h->marker->ndims, it->ndim)     ? offsetof(wire_header, ndim)
                 : it->order > (it->ndim > 1)                ? offsetof(wire_header, order)
                 : it->flags > (where->depth == 1)           ? offsetof(wire_header, flags)
                 : memcmp(it->reserved, zeros, sizeof zeros) ? offsetof(wire_header, reserved)
                                                             : 0;
  return wrong == 0 || refuse(d, VALUE, where->start + (int64_t)wrong);
}

static uint64_t word_at(const wire_format *format, const uint8_t *image, int64_t at) {
  uint64_t word = 0;
  memcpy(&word, image + at, (size_t)format->word);
  return word;
}

/* 2 to 6. */
static bool read_header(decoder *d, const place *where, header *h) {
  const wire_format *format = d->format;
  int64_t start = where->start, there = where->stop - start;
  wire_code cut = where->depth == 1 ? SHORT : LENGTH;
  uint8_t image[sizeof(wire_header)] = {0};
  if (wire_header_size(format, wire_marker_of(UNKNOWN), 0) > there) {
    return refuse(d, cut, where->stop);
  }
  wire_snapshot(image, d->frame + start, there < (int64_t)sizeof image ? there : (int64_t)sizeof image);
  if (format->version == 2) {
    memcpy(&h->fields, image, sizeof image);
    if (h->fields.magic != MAGIC) {
      return refuse(d, VERSION, start);
    }
  } else {
    h->fields = (wire_header){.version = image[0], .marker = image[1]};
  }
  if (h->fields.version != format->version) {
    return refuse(d, VERSION, start + format->marker_at - 1);
  }
  const wire_marker *marker = h->marker = wire_marker_of(h->fields.marker);
  if (!wire_has(marker->versions, format->version) || h->fields.marker < where->role.first ||
      h->fields.marker > where->role.last) {
    return refuse(d, MARKER, start + format->marker_at);
  }
  h->size = wire_header_size(format, marker, marker->ndim);
  h->alignment = format->is_aligned && marker->kind == ARRAY ? image[h->size - 1] : 1;
  if (format->version == 2) {
    return check_fields(d, where, h);
  }
  if (h->size + marker->size > there) {
    return refuse(d, cut, where->stop);
  }
  h->fields.dtype = marker->dtype;
  h->fields.ndim = marker->ndim;
  h->fields.order = marker->ndim > 1 ? (uint8_t)format->order : 0;
  for (int axis = 0; axis < marker->ndim; axis++) {
    h->fields.shape[axis] = word_at(format, image, format->shape_at + axis * format->word);
  }
  h->fields.payload = marker->kind == RECORD ? word_at(format, image, format->size_at) : 0;
  return true;
}

/* 7 to 11: the payload's length and that of its padding. */
static bool measure(decoder *d, const place *where, header *h) {
  const wire_format *format = d->format;
  wire_header *it = &h->fields;
  int64_t shape[4], length = h->marker->size;
  for (int axis = 0; axis < 4; axis++) {
    int64_t at = where->start + format->shape_at + axis * format->word;
    if (axis >= it->ndim && it->shape[axis] != 0) {
      return refuse(d, VALUE, at);
    }
    if (it->shape[axis] > (uint64_t)format->most_dimension) {
      return refuse(d, DIM, at);
    }
    shape[axis] = (int64_t)it->shape[axis];
  }
  h->padding = 0;
  if (h->marker->kind == ARRAY) {
    if (!wire_is_alignment(h->alignment)) {
      return refuse(d, ALIGN, where->start + h->size - 1);
    }
    length = wire_extent(it->dtype, it->ndim, shape);
    if (length < 0) {
      return refuse(d, OVERFLOW, where->start + format->shape_at);
    }
    h->padding = -length & (h->alignment - 1);
  }
  if (format->version == 1 && h->marker->kind != RECORD) {
    it->payload = (uint64_t)length;
  }
  /* The first comparison keeps the sum of the second from wrapping. */
  if (it->payload >= format->frame_end ||
      it->payload + (uint64_t)(h->size + h->padding) >= format->frame_end) {
    return refuse(d, OVERFLOW, where->start + format->size_at);
  }
  return h->marker->kind == RECORD || it->payload == (uint64_t)length ||
         refuse(d, LENGTH, where->start + format->size_at);
}

/* 12 to 14. */
static bool check_payload(decoder *d, const place *where, const header *h) {
  const wire_header *it = &h->fields;
  int64_t body = where->start + h->size, length = (int64_t)it->payload;
  if (length > where->stop - body || h->padding > where->stop - body - length) {
    return refuse(d, LENGTH, where->start + d->format->size_at);
  }
  if (where->depth == 1 && body + length + h->padding < where->stop) {
    return refuse(d, TRAILING, body + length + h->padding);
  }
  int64_t checksum = where->start + (int64_t)offsetof(wire_header, checksum);
  if (d->format->version == 1 || it->flags == 0) {
    return it->checksum == 0 || refuse(d, VALUE, checksum);
  }
  return it->checksum == wire_checksum(it, d->frame + body, length) || refuse(d, CHECKSUM, checksum);
}

/* --- payloads --------------------------------------------------------------------------------------------------- */

static bool check_zeros(decoder *d, int64_t at, int64_t stop) {
  int64_t wrong = wire_first_above(d->frame, at, stop, 0);
  return wrong < 0 || refuse(d, PAD, wrong);
}

/* 16. */
static bool check_booleans(decoder *d, int64_t at, int64_t stop) {
  int64_t wrong = wire_first_above(d->frame, at, stop, 1);
  return wrong < 0 || refuse(d, VALUE, wrong);
}

/* 17 to 20. */
static bool check_device(decoder *d, int64_t at, const header *h) {
  __extension__ unsigned __int128 used;
  wire_buffer buffer;
  wire_texture texture;
  if (h->fields.marker == TEXTURE) {
    wire_snapshot(&texture, d->frame + at, h->marker->size);
    if (!wire_is_dtype(texture.dtype)) {
      return refuse(d, VALUE, at + (int64_t)offsetof(wire_texture, dtype));
    }
    used = (uint64_t)texture.height * texture.width;
    used *= (uint64_t)texture.channels * (uint64_t)wire_size_of(texture.dtype);
    buffer = (wire_buffer){.handle = texture.handle, .device = texture.device};
  } else {
    wire_snapshot(&buffer, d->frame + at, h->marker->size);
    used = buffer.size;
  }
  int64_t slot = (int64_t)(buffer.handle & UINT32_MAX), generation = (int64_t)(buffer.handle >> 32);
  for (const int64_t *row = d->live; row < d->live + d->live_rows * WIRE_LIVE_COLUMNS; row += WIRE_LIVE_COLUMNS) {
    if (row[0] == slot) {
      if (generation == 0 || generation != row[1]) {
        return refuse(d, STALE, at);
      }
      return (row[2] >= 0 && used <= (uint64_t)row[2] && buffer.device == row[3]) || refuse(d, HANDLE, at);
    }
  }
  return refuse(d, HANDLE, at);
}

static int64_t number16(const decoder *d, int64_t at) {
  uint16_t number;
  wire_snapshot(&number, d->frame + at, sizeof number);
  return number;
}

/* 33, 36: go on to the next multiple of 64 bytes from `start` on, in version 2. */
static bool fill(decoder *d, int64_t start, int64_t stop, int64_t *at) {
  int64_t begin = *at;
  if (d->format->version == 1) {
    return true;
  }
  *at += (start - begin) & (FILL - 1);
  return *at > stop ? refuse(d, LENGTH, begin) : check_zeros(d, begin, *at);
}

/* 24 to 26, 28 to 30: a title or name, its length first; copied. */
static bool take_text(decoder *d, uint8_t *copy, int64_t stop, int64_t least, int64_t *at, span *text) {
  *text = (span){*at + 2, number16(d, *at)};
  if (text->size < least || text->size > MOST_NAME) {
    return refuse(d, LIMIT, *at);
  }
  if (text->at + text->size > stop) {
    return refuse(d, LENGTH, *at);
  }
  wire_snapshot(copy, d->frame + text->at, text->size);
  *at = text->at + text->size;
  return wire_is_text(copy, text->size) || refuse(d, UTF8, text->at);
}

/* 27 to 32: the names of a record's children. */
static bool take_names(decoder *d, int64_t marker, span *names, int64_t count, int64_t stop, int64_t *at) {
  for (int64_t child = 0; child < count; child++) {
    const uint8_t *copy = d->copies[child];
    span *name = &names[child];
    wire_role role = wire_role_of(marker, child);
    if (*at + 2 > stop) {
      return refuse(d, LENGTH, stop);
    }
    if (!take_text(d, d->copies[child], stop, 1, at, name)) {
      return false;
    }
    for (int64_t other = 0; other < child; other++) {
      if (names[other].size == name->size && memcmp(d->copies[other], copy, (size_t)name->size) == 0) {
        return refuse(d, DUPLICATE, name->at);
      }
    }
    if (!wire_is_named(&role, copy, name->size)) {
      return refuse(d, VALUE, name->at);
    }
  }
  return true;
}

static bool take_frame(decoder *d, const place *where, int64_t *end);

/* 21 to 37. */
static bool take_record(decoder *d, int64_t row, int64_t start, int64_t stop, int64_t depth) {
  wire_node *record = &d->rows[row];
  if (start + 4 > stop) {
    return refuse(d, LENGTH, stop);
  }
  int64_t count = number16(d, start), at = start + 2;
  span title, *names = d->names + d->announced;
  if (d->announced + count > WIRE_MOST_NODES) {
    return refuse(d, LIMIT, start);
  }
  if (!wire_accepts(record->marker, count)) {
    return refuse(d, VALUE, start);
  }
  d->announced += count;
  if (!take_text(d, d->copies[0], stop, 0, &at, &title) || !take_names(d, record->marker, names, count, stop, &at) ||
      !fill(d, start, stop, &at)) {
    return false;
  }
  record->data_offset = title.at;
  record->data_length = title.size;
  record->count = count;
  for (int64_t child = 0; child < count; child++) {
    place where = {at, stop, depth + 1, row, names[child], wire_role_of(record->marker, child)};
    const wire_node *node = &d->rows[d->count];
    if (!take_frame(d, &where, &at)) {
      return false;
    }
    if (!wire_fits(&where.role, node, d->frame)) {
      return refuse(d, VALUE, where.start);
    }
    if (!fill(d, where.start, stop, &at)) {
      return false;
    }
  }
  return at == stop || refuse(d, LENGTH, at);
}

/* A frame with all that is in it, and where it ends. */
static bool take_frame(decoder *d, const place *where, int64_t *end) {
  header h;
  if (where->depth > MOST_DEPTH) {
    return refuse(d, DEPTH, where->start);
  }
  if (!read_header(d, where, &h) || !measure(d, where, &h) || !check_payload(d, where, &h)) {
    return false;
  }
  const wire_header *it = &h.fields;
  int64_t body = where->start + h.size, length = (int64_t)it->payload, row = d->count++;
  *end = body + length + h.padding;
  d->rows[row] = (wire_node){
    it->marker, it->dtype, it->ndim, {0}, it->order, body, length, where->name.at, where->name.size, where->parent, 0};
  memcpy(d->rows[row].shape, it->shape, sizeof it->shape);
  switch (h.marker->kind) {
  case RECORD:
    return take_record(d, row, body, *end, where->depth);
  case DEVICE:
    return check_device(d, body, &h);
  default:
    return check_zeros(d, body + length, *end) && (it->dtype != BOOL || check_booleans(d, body, body + length));
  }
}

/* --- all of it -------------------------------------------------------------------------------------------------- */

/* What the frame says itself. */
static bool own_version(const uint8_t *frame, int64_t size, wire_refusal *refusal, int64_t *version) {
  uint8_t first = 0;
  wire_snapshot(&first, frame, size > 0);
  if (first != 1 && first != (MAGIC & 0xFF)) {
    return size < 2 ? wire_refuse(refusal, SHORT, "byte", size) : wire_refuse(refusal, VERSION, "byte", 0);
  }
  *version = first == 1 ? 1 : 2;
  return true;
}

int64_t wire_decode(const uint8_t *frame, int64_t size, int64_t dialect, int64_t version, const int64_t *live,
                    int64_t live_rows, int64_t *nodes, wire_refusal *refusal) {
  decoder d; /* too large to be cleared */
  int64_t end;
  if (version < 0 || version > 2) {
    wire_refuse(refusal, VERSION, NULL, 0);
    return -1;
  }
  if (dialect < 0 || dialect > 3) {
    wire_refuse(refusal, VALUE, NULL, 0);
    return -1;
  }
  if (version == 0 && !own_version(frame, size, refusal, &version)) {
    return -1;
  }
  d.format = wire_format_of(dialect, version);
  d.frame = frame;
  d.live = live;
  d.live_rows = live_rows;
  d.refusal = refusal;
  d.rows = (wire_node *)nodes;
  d.count = 0;
  d.announced = 1;
  place all = {0, size, 1, -1, {0, 0}, wire_anything};
  return take_frame(&d, &all, &end) ? d.count : -1;
}
