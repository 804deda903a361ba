//! A call: from Python's arguments to native code and back.

pub mod adapt;
pub mod callback;
pub mod entries;
pub mod failure;
pub mod foreign;
pub mod frame;
mod given;
pub mod host;
pub mod interrupt;
pub mod limits;
pub mod nif;
pub mod origin;
pub mod outcome;
pub mod output;
pub mod owner;
pub mod progress;
pub mod readers;
pub mod results;
pub mod running;
pub mod shape;
pub mod signature;
pub mod straight;
pub mod target;
mod texts;
