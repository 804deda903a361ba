//! A call: from Python's arguments to native code and back.

pub mod entries;
pub mod frame;
pub mod host;
pub mod interrupt;
pub mod nif;
pub mod owner;
pub mod signature;
pub mod straight;
pub mod target;
