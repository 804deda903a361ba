/* From the caller's values to a function's arguments, or to an error, in the order and the words of docs/abi.md. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sdk.h"

enum { TVM_HEADER = 24 }; /* bytes of a TVM object before its payload */

/* --- what came, in words --- */

typedef struct {
  char text[2048]; /* what NumPy's 64 axes need */
  size_t size;
} spelled;

__attribute__((format(printf, 2, 3))) static void append(spelled *to, const char *format, ...) {
  va_list values;
  va_start(values, format);
  int size = vsnprintf(to->text + to->size, sizeof to->text - to->size, format, values);
  va_end(values);
  to->size = size < (int)(sizeof to->text - to->size) ? to->size + (size_t)size : sizeof to->text - 1;
}

static spelled list(const int64_t *numbers, int32_t count) {
  spelled it = {"[", 1};
  for (int32_t i = 0; i < count; i++) {
    append(&it, "%s%lld", i > 0 ? "," : "", (long long)numbers[i]);
  }
  append(&it, "]");
  return it;
}

static const void *payload(const nif_any *arg, int32_t plain) {
  return (const char *)arg->v.p + (arg->type_index == plain ? 0 : TVM_HEADER);
}

static const nif_tensor *tensor_of(const nif_any *arg) {
  return arg->type_index == NIF_TENSOR || arg->type_index == NIF_TVM_TENSOR ? payload(arg, NIF_TENSOR) : NULL;
}

static bool is_str(int32_t type) { return type == NIF_STR || type == NIF_TVM_SMALL_STR || type == NIF_TVM_STR; }

static bool is_bytes(int32_t type) { return type == NIF_BYTES || type == NIF_TVM_SMALL_BYTES || type == NIF_TVM_BYTES; }

static const char *scalar_name(int32_t type) {
  static const char *const names[] = {
    [NIF_NONE] = "None", [NIF_INT] = "i64", [NIF_BOOL] = "bool", [NIF_FLOAT] = "f64", [NIF_DTYPE] = "dtype",
    [NIF_DEVICE] = "device",
  };
  bool is_named = type >= 0 && type < (int32_t)(sizeof names / sizeof names[0]) && names[type];
  return is_str(type) ? "str" : is_bytes(type) ? "bytes" : is_named ? names[type] : "object";
}

static spelled describe(const nif_any *arg) {
  spelled it = {"", 0};
  const nif_tensor *tensor = tensor_of(arg);
  if (!tensor) {
    append(&it, "%s", scalar_name(arg->type_index));
    return it;
  }
  const char *element = nif_element_name(tensor->dtype);
  if (element) {
    append(&it, "%s", element);
  } else {
    append(&it, "%d/%d/%d", tensor->dtype.code, tensor->dtype.bits, tensor->dtype.lanes);
  }
  append(&it, "%s", list(tensor->shape, tensor->ndim).text);
  return it;
}

/* --- one argument --- */

/* One argument on its way from what came to what the function takes. */
typedef struct {
  int32_t index;
  const parameter *parameter;
  const nif_any *arg;
  nif_argument *taken;
} item;

static bool refuse_type(item it, int32_t kind) {
  word type = it.parameter->type;
  nif_report(kind, it.index, "expected %.*s, got %s", type.size, type.text, describe(it.arg).text);
  return false;
}

static bool refuse(item it, const char *text) {
  nif_report(NIF_VALUE_ERROR, it.index, "%s", text);
  return false;
}

/* Text and bytes; small ones lie in the argument itself. */
static nif_text text_of(const nif_any *arg) {
  if (arg->type_index == NIF_STR) {
    return (nif_text){arg->v.p, (int64_t)strlen(arg->v.p)};
  }
  if (arg->type_index == NIF_TVM_SMALL_STR || arg->type_index == NIF_TVM_SMALL_BYTES) {
    return (nif_text){arg->v.small, arg->zero};
  }
  const nif_bytes *record = payload(arg, NIF_BYTES);
  return (nif_text){record->data, (int64_t)record->size};
}

