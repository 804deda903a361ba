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
