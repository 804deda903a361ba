func trues(x: openArray[Bool]): int {.nif: {Pure}.} =
  ## `trues(x[n])`: how many are true.
  for it in x:
    if it: inc result

func trues_of(x: Matrix[Bool]): int {.nif: {Pure}.} =
  ## `trues_of(x[m,n])`: how many are true.
  for i in 0 ..< x.rows:
    for j in 0 ..< x.cols:
      if x[i, j]: inc result

func pick(x: openArray[Bool]): int {.nif: {Pure}.} =
  ## `pick(x[n])`: the sum of what each chooses in a table of two.
  const table = [false: 10, true: 20]
  for it in x:
    result += table[it.toBool]

func opposite(x: openArray[Bool]; `out`: var openArray[Bool]) {.nif: {Idempotent}.} =
  ## `opposite(x[n], out[n])`: not x.
  for i, it in x:
    `out`[i] = not it
