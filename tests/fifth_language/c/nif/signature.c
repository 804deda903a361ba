/* From "dot(x: f64[n], y: f64[n]) -> f64" to data, once for each function when the library is loaded. */
#include <string.h>

#include "sdk.h"

static const struct {
  const char *name;
  nif_dtype dtype;
} elements[] = {
#define ELEMENT(WORD, TEXT, T, CODE) {TEXT, {CODE, 8 * sizeof(T), 1}},
  NIF_ELEMENTS(ELEMENT)
#undef ELEMENT
};
enum { N_ELEMENTS = sizeof elements / sizeof elements[0] };

/* u64 takes the bits of every i64: the Lab, which knows the sign, refuses what is negative. */
static const struct {
  const char *name;
  form form;
  int64_t low, high;
} scalars[] = {
  {"i8", INT, INT8_MIN, INT8_MAX},
  {"i16", INT, INT16_MIN, INT16_MAX},
  {"i32", INT, INT32_MIN, INT32_MAX},
  {"i64", INT, INT64_MIN, INT64_MAX},
  {"u8", INT, 0, UINT8_MAX},
  {"u16", INT, 0, UINT16_MAX},
  {"u32", INT, 0, UINT32_MAX},
  {"u64", INT, INT64_MIN, INT64_MAX},
  {"f32", FLOAT, 0, 0},
  {"f64", FLOAT, 0, 0},
  {"c64", COMPLEX, 0, 0},
  {"c128", COMPLEX, 0, 0},
  {"bool", BOOL, 0, 0},
  {"str", STR, 0, 0},
  {"bytes", BYTES, 0, 0},
};
enum { N_SCALARS = sizeof scalars / sizeof scalars[0] };

const char *nif_element_name(nif_dtype dtype) {
  for (int i = 0; i < N_ELEMENTS; i++) {
    if (memcmp(&elements[i].dtype, &dtype, sizeof dtype) == 0) {
      return elements[i].name;
    }
  }
  return NULL;
}

bool nif_is(word it, const char *text) { return strlen(text) == (size_t)it.size && !memcmp(it.text, text, it.size); }

static bool same(word one, word other) { return one.size == other.size && !memcmp(one.text, other.text, one.size); }

/* Step over `text`, if that is what comes. */
static bool skip(const char **at, const char *text) {
  size_t size = strlen(text);
  bool comes = strncmp(*at, text, size) == 0;
  *at += comes ? size : 0;
  return comes;
}

/* What comes before any of the characters in `ends`. */
static word read_word(const char **at, const char *ends) {
  word read = {*at, (int32_t)strcspn(*at, ends)};
  *at += read.size;
  return read;
}

static bool read_form(word element, parameter *read) {
  bool is_any = nif_is(read->type, "any[...]");
  if (is_any || nif_is(read->type, "str[_]")) {
    read->form = is_any ? ANY : TEXTS;
    read->ndim = 0;
    return true;
  }
  for (int i = 0; read->ndim == 0 && i < N_SCALARS; i++) {
    if (nif_is(element, scalars[i].name)) {
      read->form = scalars[i].form;
      read->low = scalars[i].low;
      read->high = scalars[i].high;
      return true;
    }
  }
  for (int i = 0; read->ndim > 0 && i < N_ELEMENTS; i++) {
    if (nif_is(element, elements[i].name)) {
      read->form = read->ndim == 1 ? VECTOR : MATRIX;
      read->dtype = elements[i].dtype;
      return true;
    }
  }
  return false;
}

static bool read_parameter(const char **at, parameter *read) {
  read->name = read_word(at, ":");
  if (!skip(at, ": ")) {
    return false;
  }
  read->is_mut = skip(at, "mut ");
  read->type.text = *at;
  if (strncmp(*at, "fn(", 3) == 0) {
    read_word(at, "-");
    read_word(at, ",)");
    read->type.size = (int32_t)(*at - read->type.text);
    read->form = CALLBACK;
    return true;
  }
  word element = read_word(at, "[?,)");
  if (skip(at, "[")) {
    do {
      if (read->ndim == MOST_AXES) {
        return false;
      }
      read->axes[read->ndim++] = read_word(at, ",]");
    } while (skip(at, ","));
    if (!skip(at, "]")) {
      return false;
    }
  }
  read->type.size = (int32_t)(*at - read->type.text);
  bool is_known = read_form(element, read);
  read->is_optional = skip(at, "?");
  read->type.size = (int32_t)(*at - read->type.text); /* as errors spell it */
  return is_known;
}

/* An integer fixes the dimension of its name, wherever it stands; else the axis of that name before this one does. */
static tie tie_of(signature *read, int32_t of, int32_t of_axis) {
  word name = read->parameters[of].axes[of_axis];
  for (int32_t i = 0; i < read->n_parameters; i++) {
    parameter *it = &read->parameters[i];
    if (it->form == INT && same(it->name, name)) {
      it->is_length = true;
      return (tie){i, -1};
    }
  }
  for (int32_t i = of; i >= 0; i--) {
    for (int32_t axis = (i < of ? read->parameters[i].ndim : of_axis) - 1; axis >= 0; axis--) {
      if (same(read->parameters[i].axes[axis], name)) {
        return (tie){i, axis};
      }
    }
  }
  return (tie){-1, -1};
}

/* What the value of a result is, "f64[_]?" say; -1 for what isn't known. */
static int32_t result_type(word it) {
  it.size -= it.size > 0 && it.text[it.size - 1] == '?';
  if (it.size > 0 && it.text[it.size - 1] == ']') {
    return NIF_TENSOR;
  }
  if (nif_is(it, "None")) {
    return NIF_NONE;
  }
  for (int i = 0; i < N_SCALARS; i++) {
    if (nif_is(it, scalars[i].name)) {
      static const int32_t types[] = {
        [INT] = NIF_INT, [FLOAT] = NIF_FLOAT, [COMPLEX] = NIF_TENSOR, [BOOL] = NIF_BOOL, [STR] = NIF_STR, [BYTES] = NIF_TENSOR};
      return types[scalars[i].form];
    }
  }
  return -1;
}

/* "f64", or "(mean: f64, counts: i64[_])". */
static bool read_results(const char *at, signature *read) {
  bool is_tuple = skip(&at, "(");
  do {
    const char *type = at;
    read_word(&type, ":,)");
    at = skip(&type, ": ") ? type : at; /* past the value's name */
    word it = read_word(&at, "[,)");
    if (*at == '[') {
      at += strcspn(at, "]") + 1;
      it.size = (int32_t)(at - it.text);
      skip(&at, "?");
    }
    if (read->n_results == MOST_RESULTS || (read->results[read->n_results++] = result_type(it)) < 0) {
      return false;
    }
  } while (is_tuple && skip(&at, ", "));
  if (is_tuple && skip(&at, ")")) {
    skip(&at, "?");
  }
  return *at == 0;
}

bool nif_read_signature(const char *text, signature *read) {
  const char *at = text;
  *read = (signature){0};
  read_word(&at, "(");
  if (!skip(&at, "()")) {
    skip(&at, "(");
    do {
      if (read->n_parameters == MOST_PARAMETERS || !read_parameter(&at, &read->parameters[read->n_parameters++])) {
        return false;
      }
    } while (skip(&at, ", "));
    if (!skip(&at, ")")) {
      return false;
    }
  }
  for (int32_t i = 0; i < read->n_parameters; i++) {
    for (int32_t axis = 0; axis < read->parameters[i].ndim; axis++) {
      read->parameters[i].ties[axis] = tie_of(read, i, axis);
    }
  }
  return skip(&at, " -> ") && read_results(at, read);
}
