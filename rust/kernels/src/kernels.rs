//! The kernels: docs/kernels.md says what each means.
//!
//! Loops are written so that the compiler makes vectors of them; `multiversion` compiles a function a second time for
//! machines with AVX2, where that pays, and picks by what the machine has. `dot` and `matmul` fuse operations where the machine can.

use std::array;
use std::collections::TryReserveError;
use std::hint::black_box;
use std::mem;
use std::ops::Range;

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use nif::{AnyArray, Error, Matrix, MatrixMut, nif};

#[cfg(test)]
mod tests;

/// Independent sums in a reduction: enough to hide the latency of an addition behind the next ones.
const SUMS: usize = 16;

/// Edge of the square tiles that `transpose` moves.
const TILE: usize = 16;

/// Pixels that `mandelbrot` iterates at the same time.
const PIXELS: usize = 8;

/// `matmul` computes tiles of this many rows and columns in registers,
const TILE_ROWS: usize = 6;
const TILE_COLUMNS: usize = 8;
/// from blocks of this depth and this many rows of `a`, which stay in the caches.
const BLOCK_DEPTH: usize = 256;
const BLOCK_ROWS: usize = 96;

/// Zeros for intermediate results; an error, not the end, when there is no memory.
fn zeros<T: Copy + Default>(count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(count)?;
    zeros.resize(count, T::default());
    Ok(zeros)
}

/// `noop()`: nothing.
#[nif(pure)]
pub fn noop() {}

/// `add(x, y)`: x + y.
#[nif(pure)]
pub fn add(x: f64, y: f64) -> f64 {
    x + y
}

/// `dot(x[n], y[n])`: inner product of two vectors.
#[nif(pure)]
#[multiversion(targets("x86_64+avx2+fma"))]
pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    let (x_chunks, x_rest) = x.as_chunks::<SUMS>();
    let (y_chunks, y_rest) = y.as_chunks::<SUMS>();
    let mut sums = [0.0; SUMS];
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for lane in 0..SUMS {
            sums[lane] = if target_cfg_f!(target_feature = "fma") {
                x[lane].mul_add(y[lane], sums[lane])
            } else {
                sums[lane] + x[lane] * y[lane]
            };
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    total(sums) + rest
}

