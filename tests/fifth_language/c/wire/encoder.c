/* A node table and its data to a frame: first measured and checked, then written in one go. The numbers in the comments
 * are those of the checks in docs/wire.md. */
#include <string.h>

#include "format.h"

typedef struct {
  wire_plan *plan;
  wire_refusal *refusal;
} encoder;

static bool refuse(const encoder *e, wire_code code, int64_t row) {
  return wire_refuse(e->refusal, code, "node", row);
}

/* The next row after `child` that names it as its parent; the count of rows: there is none. */
static int64_t next_child(const wire_plan *plan, int64_t parent, int64_t child) {
  do {
    child++;
  } while (child < plan->count && plan->rows[child].parent != parent);
  return child;
}

#define FOR_CHILDREN(child, plan, parent)                                                                              \
  for (int64_t child = next_child(plan, parent, -1); child < (plan)->count; child = next_child(plan, parent, child))

static int64_t header_size(const wire_plan *plan, int64_t row) {
  return wire_header_size(&plan->format, wire_marker_of(plan->rows[row].marker), plan->rows[row].ndim);
}

static int64_t padding_of(const wire_plan *plan, int64_t row) {
  bool is_aligned = plan->format.is_aligned && wire_marker_of(plan->rows[row].marker)->kind == ARRAY;
  return is_aligned ? -plan->lengths[row] & (plan->alignment - 1) : 0;
}

/* Of a row that was measured. */
static uint64_t frame_size(const wire_plan *plan, int64_t row) {
  return (uint64_t)header_size(plan, row) + (uint64_t)plan->lengths[row] + (uint64_t)padding_of(plan, row);
}

/* In version 2 the zeros up to the next multiple of 64. */
static int64_t filling(const wire_plan *plan, int64_t size) {
  return plan->format.version == 1 ? 0 : -size & (FILL - 1);
}

static bool is_within(const wire_plan *plan, int64_t offset, int64_t length) {
  return offset >= 0 && length >= 0 && length <= plan->data_size && offset <= plan->data_size - length;
}

/* --- measuring -------------------------------------------------------------------------------------------------- */

/* 7 to 10. */
static bool check_shape(const encoder *e, int64_t index, const wire_marker *marker) {
  const wire_format *format = &e->plan->format;
  const wire_node *row = &e->plan->rows[index];
  bool is_right = format->version == 1
                    ? row->dtype == marker->dtype && row->ndim == marker->ndim &&
                        row->order == (marker->ndim > 1 ? format->order : 0)
                    : wire_has(marker->dtypes, row->dtype) && wire_has(marker->ndims, row->ndim) && row->order >= 0 &&
                        row->order <= (row->ndim > 1);
  for (int64_t axis = 0; is_right && axis < 4; axis++) {
    is_right = axis < row->ndim || row->shape[axis] == 0;
    if (is_right && (row->shape[axis] < 0 || row->shape[axis] > format->most_dimension)) {
      return refuse(e, DIM, index);
    }
  }
  is_right = is_right && (row->count == 0 || marker->kind == RECORD) && (index > 0 || row->name_length == 0);
  return is_right || refuse(e, VALUE, index);
}

/* 13. */
static bool check_payload(const encoder *e, int64_t index) {
  const wire_node *row = &e->plan->rows[index];
  const uint8_t *data = e->plan->data;
  if (row->dtype == BOOL && wire_first_above(data, row->data_offset, row->data_offset + row->data_length, 1) >= 0) {
    return refuse(e, VALUE, index);
  }
  if (row->marker == TEXTURE) {
    wire_texture texture;
    wire_snapshot(&texture, data + row->data_offset, row->data_length);
    return wire_is_dtype(texture.dtype) || refuse(e, VALUE, index);
  }
  return true;
}

/* 16. */
static bool check_name(const encoder *e, int64_t child, const wire_role *role) {
  const wire_plan *plan = e->plan;
  const wire_node *row = &plan->rows[child];
  if (row->name_length < 1 || row->name_length > MOST_NAME) {
    return refuse(e, LIMIT, child);
  }
  if (!is_within(plan, row->name_offset, row->name_length)) {
    return refuse(e, LENGTH, child);
  }
  const uint8_t *name = plan->data + row->name_offset;
  if (!wire_is_text(name, row->name_length)) {
    return refuse(e, UTF8, child);
  }
  for (int64_t other = next_child(plan, row->parent, -1); other < child; other = next_child(plan, row->parent, other)) {
    const wire_node *before = &plan->rows[other];
    if (before->name_length == row->name_length &&
        memcmp(plan->data + before->name_offset, name, (size_t)row->name_length) == 0) {
      return refuse(e, DUPLICATE, child);
    }
  }
  return wire_is_named(role, name, row->name_length) || refuse(e, VALUE, child);
}

