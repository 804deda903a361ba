/// `trues(x[n])`: how many are true.
#[nif(pure)]
pub fn trues(x: &[Bool]) -> i64 {
    x.iter().filter(|it| bool::from(**it)).count() as i64
}

/// `trues_of(x[m,n])`: how many are true.
#[nif(pure)]
pub fn trues_of(x: Matrix<'_, Bool>) -> i64 {
    let at = (0..x.rows()).flat_map(|i| (0..x.columns()).map(move |j| (i, j)));
    at.filter(|it| bool::from(x[*it])).count() as i64
}

/// `pick(x[n])`: the sum of what each chooses in a table of two.
#[nif(pure)]
pub fn pick(x: &[Bool]) -> i64 {
    x.iter().map(|it| [10, 20][usize::from(bool::from(*it))]).sum()
}

/// `opposite(x[n], out[n])`: not x.
#[nif(idempotent)]
pub fn opposite(x: &[Bool], out: &mut [Bool]) {
    for (to, from) in out.iter_mut().zip(x) {
        *to = (!bool::from(*from)).into();
    }
}