/// `axpy(a, x[n], y[n])`: y = a x + y, in place.
#[nif]
#[multiversion(targets("x86_64+avx2"))]
pub fn axpy(a: f64, x: &[f64], y: &mut [f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `sum(x[n])`: sum of the elements; NaN spreads.
#[nif(pure)]
#[multiversion(targets("x86_64+avx2"))]
pub fn sum(x: &[f64]) -> f64 {
    let (chunks, rest) = x.as_chunks::<SUMS>();
    let mut sums = [0.0; SUMS];
    for chunk in chunks {
        for lane in 0..SUMS {
            sums[lane] += chunk[lane];
        }
    }
    let rest: f64 = rest.iter().sum();
    total(sums) + rest
}

/// The sum of the sums, in pairs: each level is one vector addition.
#[inline]
fn total(sums: [f64; SUMS]) -> f64 {
    let four: [f64; 4] = array::from_fn(|lane| (sums[lane] + sums[lane + 8]) + (sums[lane + 4] + sums[lane + 12]));
    // Otherwise the compiler arranges the loop before for the pairs here, in vectors of two.
    let [a, b, c, d] = black_box(four);
    (a + c) + (b + d)
}

/// `matmul(a[m, k], b[k, n], out[m, n])`: matrix product.
#[nif(long, idempotent)]
pub fn matmul(a: Matrix<'_, f64>, b: Matrix<'_, f64>, mut out: MatrixMut<'_, f64>) -> Result<(), Error> {
    let (rows, depth, columns) = (a.rows(), a.columns(), b.columns());
    let mut scratch = zeros(depth.max(columns))?;
    for row in 0..rows {
        out.fill_row(row, &mut scratch, |row| row.fill(0.0));
    }
    let mut a_panels = zeros(BLOCK_ROWS.min(rows).div_ceil(TILE_ROWS) * BLOCK_DEPTH.min(depth))?;
    let mut b_panels = zeros(columns.div_ceil(TILE_COLUMNS) * BLOCK_DEPTH.min(depth))?;
    for inner in blocks(depth, BLOCK_DEPTH) {
        let depth = inner.len();
        pack_columns(b, inner.clone(), &mut scratch, &mut b_panels);
        for block in blocks(rows, BLOCK_ROWS) {
            pack_rows(a, block.clone(), inner.clone(), &mut scratch, &mut a_panels);
            for (b_panel, left) in b_panels.chunks_exact(depth).zip((0..columns).step_by(TILE_COLUMNS)) {
                for (a_panel, top) in a_panels.chunks_exact(depth).zip(block.clone().step_by(TILE_ROWS)) {
                    let tile = multiply_panels(a_panel, b_panel);
                    for (row, sums) in (top..block.end).zip(&tile) {
                        if let Some(cells) = out.row_mut(row) {
                            cells[left..].iter_mut().zip(sums).for_each(|(cell, sum)| *cell += sum);
                        } else {
                            (left..columns).zip(sums).for_each(|(column, sum)| out[(row, column)] += sum);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// 0..length in ranges of `size`; the last may be shorter.
fn blocks(length: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(size).map(move |start| start..length.min(start + size))
}

/// Lays `rows` of a matrix out as panels of `TILE_ROWS` rows, each column by column.
fn pack_rows(
    a: Matrix<'_, f64>,
    rows: Range<usize>,
    inner: Range<usize>,
    scratch: &mut [f64],
    panels: &mut [[f64; TILE_ROWS]],
) {
    for (offset, row) in rows.enumerate() {
        let panel = &mut panels[offset / TILE_ROWS * inner.len()..][..inner.len()];
        for (cell, value) in panel.iter_mut().zip(&a.row_in(row, scratch)[inner.clone()]) {
            cell[offset % TILE_ROWS] = *value;
        }
    }
}

/// Lays rows `inner` of a matrix out as panels of `TILE_COLUMNS` columns, each row by row.
fn pack_columns(b: Matrix<'_, f64>, inner: Range<usize>, scratch: &mut [f64], panels: &mut [[f64; TILE_COLUMNS]]) {
    for (offset, row) in inner.clone().enumerate() {
        let row = b.row_in(row, scratch);
        for (panel, values) in row.chunks(TILE_COLUMNS).enumerate() {
            panels[panel * inner.len() + offset][..values.len()].copy_from_slice(values);
        }
    }
}

/// The product of a panel of rows and a panel of columns. What stands beyond the matrices' edges only reaches cells that
/// nobody reads.
#[multiversion(targets("x86_64+avx2+fma"))]
fn multiply_panels(a: &[[f64; TILE_ROWS]], b: &[[f64; TILE_COLUMNS]]) -> [[f64; TILE_COLUMNS]; TILE_ROWS] {
    let mut tile = [[0.0; TILE_COLUMNS]; TILE_ROWS];
    for (a, b) in a.iter().zip(b) {
        for row in 0..TILE_ROWS {
            for column in 0..TILE_COLUMNS {
                tile[row][column] = if target_cfg_f!(target_feature = "fma") {
                    a[row].mul_add(b[column], tile[row][column])
                } else {
                    tile[row][column] + a[row] * b[column]
                };
            }
        }
    }
    tile
}

/// `transpose(a[m, n], out[n, m])`: out[j, i] = a[i, j].
// It goes by square tiles, so that both sides use each line of the cache while it is there.
#[nif(idempotent)]
pub fn transpose(a: Matrix<'_, f64>, mut out: MatrixMut<'_, f64>) {
    let mut scratch = [0.0; TILE];
    for rows in blocks(a.rows(), TILE) {
        for columns in blocks(a.columns(), TILE) {
            let mut tile = [[0.0; TILE]; TILE];
            for (i, row) in rows.clone().enumerate() {
                for (tile_row, value) in tile.iter_mut().zip(a.part_in(row, columns.clone(), &mut scratch)) {
                    tile_row[i] = *value;
                }
            }
            for (column, tile_row) in columns.zip(&tile) {
                out.fill_part(column, rows.clone(), &mut scratch, |part| part.copy_from_slice(&tile_row[..rows.len()]));
            }
        }
    }
}

/// `hillshade(z[m, n], dx, dy, azimuth, altitude, out[m, n])`: brightness of a height field lit from a direction.
///
/// `azimuth` counts degrees clockwise from north, which is row 0; `altitude` degrees above the horizon. `dx` and `dy` are
/// the spacing of columns and rows in the unit of z.
#[nif(idempotent)]
pub fn hillshade(
    z: Matrix<'_, f64>,
    dx: f64,
    dy: f64,
    azimuth: f64,
    altitude: f64,
    mut out: MatrixMut<'_, f64>,
) -> Result<(), Error> {
    for (name, spacing) in [("dx", dx), ("dy", dy)] {
        if spacing.is_nan() || spacing <= 0.0 {
            return Err(Error::value(name, "expected a positive number"));
        }
    }
    let (sin_azimuth, cos_azimuth) = azimuth.to_radians().sin_cos();
    let (up, level) = altitude.to_radians().sin_cos();
    let light = [sin_azimuth * level, cos_azimuth * level, up];
    let (rows, columns) = (z.rows(), z.columns());
    let mut scratch = [zeros(columns)?, zeros(columns)?, zeros(columns)?, zeros(columns)?];
    let [above, here, below, result] = &mut scratch;
    for row in 0..rows {
        let (first, last) = (row.saturating_sub(1), (row + 1).min(rows - 1));
        let here = z.row_in(row, here);
        // Along an axis of length 1 the slope is 0, whatever the heights.
        let (above, below, per_dy) = match last - first {
            0 => (&above[..], &below[..], 0.0),
            distance => (z.row_in(first, above), z.row_in(last, below), reciprocal(distance as f64 * dy)),
        };
        out.fill_row(row, result, |out| shade_row([above, here, below], dx, per_dy, light, out));
    }
    Ok(())
}

/// 1 / x, but finite, so that a slope of 0 stays 0.
fn reciprocal(x: f64) -> f64 {
    x.recip().min(f64::MAX)
}

/// The brightness of a row from the rows around it. `per_dy` is 1 over the distance between the outer two.
#[multiversion(targets("x86_64+avx2"))]
fn shade_row([above, here, below]: [&[f64]; 3], dx: f64, per_dy: f64, [east, north, up]: [f64; 3], out: &mut [f64]) {
    let shade = |rise_east: f64, rise_south: f64| {
        let (gx, gy) = (rise_east, -rise_south * per_dy);
        let brightness = (up - gx * east - gy * north) / (gx * gx + gy * gy + 1.0).sqrt();
        // Unlike `max`, this keeps NaN.
        if brightness < 0.0 { 0.0 } else { brightness }
    };
    let columns = here.len();
    let mut edge = |column: usize| {
        let (first, last) = (column.saturating_sub(1), (column + 1).min(columns - 1));
        let rise_east = match last - first {
            0 => 0.0,
            distance => (here[last] - here[first]) * reciprocal(distance as f64 * dx),
        };
        out[column] = shade(rise_east, below[column] - above[column]);
    };
    match columns {
        0 => return,
        1 => return edge(0),
        _ => {
            edge(0);
            edge(columns - 1);
        }
    }
    let per_dx = reciprocal(2.0 * dx);
    let (west, east) = (&here[..columns - 2], &here[2..]);
    let inner = 1..columns - 1;
    let (above, below, out) = (&above[inner.clone()], &below[inner.clone()], &mut out[inner]);
    for ((((out, west), east), above), below) in out.iter_mut().zip(west).zip(east).zip(above).zip(below) {
        *out = shade((east - west) * per_dx, below - above);
    }
}

/// `smooth(z[m, n], passes, out[m, n])`: `passes` times the 3 x 3 binomial filter, edges repeated.
// The filter is the product of (1 2 1) along the rows and (1 2 1) along the columns, over 16. `out` is filtered in place:
// three rows of sums are all that is kept.
#[nif(long, idempotent)]
pub fn smooth(z: Matrix<'_, f64>, passes: i64, mut out: MatrixMut<'_, f64>) -> Result<(), Error> {
    if passes < 0 {
        return Err(Error::value("passes", format!("expected 0 or more, got {passes}")));
    }
    let (rows, columns) = (z.rows(), z.columns());
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let (mut above, mut here, mut below) = (zeros(columns)?, zeros(columns)?, zeros(columns)?);
    let (mut source, mut result) = (zeros(columns)?, zeros(columns)?);
    if passes == 0 {
        for row in 0..rows {
            out.fill_row(row, &mut result, |out| out.copy_from_slice(z.row_in(row, &mut source)));
        }
    }
    for pass in 0..passes {
        let mut sum_of_row = |out: &MatrixMut<'_, f64>, row: usize, sums: &mut [f64]| {
            let from = if pass == 0 { z } else { out.as_matrix() };
            sum_along(from.row_in(row, &mut source), sums);
        };
        sum_of_row(&out, 0, &mut here);
        above.copy_from_slice(&here);
        for row in 0..rows {
            match row + 1 {
                next if next < rows => sum_of_row(&out, next, &mut below),
                _ => below.copy_from_slice(&here),
            }
            out.fill_row(row, &mut result, |out| sum_across([&above, &here, &below], out));
            mem::swap(&mut above, &mut here);
            mem::swap(&mut here, &mut below);
        }
    }
    Ok(())
}

/// (1 2 1) along a row that isn't empty.
#[multiversion(targets("x86_64+avx2"))]
fn sum_along(row: &[f64], sums: &mut [f64]) {
    let last = row.len() - 1;
    sums[0] = 3.0 * row[0] + row[last.min(1)];
    sums[last] = row[last.saturating_sub(1)] + 3.0 * row[last];
    if last == 0 {
        sums[0] = 4.0 * row[0];
    }
    for (sum, window) in sums.iter_mut().skip(1).zip(row.windows(3)) {
        *sum = window[0] + 2.0 * window[1] + window[2];
    }
}

/// (1 2 1) / 16 across three rows.
#[multiversion(targets("x86_64+avx2"))]
fn sum_across([above, here, below]: [&[f64]; 3], out: &mut [f64]) {
    for (((out, above), here), below) in out.iter_mut().zip(above).zip(here).zip(below) {
        *out = (above + 2.0 * here + below) / 16.0;
    }
}

/// `histogram(x[n], bins, low, high, out[bins])`: counts in cells of equal width over [low, high].
///
/// The last cell is closed; NaN and what lies outside are ignored.
#[nif(idempotent)]
pub fn histogram(x: &[f64], bins: i64, low: f64, high: f64, out: &mut [i64]) -> Result<(), Error> {
    if bins < 1 {
        return Err(Error::value("bins", format!("expected 1 or more, got {bins}")));
    }
    if !low.is_finite() {
        return Err(Error::value("low", "expected a finite number"));
    }
    let scale = bins as f64 / (high - low);
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(Error::value("high", "expected a finite number above low"));
    }
    let last = out.len() - 1;
    out.fill(0);
    for x in x {
        if (low..=high).contains(x) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "truncation is meant; x >= low"
            )]
            // By way of i64, because the machine has no conversion to u64.
            let cell = ((x - low) * scale) as i64 as usize;
            out[cell.min(last)] += 1;
        }
    }
    Ok(())
}

/// `forward(weights[m, n], bias[m], x[n], activation, out[m])`: one layer of a network, f(weights x + bias).
///
/// `activation`: 0 identity, 1 relu, 2 tanh, 3 sigmoid, 4 softmax over the layer.
#[nif(idempotent)]
pub fn forward(
    weights: Matrix<'_, f64>,
    bias: &[f64],
    x: &[f64],
    activation: i64,
    out: &mut [f64],
) -> Result<(), Error> {
    let activate: fn(f64) -> f64 = match activation {
        0 | 4 => |v| v,
        1 => |v| if v <= 0.0 { 0.0 } else { v },
        2 => f64::tanh,
        3 => |v| 1.0 / (1.0 + (-v).exp()),
        _ => return Err(Error::value("activation", format!("expected 0 to 4, got {activation}"))),
    };
    let mut scratch = zeros(x.len())?;
    for (i, (out, bias)) in out.iter_mut().zip(bias).enumerate() {
        *out = activate(dot(weights.row_in(i, &mut scratch), x) + bias);
    }
    if activation == 4 {
        softmax(out);
    }
    Ok(())
}

/// Shifted by the largest value, so that no exponential overflows.
fn softmax(values: &mut [f64]) {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut total = 0.0;
    for v in &mut *values {
        *v = (*v - largest).exp();
        total += *v;
    }
    for v in values {
        *v /= total;
    }
}

/// `mandelbrot(width, height, x_min, x_max, y_min, y_max, iterations, out[height, width])`: iterations before |z|² > 4.
///
/// z begins at 0 and becomes z² + c, where c is the centre of the pixel; row 0 lies at the top.
#[nif(long, idempotent, polls_cancel)]
#[expect(clippy::too_many_arguments, reason = "every backend has this signature")]
pub fn mandelbrot(
    width: i64,
    height: i64,
    x_min: f64,
    x_max: f64,
    y_min: f64,
    y_max: f64,
    iterations: i64,
    mut out: MatrixMut<'_, i32>,
) -> Result<(), Error> {
    let Some(iterations) = i32::try_from(iterations).ok().filter(|iterations| *iterations >= 0) else {
        return Err(Error::value("iterations", format!("expected 0 to {}, got {iterations}", i32::MAX)));
    };
    let mut scratch = zeros(out.columns())?;
    for row in 0..out.rows() {
        if nif::cancelled() {
            return Err(Error::Cancelled);
        }
        let ci = y_max - (y_max - y_min) * (row as f64 + 0.5) / height as f64;
        let cr = |column: usize| x_min + (x_max - x_min) * (column as f64 + 0.5) / width as f64;
        out.fill_row(row, &mut scratch, |out| {
            for (block, pixels) in out.chunks_mut(PIXELS).enumerate() {
                let counts = escape(array::from_fn(|pixel| cr(block * PIXELS + pixel)), ci, iterations);
                pixels.copy_from_slice(&counts[..pixels.len()]);
            }
        });
    }
    Ok(())
}

/// How many iterations each of a few neighbours takes to leave the circle of radius 2.
#[multiversion(targets("x86_64+avx2"))]
fn escape(cr: [f64; PIXELS], ci: f64, iterations: i32) -> [i32; PIXELS] {
    let (mut zr, mut zi) = ([0.0; PIXELS], [0.0; PIXELS]);
    // As wide as the numbers, so that they share vectors. Once out, a pixel stays out: its z may become NaN.
    let (mut inside, mut counts) = ([1_i64; PIXELS], [0_i64; PIXELS]);
    for _ in 0..iterations {
        for pixel in 0..PIXELS {
            let (rr, ii) = (zr[pixel] * zr[pixel], zi[pixel] * zi[pixel]);
            let outside = rr + ii > 4.0;
            inside[pixel] &= i64::from(!outside);
            counts[pixel] = counts[pixel].wrapping_add(inside[pixel]);
            zi[pixel] = 2.0 * zr[pixel] * zi[pixel] + ci;
            zr[pixel] = (rr - ii) + cr[pixel];
        }
        if inside == [0; PIXELS] {
            break;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most `iterations`")]
    counts.map(|count| count as i32)
}

/// `checksum(x[...])`: XXH3-64 of the bytes, in the order of memory.
#[nif(pure)]
pub fn checksum(x: AnyArray<'_>) -> u64 {
    nif_copy::checksum(x.bytes())
}
