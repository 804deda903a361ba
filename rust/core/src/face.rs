//! What Python holds: libraries, functions, workers, a Julia.

pub mod julia;
pub mod library;
pub mod nif;
pub mod plain;
pub mod workers;
