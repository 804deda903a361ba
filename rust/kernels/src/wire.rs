//! Values between languages: plain copies, and the frames of docs/wire.md.

use nif::{AnyArray, Error, Matrix, Tensor, nif};

use self::encoder::Encoder;
use self::schema::{COLUMNS, LIVE, Row};

mod decoder;
mod encoder;
mod error;
mod rules;
mod schema;
#[cfg(test)]
mod tests;

/// `write(x[...])`: a copy of x in the host's memory.
#[nif]
pub fn write(x: AnyArray<'_>) -> Result<Tensor, Error> {
    Tensor::copy_of(&x)
}

/// `address(x[...])`: where Rust sees the data.
#[nif(pure)]
pub fn address(x: AnyArray<'_>) -> u64 {
    x.bytes().as_ptr().addr() as u64
}

/// `decode(frame[...], dialect, version, live[h, w])`: the node table of a frame, which is checked completely.
#[nif(pure)]
pub fn decode(frame: AnyArray<'_>, dialect: i64, version: i64, live: Matrix<'_, i64>) -> Result<Tensor, Error> {
    check_columns("live", live, LIVE)?;
    let nodes = decoder::decode(frame.bytes(), dialect, version, live)?;
    let mut table = Tensor::zeros::<i64>(&[schema::cell(nodes.len()), schema::cell(COLUMNS)])?;
    let cells = table.elements_mut().unwrap_or_default();
    for (row, node) in cells.as_chunks_mut().0.iter_mut().zip(nodes) {
        *row = Row::from(node);
    }
    Ok(table)
}

/// `encode(nodes[m, w], data[...], dialect, version, alignment, checksum)`: the frame of a node table and its bytes,
/// behind as many zeros as align the payload to 64 bytes.
#[nif(pure)]
pub fn encode(
    nodes: Matrix<'_, i64>,
    data: AnyArray<'_>,
    dialect: i64,
    version: i64,
    alignment: i64,
    checksum: bool,
) -> Result<Tensor, Error> {
    check_columns("nodes", nodes, COLUMNS)?;
    let encoder = Encoder::new(nodes, data.bytes(), dialect, version, alignment)?;
    let mut frame = Tensor::bytes(schema::cell(encoder.length()))?;
    encoder.write(frame.bytes_mut(), checksum);
    Ok(frame)
}

fn check_columns(argument: &'static str, table: Matrix<'_, i64>, columns: usize) -> Result<(), Error> {
    match table.columns() {
        given if given == columns => Ok(()),
        given => Err(Error::value(argument, format!("expected {columns} columns, got {given}"))),
    }
}
