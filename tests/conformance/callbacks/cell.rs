use std::time::Duration;

/// The midpoint rule.
pub fn integrate(f: Callback<fn(f64) -> f64>, a: f64, b: f64, n: i64) -> Result<f64, Error> {
    let h = (b - a) / n as f64;
    (0..n).try_fold(0.0, |total, i| Ok(total + h * f.call(a + (i as f64 + 0.5) * h)?))
}

pub fn tally(f: Callback<fn(i32, bool) -> i64>, n: i32) -> Result<i64, Error> {
    (0..n).try_fold(0, |total, i| Ok(total + f.call(i, i % 2 == 0)?))
}

pub fn each(f: Callback<fn(u8)>, n: u8) -> Result<(), Error> {
    (0..n).try_for_each(|i| f.call(i))
}

pub fn small(f: Callback<fn() -> i8>) -> Result<i64, Error> {
    Ok(f.call()?.into())
}

pub fn wide(f: Callback<fn(u64, f32) -> u64>) -> Result<u64, Error> {
    f.call(u64::MAX, 0.1)
}

pub fn holds(f: Callback<fn(f64) -> bool>, x: f64) -> Result<bool, Error> {
    f.call(x)
}

/// `least(f, x[n])`: the smallest value of f at x and at the first half of x.
pub fn least(f: Callback<fn(&[f64]) -> f64>, x: &[f64]) -> Result<f64, Error> {
    Ok(f.call(x)?.min(f.call(&x[..x.len() / 2])?))
}

/// `derivative(f, t, y[n], out[n])`: what f writes.
pub fn derivative(f: Callback<fn(f64, &[f64], &mut [f64])>, t: f64, y: &[f64], out: &mut [f64]) -> Result<(), Error> {
    f.call(t, y, out)
}

pub fn octets(f: Callback<fn(&[u8], u8) -> i64>) -> Result<i64, Error> {
    f.call(&[1, 2, 255], 7)
}

/// Gets over what is raised.
pub fn tried(f: Callback<fn(f64) -> f64>, x: f64) -> f64 {
    f.call(x).unwrap_or(-1.0)
}

#[nif(long)]
pub fn unwrapped(f: Callback<fn(f64) -> f64>, x: f64) -> f64 {
    f.call(x).unwrap()
}

#[nif(long)]
pub fn steps(n: i64, seconds: f64) -> i64 {
    for i in 0..n {
        progress(i + 1, n);
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }
    n
}

pub fn says(n: i64) -> i64 {
    for i in 0..n {
        println!("line {i}");
    }
    print!("dots...");
    eprint!("oh {n}");
    n
}
