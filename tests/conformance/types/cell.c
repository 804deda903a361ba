#include <complex.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t trues(nif_b8s x) {
  int64_t count = 0;
  for (int64_t i = 0; i < x.count; i++) {
    count += x.data[i] != 0;
  }
  return count;
}
NIF(trues, "trues(x: bool[n]) -> i64", NIF_FLAG_PURE, "how many are true.", result->v.i = trues(a[0].b8s))

static int64_t trues_of(nif_b8_matrix x) {
  int64_t count = 0;
  for (int64_t i = 0; i < x.rows; i++) {
    for (int64_t j = 0; j < x.columns; j++) {
      count += x.data[i * x.row_stride + j * x.column_stride] != 0;
    }
  }
  return count;
}
NIF(trues_of, "trues_of(x: bool[m,n]) -> i64", NIF_FLAG_PURE, "how many are true.",
    result->v.i = trues_of(a[0].b8_matrix))

static int64_t pick(nif_b8s x) {
  int64_t sum = 0;
  for (int64_t i = 0; i < x.count; i++) {
    sum += ((const int64_t[]){10, 20})[x.data[i] != 0];
  }
  return sum;
}
NIF(pick, "pick(x: bool[n]) -> i64", NIF_FLAG_PURE, "the sum of what each chooses in a table of two.",
    result->v.i = pick(a[0].b8s))

static void opposite(nif_b8s x, nif_mut_b8s out) {
  for (int64_t i = 0; i < x.count; i++) {
    out.data[i] = x.data[i] == 0;
  }
}
NIF(opposite, "opposite(x: bool[n], out: mut bool[n]) -> None", NIF_FLAG_IDEMPOTENT, "not x.",
    opposite(a[0].b8s, a[1].mut_b8s))