static bool take_bytes(item it) {
  nif_text bytes = text_of(it.arg);
  if (!bytes.data && bytes.size > 0) {
    return refuse(it, "has no data");
  }
  nif_array *any = &it.taken->any;
  *any = (nif_array){(const uint8_t *)bytes.data, bytes.size, {NIF_DTYPE_UINT, 8, 1}, 1, &any->size};
  return true;
}

bool nif_next_text(nif_texts *texts, nif_text *text) {
  uint64_t size;
  if (texts->size < (int64_t)sizeof size) {
    return false;
  }
  memcpy(&size, texts->data, sizeof size);
  if (size > (uint64_t)texts->size - sizeof size) {
    return false;
  }
  *text = (nif_text){texts->data + sizeof size, (int64_t)size};
  texts->data = text->data + size;
  texts->size -= (int64_t)(sizeof size + size);
  return true;
}

/* A list of texts is the bytes of all of them, each behind its size. */
static bool take_texts(item it) {
  nif_text bytes = text_of(it.arg), text;
  nif_texts rest = {bytes.data, bytes.size, 0};
  int64_t count = 0;
  while (nif_next_text(&rest, &text)) {
    count++;
  }
  if (rest.size > 0) {
    return refuse(it, "has a text that is cut off");
  }
  it.taken->texts = (nif_texts){bytes.data, bytes.size, count};
  return true;
}

/* Row-major without gaps; an axis of length 1 may have any stride. */
static bool is_contiguous(const nif_tensor *tensor) {
  uint64_t expected = 1;
  for (int32_t axis = tensor->ndim - 1; tensor->strides && axis >= 0; axis--) {
    if (tensor->shape[axis] != 1 && (uint64_t)tensor->strides[axis] != expected) {
      return false;
    }
    expected *= (uint64_t)tensor->shape[axis];
  }
  return true;
}

static bool is_empty(const nif_tensor *tensor) {
  for (int32_t axis = 0; axis < tensor->ndim; axis++) {
    if (tensor->shape[axis] == 0) {
      return true;
    }
  }
  return false;
}

static void span(nif_argument *taken, const nif_tensor *tensor, uintptr_t address, uintptr_t element) {
  taken->first = address;
  taken->end = address + element;
  uintptr_t row_major = element; /* a step along an axis, in bytes */
  for (int32_t axis = tensor->ndim - 1; axis >= 0; axis--) {
    uintptr_t steps = (uintptr_t)tensor->shape[axis] - 1;
    if (!tensor->strides || tensor->strides[axis] >= 0) {
      taken->end += steps * (tensor->strides ? (uintptr_t)tensor->strides[axis] * element : row_major);
    } else {
      taken->first -= steps * -(uintptr_t)tensor->strides[axis] * element;
    }
    row_major *= (uintptr_t)tensor->shape[axis];
  }
}

