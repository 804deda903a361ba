//! What can go wrong with a device.

use std::fmt;

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something couldn't be done on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no driver or no such device: why, and what helps.
    Unavailable { reason: String, cure: String },
    /// A pool's name, what is in use, its limit and what was asked for, in bytes.
    Full { pool: String, active: usize, limit: usize, wanted: usize },
    /// The driver refused: its code, its name for it, and what was being done.
    Driver { code: i32, name: String, doing: String },
    /// A handle whose block was released.
    Stale,
    /// A handle that no block here has.
    Unknown,
    /// An array that must not be written to.
    ReadOnly,
    /// An array of another library, which no other process can map.
    Foreign,
    /// What another process said of a number that this one asked about: its code and its words.
    Told { code: i32, text: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { reason, cure } => write!(f, "{reason}\nTo fix: {cure}"),
            Self::Full { pool, active, limit, wanted } => write!(
                f,
                "pool '{pool}' has no room for {wanted} bytes: {active} bytes are in use, its limit is {limit}; release \
                 buffers, or make the Lab with a larger limit for that pool"
            ),
            Self::Driver { code, name, doing } => write!(f, "{doing}: the driver says {name} ({code})"),
            Self::Stale => f.write_str("the block of this handle was released; ask its owner for a new one"),
            Self::ReadOnly => f.write_str("is read-only: copy it first"),
            Self::Foreign => f.write_str(
                "is an array of another library, which a worker can't map: call the direct lane, or copy it into a buffer of \
                 lab.memory.allocate(..., device=\"gpu\")",
            ),
            Self::Told { text, .. } => f.write_str(text),
            Self::Unknown => f.write_str("this handle is of another Lab's memory, or damaged"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Its number in the ABI: the driver's own, which are positive, or one of [`codes`].
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Driver { code, .. } => (*code).max(1),
            Self::Told { code, .. } => *code,
            Self::Unknown | Self::Foreign => codes::UNKNOWN,
            Self::Stale => codes::STALE,
            Self::ReadOnly => codes::READ_ONLY,
            Self::Unavailable { .. } | Self::Full { .. } => codes::UNAVAILABLE,
        }
    }
}

/// Codes beside the driver's own.
pub mod codes {
    pub const UNKNOWN: i32 = -1;
    pub const STALE: i32 = -2;
    pub const UNAVAILABLE: i32 = -3;
    pub const READ_ONLY: i32 = -4;
}
