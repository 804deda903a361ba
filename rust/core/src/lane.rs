//! A call in a worker process.

pub mod exchange;
pub mod isolated;
pub mod lent;
pub mod parcel;