static bool take_array(item it) {
  const parameter *parameter = it.parameter;
  if (parameter->form == ANY && is_bytes(it.arg->type_index)) {
    return take_bytes(it);
  }
  const nif_tensor *tensor = tensor_of(it.arg);
  bool is_ours = tensor && (parameter->form == ANY
                              ? nif_element_name(tensor->dtype) != NULL
                              : memcmp(&tensor->dtype, &parameter->dtype, sizeof(nif_dtype)) == 0);
  if (!is_ours) {
    return refuse_type(it, NIF_TYPE_ERROR);
  }
  if (parameter->form != ANY && tensor->ndim != parameter->ndim) {
    return refuse_type(it, NIF_VALUE_ERROR);
  }
  bool empty = is_empty(tensor);
  if (tensor->device.type != NIF_DEVICE_CPU) {
    return refuse(it, "expected memory of the CPU");
  }
  if (!tensor->data && !empty) {
    return refuse(it, "has no data");
  }
  uintptr_t element = tensor->dtype.bits / 8;
  uintptr_t alignment = tensor->dtype.code == NIF_DTYPE_COMPLEX ? element / 2 : element;
  uintptr_t address = (uintptr_t)tensor->data + tensor->byte_offset;
  if (address % alignment != 0) {
    nif_report(NIF_VALUE_ERROR, it.index, "expected data aligned to %d bytes", (int)alignment);
    return false;
  }
  if (parameter->form != MATRIX && !empty && !is_contiguous(tensor)) {
    nif_report(NIF_VALUE_ERROR, it.index, "expected contiguous memory, got strides %s",
               list(tensor->strides, tensor->ndim).text);
    return false;
  }
  nif_argument *taken = it.taken;
  taken->shape = tensor->shape;
  if (!empty) {
    span(taken, tensor, address, element);
  }
  void *data = (void *)address;
  if (parameter->form == ANY) {
    int64_t size = empty ? 0 : (int64_t)(taken->end - taken->first);
    taken->any = (nif_array){data, size, tensor->dtype, tensor->ndim, tensor->shape};
  } else if (parameter->form == VECTOR) {
    taken->vector = (nif_any_vector){data, tensor->shape[0]};
  } else {
    int64_t columns = tensor->shape[1];
    taken->matrix = (nif_any_matrix){
      data, tensor->shape[0], columns, tensor->strides ? tensor->strides[0] : columns,
      tensor->strides ? tensor->strides[1] : 1,
    };
  }
  return true;
}

static bool take_integer(item it) {
  const parameter *to = it.parameter;
  if (it.arg->v.i >= to->low && it.arg->v.i <= to->high) {
    return true;
  }
  nif_report(NIF_VALUE_ERROR, it.index, "expected %lld to %lld, got %lld", (long long)to->low, (long long)to->high,
             (long long)it.arg->v.i);
  return false;
}

/* A complex number is an array without axes. */
static bool take_complex(item it) {
  const nif_tensor *tensor = tensor_of(it.arg);
  if (tensor->dtype.code != NIF_DTYPE_COMPLEX || !nif_element_name(tensor->dtype)) {
    return refuse_type(it, NIF_TYPE_ERROR);
  }
  if (tensor->ndim != 0) {
    return refuse_type(it, NIF_VALUE_ERROR);
  }
  if (tensor->device.type != NIF_DEVICE_CPU) {
    return refuse(it, "expected memory of the CPU");
  }
  if (!tensor->data) {
    return refuse(it, "has no data");
  }
  uintptr_t alignment = tensor->dtype.bits / 16, address = (uintptr_t)tensor->data + tensor->byte_offset;
  if (address % alignment != 0) {
    nif_report(NIF_VALUE_ERROR, it.index, "expected data aligned to %d bytes", (int)alignment);
    return false;
  }
  it.taken->c128 = tensor->dtype.bits == 64 ? *(const float _Complex *)address : *(const double _Complex *)address;
  return true;
}