#define SAME(TYPE, C, MEMBER, FIELD) \
  NIF(same_##TYPE, "same_" #TYPE "(x: " #C ") -> " #C, NIF_FLAG_PURE, "the number itself.", result->v.FIELD = a[0].MEMBER)
SAME(i8, i8, i64, i)
SAME(i16, i16, i64, i)
SAME(i32, i32, i64, i)
SAME(i64, i64, i64, i)
SAME(u8, u8, i64, i)
SAME(u16, u16, i64, i)
SAME(u32, u32, i64, i)
SAME(u64, u64, i64, i)
SAME(isize, i64, i64, i)
SAME(usize, u64, i64, i)
SAME(f64, f64, f64, f)
SAME(bool, bool, boolean, i)
NIF(same_f32, "same_f32(x: f32) -> f32", NIF_FLAG_PURE, "the number itself.", result->v.f = (float)a[0].f64)

static const nif_dtype C64 = {NIF_DTYPE_COMPLEX, 64, 1}, C128 = {NIF_DTYPE_COMPLEX, 128, 1};

static void give_c128(nif_any *result, double _Complex z) {
  double _Complex *to = nif_give_array(result, C128, 0, NULL);
  if (to) *to = z;
}

static void give_c64(nif_any *result, float _Complex z) {
  float _Complex *to = nif_give_array(result, C64, 0, NULL);
  if (to) *to = z;
}
NIF(same_c128, "same_c128(x: c128) -> c128", NIF_FLAG_PURE, "the number itself.", give_c128(result, a[0].c128))
NIF(same_c64, "same_c64(x: c64) -> c64", NIF_FLAG_PURE, "the number itself.", give_c64(result, (float _Complex)a[0].c128))

static void turned(double _Complex z, nif_c128s x, nif_any *result) {
  give_c128(&result[0], z * I);
  if (x.count == 0) {
    nif_give_none(&result[1]);
  } else {
    give_c128(&result[1], x.data[0]);
  }
}
NIF(turned, "turned(z: c128, x: c128[n]) -> (c128, c128?)", NIF_FLAG_PURE, "z by i, and the first of x.",
    turned(a[0].c128, a[1].c128s, result))

static double owned(nif_f64s x, nif_text text) {
  double sum = (double)text.size;
  for (int64_t i = 0; i < x.count; i++) {
    sum += x.data[i];
  }
  return sum;
}
NIF(owned, "owned(x: f64[n], text: str) -> f64", NIF_FLAG_PURE, "the sum of x and the text's bytes.",
    result->v.f = owned(a[0].f64s, a[1].text))

static void ones(nif_mut_f64s out) {
  for (int64_t i = 0; i < out.count; i++) {
    out.data[i] = 1;
  }
}
NIF(ones, "ones(count: u64, out: mut f64[count]) -> None", NIF_FLAG_IDEMPOTENT, "a length may be any integer.",
    ones(a[1].mut_f64s))

static const nif_dtype F32 = {NIF_DTYPE_FLOAT, 32, 1}, F64 = {NIF_DTYPE_FLOAT, 64, 1}, B8 = {NIF_DTYPE_BOOL, 8, 1},
                       I16 = {NIF_DTYPE_INT, 16, 1};

static void evens(int64_t count, nif_any *result) {
  double *to = nif_give_array(result, F64, 1, &count);
  for (int64_t i = 0; to && i < count; i++) {
    to[i] = 2 * (double)i;
  }
}
NIF(evens, "evens(count: u32) -> f64[_]", 0, "0, 2, 4 and so on.", evens(a[0].i64, result))

static void odd(nif_i64s x, nif_any *result) {
  uint8_t *to = nif_give_array(result, B8, 1, &x.count);
  for (int64_t i = 0; to && i < x.count; i++) {
    to[i] = x.data[i] % 2 != 0;
  }
}
NIF(odd, "odd(x: i64[n]) -> bool[_]", 0, "whether each number is odd.", odd(a[0].i64s, result))

static void powers(int64_t count, nif_any *result) {
  float *to = nif_give_array(result, F32, 2, (int64_t[]){count, 3});
  for (int64_t i = 0; to && i < count; i++, to += 3) {
    to[0] = (float)i;
    to[1] = 10 * to[0];
    to[2] = 100 * to[0];
  }
}
NIF(powers, "powers(count: u8) -> f32[_,3]", 0, "rows of three: i, 10 i, 100 i.", powers(a[0].i64, result))

static void three(nif_any *result) {
  int16_t *to = nif_give_array(result, I16, 1, (int64_t[]){3});
  for (int16_t i = 0; to && i < 3; i++) {
    to[i] = (int16_t)(i - 1);
  }
}
NIF(three, "three() -> i16[3]", 0, "three numbers.", three(result))

static void greet(nif_text name, nif_any *result) {
  char text[512];
  int size = snprintf(text, sizeof text, "hello, %.*s", (int)name.size, name.data);
  nif_give_text(result, text, size);
}
NIF(greet, "greet(name: str) -> str", 0, "a text.", greet(a[0].text, result))

static void octets(int64_t count, nif_any *result) {
  char all[256];
  for (int64_t i = 0; i < count; i++) {
    all[i] = (char)i;
  }
  nif_give_text(result, all, count);
}
NIF(octets, "octets(count: u8) -> bytes", 0, "the bytes 0, 1, 2 and so on.", octets(a[0].i64, result))

static void extremes(nif_f64s x, nif_any *result) {
  if (x.count == 0) {
    nif_give_none(&result[0]);
    nif_give_none(&result[1]);
    return;
  }
  double low = x.data[0], high = x.data[0];
  for (int64_t i = 1; i < x.count; i++) {
    low = x.data[i] < low ? x.data[i] : low;
    high = x.data[i] > high ? x.data[i] : high;
  }
  result[0].v.f = low;
  result[1].v.f = high;
}
NIF(extremes, "extremes(x: f64[n]) -> (f64, f64)?", 0, "the smallest and the largest number.",
    extremes(a[0].f64s, result))

static void stats(nif_f64s x, nif_any *result) {
  double sum = 0;
  for (int64_t i = 0; i < x.count; i++) {
    sum += x.data[i];
  }
  result[0].v.f = sum / (double)x.count;
  result[1].v.i = x.count;
}
NIF(stats, "stats(x: f64[n]) -> (mean: f64, count: i64)", 0, "of the numbers.", stats(a[0].f64s, result))

static void mixed(nif_text text, int64_t count, nif_any *result) {
  char upper[512];
  for (int64_t i = 0; i < text.size; i++) {
    upper[i] = (char)toupper(text.data[i]);
  }
  nif_give_text(&result[0], upper, text.size);
  evens(count, &result[1]);
  result[2].v.i = -1;
  if (count == 0) {
    nif_give_none(&result[2]);
  }
  result[3].v.i = count > 1;
}
NIF(mixed, "mixed(text: str, count: u32) -> (str, f64[_], i32?, bool)", 0, "values of several kinds.",
    mixed(a[0].text, a[1].i64, result))

NIF(first, "first(x: f64[n]) -> f64?", 0, "the first number.",
    if (a[0].f64s.count > 0) result->v.f = a[0].f64s.data[0]; else nif_give_none(result))

static void word(nif_text text, nif_any *result) {
  const char *at = text.data, *end = text.data + text.size;
  at += strspn(at, " ");
  if (at == end) {
    nif_give_none(result);
  } else {
    nif_give_text(result, at, (int64_t)strcspn(at, " "));
  }
}
NIF(word, "word(text: str) -> str?", 0, "a text, or none.", word(a[0].text, result))

static int64_t parsed(nif_text text) {
  char *end;
  long number = strtol(text.data, &end, 10);
  if (*end != 0 || text.size == 0) {
    nif_fail(NIF_VALUE_ERROR, NULL, "%s isn't a number", text.data);
  }
  return number;
}
NIF(parsed, "parsed(text: str) -> i32", 0, "an integer of a text.", result->v.i = parsed(a[0].text))

static double element(nif_f64s x, int64_t at) {
  if (at < 0 || at >= x.count) {
    nif_fail(NIF_INDEX_ERROR, NULL, "index %lld is out of bounds", (long long)at);
    return 0;
  }
  return x.data[at];
}
NIF(element, "element(x: f64[n], at: i64) -> f64", 0, "the number at a place.",
    result->v.f = element(a[0].f64s, a[1].i64))

NIF(greedy, "greedy() -> f64[_]", 0, "more memory than there is.", nif_give_array(result, F64, 1, (int64_t[]){1LL << 58}))

NIF(refused, "refused(why: str) -> (f64, str)", 0, "an error in words.",
    nif_fail(NIF_ERROR, NULL, "%.*s", (int)a[0].text.size, a[0].text.data))

NIF(or_seven, "or_seven(x: f64?) -> f64", 0, "a number, or 7.", result->v.f = a[0].is_none ? 7 : a[0].f64)

static int64_t agree(const nif_argument *a) {
  const nif_argument *there = !a[0].is_none ? &a[0] : !a[1].is_none ? &a[1] : &a[2];
  return there->f64s.count;
}
NIF(agree, "agree(a: f64[n]?, b: f64[n]?, c: f64[n]) -> i64", 0, "the length of the first that is there.", result->v.i = agree(a))

static void described(const nif_argument *a, nif_any *result) {
  char text[512];
  int64_t rows = a[0].is_none ? -1 : a[0].f64_matrix.rows;
  nif_text label = a[1].is_none ? (nif_text){"-", 1} : a[1].text;
  int size = snprintf(text, sizeof text, "%lld %.*s", (long long)rows, (int)label.size, label.data);
  nif_give_text(result, text, size);
}
NIF(described, "described(m: f64[m,n]?, label: str?) -> str", 0, "how many rows, and a label.", described(a, result))

static void reversed(const nif_argument *a, nif_any *result) {
  if (a->is_none) {
    nif_give_none(result);
    return;
  }
  nif_texts rest = a->texts;
  nif_text *all = malloc(sizeof *all * (size_t)(rest.count + 1));
  for (int64_t i = rest.count; i > 0; i--) {
    nif_next_text(&rest, &all[i - 1]);
  }
  nif_give_texts(result, a->texts.count, all);
  free(all);
}
NIF(reversed, "reversed(words: str[_]?) -> str[_]?", 0, "the texts from the last to the first.", reversed(a, result))

static void lengths(nif_texts words, nif_any *result) {
  int64_t *to = nif_give_array(&result[1], (nif_dtype){NIF_DTYPE_INT, 64, 1}, 1, &words.count);
  nif_text longest = {"", 0}, text;
  for (int64_t i = 0; to && nif_next_text(&words, &text); i++) {
    to[i] = text.size;
    longest = text.size > longest.size ? text : longest;
  }
  nif_give_texts(&result[0], 1, &longest);
}
NIF(lengths, "lengths(words: str[_]) -> (str[_], i64[_])", 0, "the longest, and how many bytes each has.",
    lengths(a[0].texts, result))