static bool measure_frame(const encoder *e, int64_t index, int64_t depth, const wire_role *role, int64_t *next);

/* 14 to 19. */
static bool measure_record(const encoder *e, int64_t index, int64_t depth, int64_t *next) {
  wire_plan *plan = e->plan;
  const wire_node *row = &plan->rows[index];
  int64_t count = 0, length = 4 + row->data_length, place = 0;
  FOR_CHILDREN(child, plan, index) { count++; }
  if (row->count != count) {
    return refuse(e, LENGTH, index);
  }
  if (!wire_accepts(row->marker, count)) {
    return refuse(e, VALUE, index);
  }
  if (row->data_length > MOST_NAME) {
    return refuse(e, LIMIT, index);
  }
  if (!wire_is_text(plan->data + row->data_offset, row->data_length)) {
    return refuse(e, UTF8, index);
  }
  FOR_CHILDREN(child, plan, index) {
    wire_role role = wire_role_of(row->marker, place++);
    if (!check_name(e, child, &role)) {
      return false;
    }
    length += 2 + plan->rows[child].name_length;
  }
  length += filling(plan, length);
  place = 0;
  *next = index + 1;
  FOR_CHILDREN(child, plan, index) {
    wire_role role = wire_role_of(row->marker, place++);
    if (child != *next) {
      return refuse(e, VALUE, child);
    }
    if (!measure_frame(e, child, depth + 1, &role, next)) {
      return false;
    }
    if (!wire_fits(&role, &plan->rows[child], plan->data)) {
      return refuse(e, VALUE, child);
    }
    int64_t size = (int64_t)frame_size(plan, child);
    length += size + filling(plan, size);
  }
  plan->lengths[index] = length;
  return frame_size(plan, index) < plan->format.frame_end || refuse(e, OVERFLOW, index);
}

/* Check a row and those of its children, and measure them; `next` is the row after them. */
static bool measure_frame(const encoder *e, int64_t index, int64_t depth, const wire_role *role, int64_t *next) {
  wire_plan *plan = e->plan;
  const wire_node *row = &plan->rows[index];
  const wire_marker *marker = wire_marker_of(row->marker);
  if (depth > MOST_DEPTH) {
    return refuse(e, DEPTH, index);
  }
  if (index == 0 && row->parent != -1) {
    return refuse(e, VALUE, index);
  }
  if (!wire_has(marker->versions, plan->format.version) || row->marker < role->first || row->marker > role->last) {
    return refuse(e, MARKER, index);
  }
  if (!check_shape(e, index, marker)) {
    return false;
  }
  plan->lengths[index] = marker->kind == ARRAY ? wire_extent(row->dtype, row->ndim, row->shape) : marker->size;
  if (plan->lengths[index] < 0 || frame_size(plan, index) >= plan->format.frame_end) {
    return refuse(e, OVERFLOW, index);
  }
  if (!is_within(plan, row->data_offset, row->data_length)) {
    return refuse(e, LENGTH, index);
  }
  if (marker->kind == RECORD) {
    return measure_record(e, index, depth, next);
  }
  *next = index + 1;
  return row->data_length == plan->lengths[index] ? check_payload(e, index) : refuse(e, LENGTH, index);
}

/* 1 to 4. */
static bool check_arguments(int64_t rows, int64_t dialect, int64_t version, int64_t alignment, wire_refusal *refusal) {
  if (version < 1 || version > 2) {
    return wire_refuse(refusal, VERSION, NULL, 0);
  }
  if (dialect < 0 || dialect > 3) {
    return wire_refuse(refusal, VALUE, NULL, 0);
  }
  if (!wire_is_alignment(alignment)) {
    return wire_refuse(refusal, ALIGN, NULL, 0);
  }
  return (rows > 0 || wire_refuse(refusal, SHORT, NULL, 0)) &&
         (rows <= WIRE_MOST_NODES || wire_refuse(refusal, LIMIT, NULL, 0));
}