/* Rows 2 to 7 of the table in docs/abi.md. */
static bool take_one(item it) {
  int32_t type = it.arg->type_index;
  bool is_whole = type == NIF_INT || type == NIF_BOOL;
  it.taken->is_none = it.parameter->is_optional && type == NIF_NONE;
  if (it.taken->is_none) {
    return true;
  }
  switch (it.parameter->form) {
    case INT:
      it.taken->i64 = it.arg->v.i;
      return is_whole ? take_integer(it) : refuse_type(it, NIF_TYPE_ERROR);
    case FLOAT:
      it.taken->f64 = is_whole ? (double)it.arg->v.i : it.arg->v.f;
      return is_whole || type == NIF_FLOAT || refuse_type(it, NIF_TYPE_ERROR);
    case COMPLEX:
      if (tensor_of(it.arg)) {
        return take_complex(it);
      }
      it.taken->c128 = is_whole ? (double)it.arg->v.i : it.arg->v.f;
      return is_whole || type == NIF_FLOAT || refuse_type(it, NIF_TYPE_ERROR);
    case BOOL:
      it.taken->boolean = it.arg->v.i != 0;
      return type == NIF_BOOL || refuse_type(it, NIF_TYPE_ERROR);
    case CALLBACK:
      it.taken->callback = it.arg->v.p;
      return type == NIF_TVM_FUNCTION || refuse_type(it, NIF_TYPE_ERROR);
    case STR:
    case BYTES:
      if (!(it.parameter->form == STR ? is_str(type) : is_bytes(type))) {
        return refuse_type(it, NIF_TYPE_ERROR);
      }
      it.taken->text = text_of(it.arg);
      return true;
    case TEXTS:
      return is_bytes(type) ? take_texts(it) : refuse_type(it, NIF_TYPE_ERROR);
    default:
      return take_array(it);
  }
}

/* --- all arguments --- */

/* Row 9: a dimension is one number, wherever it stands. */
static bool check_axis(item it, int32_t axis, const parameter *parameters, const nif_argument *taken) {
  tie tie = it.parameter->ties[axis];
  while (tie.parameter >= 0 && tie.axis >= 0 && taken[tie.parameter].is_none) {
    tie = parameters[tie.parameter].ties[tie.axis]; /* an array that isn't there fixes nothing */
  }
  if (tie.parameter < 0 || it.taken->is_none) {
    return true;
  }
  const nif_argument *source = &taken[tie.parameter];
  int64_t expected = tie.axis < 0 ? source->i64 : source->shape[tie.axis];
  if (it.taken->shape[axis] == expected) {
    return true;
  }
  word type = it.parameter->type, name = it.parameter->axes[axis];
  nif_report(NIF_VALUE_ERROR, it.index, "expected %.*s with %.*s = %lld, got %s", type.size, type.text, name.size,
             name.text, (long long)expected, describe(it.arg).text);
  return false;
}

/* Row 10: what is written is nobody else's memory. */
static bool check_overlap(const signature *signature, int32_t index, const nif_argument *taken) {
  const nif_argument *written = &taken[index];
  for (int32_t i = 0; i < signature->n_parameters; i++) {
    if (i != index && written->first < taken[i].end && taken[i].first < written->end) {
      word name = signature->parameters[i].name;
      nif_report(NIF_VALUE_ERROR, index, "overlaps argument '%.*s'", name.size, name.text);
      return false;
    }
  }
  return true;
}

bool nif_take(const signature *signature, const nif_any *args, int32_t n_args, nif_argument *taken) {
  int32_t n = signature->n_parameters;
  const parameter *parameters = signature->parameters;
  if (n_args != n) {
    nif_report(NIF_TYPE_ERROR, -1, "takes %d argument%s, %d given", n, n == 1 ? "" : "s", n_args);
    return false;
  }
  for (int32_t i = 0; i < n; i++) {
    taken[i].first = UINTPTR_MAX; /* spans nothing */
    taken[i].end = 0;
    if (!take_one((item){i, &parameters[i], &args[i], &taken[i]})) {
      return false;
    }
  }
  for (int32_t i = 0; i < n; i++) {
    if (parameters[i].is_length && taken[i].i64 < 0) {
      nif_report(NIF_VALUE_ERROR, i, "expected 0 or more, got %lld", (long long)taken[i].i64);
      return false;
    }
  }
  for (int32_t i = 0; i < n; i++) {
    for (int32_t axis = 0; axis < parameters[i].ndim; axis++) {
      if (!check_axis((item){i, &parameters[i], &args[i], &taken[i]}, axis, parameters, taken)) {
        return false;
      }
    }
  }
  for (int32_t i = 0; i < n; i++) {
    if (parameters[i].is_mut && !check_overlap(signature, i, taken)) {
      return false;
    }
  }
  return true;
}
