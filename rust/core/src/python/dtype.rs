//! NumPy's element types and DLPack's.

use std::ffi::c_int;

use nif::abi::{DType, dtype_code};
use numpy::npyffi::NPY_TYPES;

/// One row of the table: name in a signature, NumPy's number, DLPack's code, bits.
type Row = (&'static str, NPY_TYPES, u8, u8);

/// The element types that cross the ABI. LONGLONG is a second name of LONG on 64-bit Linux.
const ROWS: &[Row] = &[
    ("bool", NPY_TYPES::NPY_BOOL, dtype_code::BOOL, 8),
    ("i8", NPY_TYPES::NPY_BYTE, dtype_code::INT, 8),
    ("u8", NPY_TYPES::NPY_UBYTE, dtype_code::UINT, 8),
    ("i16", NPY_TYPES::NPY_SHORT, dtype_code::INT, 16),
    ("u16", NPY_TYPES::NPY_USHORT, dtype_code::UINT, 16),
    ("i32", NPY_TYPES::NPY_INT, dtype_code::INT, 32),
    ("u32", NPY_TYPES::NPY_UINT, dtype_code::UINT, 32),
    ("i64", NPY_TYPES::NPY_LONG, dtype_code::INT, 64),
    ("u64", NPY_TYPES::NPY_ULONG, dtype_code::UINT, 64),
    ("i64", NPY_TYPES::NPY_LONGLONG, dtype_code::INT, 64),
    ("u64", NPY_TYPES::NPY_ULONGLONG, dtype_code::UINT, 64),
    ("f16", NPY_TYPES::NPY_HALF, dtype_code::FLOAT, 16),
    ("f32", NPY_TYPES::NPY_FLOAT, dtype_code::FLOAT, 32),
    ("f64", NPY_TYPES::NPY_DOUBLE, dtype_code::FLOAT, 64),
    ("c64", NPY_TYPES::NPY_CFLOAT, dtype_code::COMPLEX, 64),
    ("c128", NPY_TYPES::NPY_CDOUBLE, dtype_code::COMPLEX, 128),
];

const TABLE_SIZE: usize = 32;

/// Indexed by NumPy's number, so that a call looks up and doesn't search.
static BY_NUMPY: [Option<DType>; TABLE_SIZE] = {
    let mut table = [None; TABLE_SIZE];
    let mut i = 0;
    while i < ROWS.len() {
        table[ROWS[i].1 as usize] = Some(DType { code: ROWS[i].2, bits: ROWS[i].3, lanes: 1 });
        i += 1;
    }
    table
};

/// DLPack's type for NumPy's number.
#[inline]
pub fn from_numpy(type_num: c_int) -> Option<DType> {
    BY_NUMPY.get(usize::try_from(type_num).ok()?).copied().flatten()
}

/// The bytes of an element of DLPack's type, if NumPy has it.
#[inline]
pub fn size_of(dtype: DType) -> Option<usize> {
    let bytes = usize::from(dtype.bits / 8);
    let is_known = dtype.lanes == 1
        && dtype.bits.is_multiple_of(8)
        && match dtype.code {
            dtype_code::BOOL => bytes == 1,
            dtype_code::INT | dtype_code::UINT => matches!(bytes, 1 | 2 | 4 | 8),
            dtype_code::FLOAT => matches!(bytes, 2 | 4 | 8),
            dtype_code::COMPLEX => matches!(bytes, 8 | 16),
            _ => false,
        };
    is_known.then_some(bytes)
}

/// NumPy's number and the size in bytes for a signature's word (`f64`).
pub fn by_name(name: &str) -> Option<(c_int, usize)> {
    ROWS.iter().find(|row| row.0 == name).map(|row| (row.1 as c_int, usize::from(row.3 / 8)))
}

/// DLPack's type for a signature's word.
pub fn named(name: &str) -> Option<DType> {
    ROWS.iter().find(|row| row.0 == name).map(|row| DType { code: row.2, bits: row.3, lanes: 1 })
}

/// NumPy's number and the size in bytes for DLPack's type.
pub fn to_numpy(dtype: DType) -> Option<(c_int, usize)> {
    ROWS.iter()
        .find(|row| (row.2, row.3) == (dtype.code, dtype.bits) && dtype.lanes == 1)
        .map(|row| (row.1 as c_int, usize::from(row.3 / 8)))
}