int wire_measure(wire_plan *plan, const int64_t *nodes, int64_t rows, const uint8_t *data, int64_t data_size,
                 int64_t dialect, int64_t version, int64_t alignment, bool checksum, wire_refusal *refusal) {
  encoder e = {plan, refusal};
  int64_t next;
  if (!check_arguments(rows, dialect, version, alignment, refusal)) {
    return -1;
  }
  plan->format = *wire_format_of(dialect, version);
  plan->data = data;
  plan->data_size = data_size;
  plan->alignment = alignment;
  plan->count = rows;
  plan->has_checksum = checksum && version == 2;
  wire_snapshot(plan->rows, nodes, rows * (int64_t)sizeof(wire_node));
  if (!measure_frame(&e, 0, 1, &wire_anything, &next)) {
    return -1;
  }
  if (next < rows) {
    refuse(&e, TRAILING, next);
    return -1;
  }
  plan->lead = -header_size(plan, 0) & (FILL - 1);
  plan->size = (int64_t)frame_size(plan, 0);
  return 0;
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

/* Each of these returns where it ended. */

static uint8_t *put(uint8_t *at, const void *source, int64_t size) {
  if (size > 0) {
    memcpy(at, source, (size_t)size);
  }
  return at + size;
}

static uint8_t *put_zeros(uint8_t *at, int64_t count) {
  memset(at, 0, (size_t)count);
  return at + count;
}

/* Where the length goes before the text. */
static uint8_t *put_text(uint8_t *at, const uint8_t *text, int64_t size) {
  return put(put(at, &(uint16_t){(uint16_t)size}, sizeof(uint16_t)), text, size);
}

static uint8_t *put_header(const wire_plan *plan, int64_t index, uint8_t *at) {
  const wire_format *format = &plan->format;
  const wire_node *row = &plan->rows[index];
  wire_header header = {.magic = MAGIC, .version = (uint8_t)format->version, .marker = (uint8_t)row->marker,
                        .dtype = (uint8_t)row->dtype, .ndim = (uint8_t)row->ndim, .order = (uint8_t)row->order,
                        .flags = plan->has_checksum && index == 0, .payload = (uint64_t)plan->lengths[index]};
  memcpy(header.shape, row->shape, sizeof header.shape);
  if (format->version == 2) {
    return put(at, &header, sizeof header);
  }
  at = put(at, &header.version, 2);
  wire_kind kind = wire_marker_of(row->marker)->kind;
  for (int64_t axis = 0; axis < row->ndim; axis++) {
    at = put(at, &header.shape[axis], format->word);
  }
  if (kind == RECORD) {
    at = put(at, &header.payload, format->word);
  }
  return kind == ARRAY && format->is_aligned ? put(at, &(uint8_t){(uint8_t)plan->alignment}, 1) : at;
}

static uint8_t *put_frame(const wire_plan *plan, int64_t index, uint8_t *at);

static uint8_t *put_record(const wire_plan *plan, int64_t index, uint8_t *start) {
  const wire_node *row = &plan->rows[index];
  uint8_t *at = put(start, &(uint16_t){(uint16_t)row->count}, sizeof(uint16_t));
  at = put_text(at, plan->data + row->data_offset, row->data_length);
  FOR_CHILDREN(child, plan, index) {
    at = put_text(at, plan->data + plan->rows[child].name_offset, plan->rows[child].name_length);
  }
  at = put_zeros(at, filling(plan, at - start));
  FOR_CHILDREN(child, plan, index) {
    at = put_frame(plan, child, at);
    at = put_zeros(at, filling(plan, at - start));
  }
  return at;
}

static uint8_t *put_frame(const wire_plan *plan, int64_t index, uint8_t *at) {
  const wire_node *row = &plan->rows[index];
  at = put_header(plan, index, at);
  if (wire_marker_of(row->marker)->kind == RECORD) {
    return put_record(plan, index, at);
  }
  at = put(at, plan->data + row->data_offset, row->data_length);
  return put_zeros(at, padding_of(plan, index));
}

void wire_write(const wire_plan *plan, uint8_t *target) {
  uint8_t *frame = put_zeros(target, plan->lead);
  put_frame(plan, 0, frame);
  if (plan->has_checksum) {
    const uint8_t *payload = frame + sizeof(wire_header);
    uint64_t sum = wire_checksum(frame, payload, plan->size - (int64_t)sizeof(wire_header));
    memcpy(frame + offsetof(wire_header, checksum), &sum, sizeof sum);
  }
}
