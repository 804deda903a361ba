//! Why a frame or a node table is refused: code, words and place are the same in every language.

use std::fmt;

use nif::Error;

/// A rule of docs/wire.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Short,
    Version,
    Marker,
    Overflow,
    Length,
    Trailing,
    Dim,
    Align,
    Pad,
    Value,
    Handle,
    Stale,
    Depth,
    Limit,
    Duplicate,
    Utf8,
    Checksum,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Self::Short => "SHORT: the frame ends within its header",
            Self::Version => "VERSION: not a frame of the expected version",
            Self::Marker => "MARKER: no such type, or not accepted here",
            Self::Overflow => "OVERFLOW: the size is more than the format can express",
            Self::Length => "LENGTH: sizes and the bytes that are there do not agree",
            Self::Trailing => "TRAILING: bytes after the end",
            Self::Dim => "DIM: a dimension above the limit",
            Self::Align => "ALIGN: the alignment is not 1, 2, 4, 8, 16, 32 or 64",
            Self::Pad => "PAD: padding is not zero",
            Self::Value => "VALUE: a value that is not allowed here",
            Self::Handle => "HANDLE: no such device block, or not as described",
            Self::Stale => "STALE: the handle's block was freed",
            Self::Depth => "DEPTH: nested more than 64 deep",
            Self::Limit => "LIMIT: more than 512 values, or a name that is empty or over 255 bytes",
            Self::Duplicate => "DUPLICATE: two children of one name",
            Self::Utf8 => "UTF8: a name that is not UTF-8, or contains NUL",
            Self::Checksum => "CHECKSUM: the checksum is wrong",
        }
    }

    /// The error of an argument, which has no place.
    pub fn anywhere(self) -> WireError {
        WireError { code: self, place: Place::None }
    }

    /// The error at a byte of the frame.
    #[cold]
    pub fn at(self, byte: usize) -> WireError {
        WireError { code: self, place: Place::Byte(byte) }
    }

    /// The error in a row of the node table.
    #[cold]
    pub fn in_row(self, row: usize) -> WireError {
        WireError { code: self, place: Place::Node(row) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    None,
    Byte(usize),
    Node(usize),
}

/// A broken rule, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireError {
    code: Code,
    place: Place,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.text())?;
        match self.place {
            Place::None => Ok(()),
            Place::Byte(at) => write!(f, " (byte {at})"),
            Place::Node(row) => write!(f, " (node {row})"),
        }
    }
}

impl std::error::Error for WireError {}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::Value { argument: None, message: error.to_string().into() }
    }
}
