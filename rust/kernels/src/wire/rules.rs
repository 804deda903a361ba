//! What decoder and encoder share: sizes, and the checks that both make.

use super::schema::{LINE, item};

/// Bytes of an array's payload. `None` when the element size times all dimensions that aren't 0 is 2^63 or more.
pub fn array_length(dtype: u8, shape: &[i64]) -> Option<u64> {
    let item = i64::from(item(dtype)?);
    let extent = shape.iter().filter(|size| **size > 0).try_fold(item, |all, size| all.checked_mul(*size))?;
    Some(if shape.contains(&0) { 0 } else { extent.cast_unsigned() })
}

/// An alignment, if it is one.
pub fn alignment(number: i64) -> Option<u8> {
    u8::try_from(number).ok().filter(|it| it.is_power_of_two() && *it <= 64)
}

/// Whether a name or title is UTF-8 without NUL.
pub fn is_text(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'))
}

/// The first byte with bits outside a mask.
pub fn first_outside(bytes: &[u8], mask: u8) -> Option<usize> {
    bytes.chunks(LINE).zip((0..).step_by(LINE)).find_map(|(chunk, start)| {
        let any = chunk.iter().fold(0, |all, byte| all | byte) & !mask > 0;
        any.then(|| start + chunk.iter().take_while(|byte| **byte & !mask == 0).count())
    })
}

/// A number of 8 bytes.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// A number of 4 bytes.
pub fn half(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |half| u32::from_le_bytes(*half))
}
