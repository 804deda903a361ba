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

macro_rules! same {
    ($($name:ident $type:ty;)+) => {
        $(
            /// The number itself.
            #[nif(pure)]
            pub fn $name(x: $type) -> $type {
                x
            }
        )+
    };
}

same! {
    same_i8 i8;
    same_i16 i16;
    same_i32 i32;
    same_i64 i64;
    same_u8 u8;
    same_u16 u16;
    same_u32 u32;
    same_u64 u64;
    same_isize isize;
    same_usize usize;
    same_f32 f32;
    same_f64 f64;
    same_bool bool;
}

/// `ones(count, out[count])`: a length may be any integer.
#[nif(idempotent)]
pub fn ones(count: usize, out: &mut [f64]) {
    assert_eq!(out.len(), count);
    out.fill(1.0);
}

/// The number itself.
#[nif(pure)]
pub fn same_c128(x: Complex<f64>) -> Complex<f64> {
    x
}

#[nif(pure)]
pub fn same_c64(x: Complex<f32>) -> Complex<f32> {
    x
}

/// z by i, and the first of x.
#[nif(pure)]
pub fn turned(z: Complex<f64>, x: &[Complex<f64>]) -> (Complex<f64>, Option<Complex<f64>>) {
    (z * Complex::<f64>::I, x.first().copied())
}

/// The sum of x and the text's bytes.
#[nif(pure)]
pub fn owned(mut x: Vec<f64>, text: String) -> f64 {
    x.push(text.into_bytes().len() as f64);
    x.iter().sum()
}

/// 0, 2, 4 and so on.
#[nif(pure)]
pub fn evens(count: u32) -> Vec<f64> {
    (0..count).map(|i| 2.0 * f64::from(i)).collect()
}

/// Whether each number is odd.
#[nif(pure)]
pub fn odd(x: &[i64]) -> Vec<bool> {
    x.iter().map(|x| x % 2 != 0).collect()
}

/// Rows of three: i, 10 i, 100 i.
#[nif(pure)]
pub fn powers(count: u8) -> Vec<[f32; 3]> {
    (0..count).map(f32::from).map(|i| [i, 10.0 * i, 100.0 * i]).collect()
}

/// Three numbers.
#[nif(pure)]
pub fn three() -> [i16; 3] {
    [-1, 0, 1]
}

/// A text.
#[nif(pure)]
pub fn greet(name: &str) -> String {
    format!("hello, {name}")
}

/// The bytes 0, 1, 2 and so on.
#[nif(pure)]
pub fn octets(count: u8) -> ByteBuf {
    ByteBuf((0..count).collect())
}

/// The smallest and the largest number.
#[nif(pure)]
pub fn extremes(x: &[f64]) -> Option<(f64, f64)> {
    let low = x.iter().copied().reduce(f64::min)?;
    Some((low, x.iter().copied().fold(low, f64::max)))
}

/// `stats(x[n]) -> (mean, count)`: of the numbers.
#[nif(pure)]
pub fn stats(x: &[f64]) -> (f64, i64) {
    (x.iter().sum::<f64>() / x.len() as f64, x.len() as i64)
}

/// Values of several kinds.
#[nif(pure)]
pub fn mixed(text: &str, count: u32) -> (String, Vec<f64>, Option<i32>, bool) {
    (text.to_uppercase(), evens(count), (count > 0).then_some(-1), count > 1)
}

/// The first number.
#[nif(pure)]
pub fn first(x: &[f64]) -> Option<f64> {
    x.first().copied()
}

/// A text, or none.
#[nif(pure)]
pub fn word(text: &str) -> Option<String> {
    text.split_whitespace().next().map(str::to_owned)
}

/// An integer of a text.
#[nif(pure)]
pub fn parsed(text: &str) -> Result<i32, Box<dyn std::error::Error>> {
    Ok(text.parse::<i32>()?)
}

/// The number at a place.
#[nif(pure)]
pub fn element(x: &[f64], at: usize) -> f64 {
    x[at]
}

/// More memory than there is.
#[nif]
pub fn greedy() -> Result<Vec<f64>, Error> {
    let mut all = Vec::new();
    all.try_reserve(1 << 60)?;
    Ok(all)
}

/// An error in words.
#[nif]
pub fn refused(why: &str) -> Result<(f64, String), String> {
    Err(why.to_owned())
}

/// A number, or 7.
#[nif]
pub fn or_seven(x: Option<f64>) -> f64 {
    x.unwrap_or(7.0)
}

/// `agree(a[n], b[n], c[n])`: the length of the first that is there.
#[nif]
pub fn agree(a: Option<&[f64]>, b: Option<&[f64]>, c: &[f64]) -> i64 {
    a.or(b).unwrap_or(c).len() as i64
}

/// How many rows, and a label.
#[nif]
pub fn described(m: Option<Matrix<'_, f64>>, label: Option<&str>) -> String {
    format!("{} {}", m.map_or(-1, |it| it.rows() as i64), label.unwrap_or("-"))
}

/// The texts from the last to the first.
#[nif]
pub fn reversed(words: Option<Vec<String>>) -> Option<Vec<String>> {
    words.map(|it| it.into_iter().rev().collect())
}

/// The longest, and how many bytes each has.
#[nif]
pub fn lengths(words: Vec<&str>) -> (Vec<&str>, Vec<i64>) {
    let longest = words.iter().rev().max_by_key(|it| it.len()).unwrap_or(&"");
    (vec![longest], words.iter().map(|it| it.len() as i64).collect())
}
