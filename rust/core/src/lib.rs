//! `nif_lab._core`: what a call passes through on its way from Python to native code and back.
//!
//! Layers, from the bottom: `dtype`, `signature` know nothing of the rest; `store`, `arrays`, `memory` (with `buffer`, `file`, `keeper`), `host`, `owner`,
//! `interrupt`, `telemetry` serve a call; `frame` is one call, `straight` one without anything rare;
//! `nif`, `recorder` and `library` are what Python holds, `calls` is where it enters.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "CPython, NumPy and DLPack count the same things in isize, int, i64 and u64; each cast is between those"
)]

mod arrays;
mod buffer;
mod calls;
mod copies;
mod dtype;
mod errors;
mod exchange;
mod file;
mod frame;
mod frames;
mod host;
mod interrupt;
mod isolated;
mod julia;
mod keeper;
mod ledger;
mod library;
mod memory;
mod nif;
mod owner;
mod parcel;
mod python;
mod recorder;
mod ring;
mod sampler;
mod signature;
mod store;
mod straight;
mod target;
mod telemetry;
mod workers;

use nif_worker::clock;
use pyo3::prelude::*;

#[pymodule(gil_used = true)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    clock::start();
    python::start(module.py());
    arrays::check_layout(module.py())?;
    module.add_class::<library::Library>()?;
    module.add_class::<nif::Nif>()?;
    module.add_class::<owner::Owner>()?;
    module.add_class::<workers::Workers>()?;
    module.add_class::<memory::Memory>()?;
    module.add_class::<buffer::SharedBuffer>()?;
    module.add_class::<file::MappedFile>()?;
    module.add_class::<recorder::Recorder>()?;
    module.add_class::<telemetry::Telemetry>()?;
    module.add_function(wrap_pyfunction!(library::open_library, module)?)?;
    module.add_function(wrap_pyfunction!(library::open_tvm_ffi, module)?)?;
    module.add_function(wrap_pyfunction!(library::open_address, module)?)?;
    module.add_function(wrap_pyfunction!(library::open_isolated, module)?)?;
    module.add_function(wrap_pyfunction!(library::open_beside, module)?)?;
    module.add_function(wrap_pyfunction!(library::host_address, module)?)?;
    module.add_function(wrap_pyfunction!(library::layout, module)?)?;
    module.add_function(wrap_pyfunction!(memory::in_shared_memory, module)?)?;
    module.add_function(wrap_pyfunction!(copies::copy_array, module)?)?;
    module.add_function(wrap_pyfunction!(frames::view_frame, module)?)?;
    module.add_function(wrap_pyfunction!(julia::start_julia, module)?)?;
    Ok(())
}
