#![allow(clippy::float_cmp, reason = "the numbers are small integers, whose sums are exact")]

use super::*;

/// Numbers that look random and are sums without rounding.
fn numbers(count: usize) -> Vec<f64> {
    (0..count).map(|index| f64::from(u32::try_from(index * 7919 % 101).unwrap()) - 50.0).collect()
}

#[test]
fn reductions_reach_every_element() {
    for count in 0..100 {
        let x = numbers(count);
        assert_eq!(sum(&x), x.iter().fold(0.0, |sum, x| sum + x));
        assert_eq!(dot(&x, &x), x.iter().fold(0.0, |sum, x| sum + x * x));
        let mut y = x.clone();
        axpy(2.0, &x, &mut y);
        assert!(y.iter().zip(&x).all(|(y, x)| *y == 3.0 * x));
    }
    assert!(sum(&[]).is_sign_positive() && dot(&[], &[]).is_sign_positive());
}

#[test]
fn products_agree_with_the_definition() {
    for [rows, depth, columns] in [[0, 2, 3], [2, 0, 3], [1, 1, 1], [7, 9, 10], [98, 300, 17]] {
        let (a, b) = (numbers(rows * depth), numbers(depth * columns));
        let (a, b) = (Matrix::new(&a, rows, depth), Matrix::new(&b, depth, columns));
        let mut out = vec![f64::NAN; rows * columns];
        matmul(a, b, MatrixMut::new(&mut out, rows, columns)).unwrap();
        let cell = |row, column| (0..depth).fold(0.0, |sum, inner| sum + a[(row, inner)] * b[(inner, column)]);
        for (index, value) in out.iter().enumerate() {
            assert_eq!(*value, cell(index / columns, index % columns));
        }
    }
}

#[test]
fn transposing_exchanges_the_axes() {
    let cells = numbers(19 * 35);
    let a = Matrix::new(&cells, 19, 35);
    for a in [a, a.transposed()] {
        let mut out = vec![0.0; cells.len()];
        transpose(a, MatrixMut::new(&mut out, a.columns(), a.rows()));
        assert!((0..a.rows()).all(|i| (0..a.columns()).all(|j| out[j * a.rows() + i] == a[(i, j)])));
    }
}

#[test]
fn a_flat_field_is_lit_by_the_sine_of_the_altitude() {
    let mut out = [0.0; 6];
    hillshade(Matrix::new(&[5.0; 6], 2, 3), 1.0, 1.0, 315.0, 30.0, MatrixMut::new(&mut out, 2, 3)).unwrap();
    assert!(out.iter().all(|brightness| (brightness - 0.5).abs() < 1e-15));
}

#[test]
fn a_slope_is_bright_on_the_side_of_the_light() {
    // It rises to the east and is lit along its normal from the west, then from the east.
    let rising = [0.0, 1.0, 2.0];
    for (azimuth, expected) in [(270.0, 1.0), (90.0, 0.0)] {
        let mut out = [f64::NAN; 3];
        hillshade(Matrix::new(&rising, 1, 3), 1.0, 1.0, azimuth, 45.0, MatrixMut::new(&mut out, 1, 3)).unwrap();
        assert!(out.iter().all(|brightness| (brightness - expected).abs() < 1e-15), "{out:?}");
    }
}

#[test]
fn smoothing_spreads_a_point_binomially() {
    let mut z = [0.0; 25];
    z[12] = 16.0;
    let mut out = [f64::NAN; 25];
    smooth(Matrix::new(&z, 5, 5), 1, MatrixMut::new(&mut out, 5, 5)).unwrap();
    assert_eq!(out[6..9], [1.0, 2.0, 1.0]);
    assert_eq!(out[11..14], [2.0, 4.0, 2.0]);
    assert_eq!(out.iter().sum::<f64>(), 16.0);
    // Repeated edges keep a single column as it is across, and filter it along.
    let mut column = [0.0; 3];
    smooth(Matrix::new(&[0.0, 4.0, 0.0], 3, 1), 1, MatrixMut::new(&mut column, 3, 1)).unwrap();
    assert_eq!(column, [1.0, 2.0, 1.0]);
}

#[test]
fn histogram_closes_the_last_cell() {
    let mut out = [9; 2];
    histogram(&[0.0, 0.5, 1.0, -0.1, 1.1, f64::NAN], 2, 0.0, 1.0, &mut out).unwrap();
    assert_eq!(out, [1, 2]);
    let error = histogram(&[], 2, 0.0, f64::INFINITY, &mut out).unwrap_err();
    assert_eq!(error, Error::value("high", "expected a finite number above low"));
}

#[test]
fn mandelbrot_counts_until_the_point_leaves() {
    // c = -1 stays, c = 1 goes 1, 2, 5: |z|² > 4 before the fourth iteration.
    let mut out = [0; 2];
    mandelbrot(2, 1, -2.0, 2.0, 0.0, 0.0, 50, MatrixMut::new(&mut out, 1, 2)).unwrap();
    assert_eq!(out, [50, 3]);
    assert_eq!(escape([f64::NAN; PIXELS], 0.0, 5), [5; PIXELS]);
}
