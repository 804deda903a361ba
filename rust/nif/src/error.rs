//! Why a call fails.

use std::borrow::Cow;
use std::collections::TryReserveError;

use crate::abi::error_kind;

type Text = Cow<'static, str>;

/// The error of a NIF. `argument` is the parameter at fault, by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{message}")]
    Type { argument: Option<&'static str>, message: Text },
    #[error("{message}")]
    Value { argument: Option<&'static str>, message: Text },
    /// Whatever is neither of the arguments' types nor of their values.
    #[error("{0}")]
    Other(Text),
    #[error("{0}")]
    Panic(Text),
    /// An index is out of bounds.
    #[error("{0}")]
    Index(Text),
    #[error("{0}")]
    Memory(Text),
    #[error("cancelled")]
    Cancelled,
    /// A callback failed: the caller gets the exception that it raised.
    #[error("a callback raised an exception")]
    Raised,
    /// The driver of a GPU refused, or a kernel failed.
    #[error("{0}")]
    Gpu(Text),
}

impl Error {
    /// An argument has the right type and a value that the function refuses.
    pub fn value(argument: &'static str, message: impl Into<Text>) -> Self {
        Self::Value { argument: Some(argument), message: message.into() }
    }

    pub(crate) fn type_(argument: &'static str, message: impl Into<Text>) -> Self {
        Self::Type { argument: Some(argument), message: message.into() }
    }

    /// `kind` of `nif_host.set_error`.
    pub(crate) fn kind(&self) -> i32 {
        match self {
            Self::Type { .. } => error_kind::TYPE_ERROR,
            Self::Value { .. } => error_kind::VALUE_ERROR,
            Self::Other(_) => error_kind::ERROR,
            Self::Panic(_) => error_kind::PANIC,
            Self::Index(_) => error_kind::INDEX_ERROR,
            Self::Memory(_) => error_kind::MEMORY_ERROR,
            Self::Cancelled => error_kind::CANCELLED,
            Self::Raised => error_kind::RAISED,
            Self::Gpu(_) => error_kind::GPU_ERROR,
        }
    }

    pub(crate) fn argument(&self) -> Option<&'static str> {
        match self {
            Self::Type { argument, .. } | Self::Value { argument, .. } => *argument,
            _ => None,
        }
    }
}

impl From<TryReserveError> for Error {
    fn from(_: TryReserveError) -> Self {
        Self::Memory("out of memory".into())
    }
}
