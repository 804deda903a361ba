//! `nif_lab._core`: what a call passes through on its way from Python to native code and back.
//!
//! Six wings, from the top: `face` is what Python holds, `lane` a call in a worker, `call` a call, `memory` arrays,
//! `telemetry` counters, `python` the ground. Imports go down only; `tests/test_tidy.py` checks it.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "CPython, NumPy and DLPack count the same things in isize, int, i64 and u64; each cast is between those"
)]

mod call;
mod face;
mod lane;
mod memory;
mod python;
mod telemetry;

use nif_loader::clock;
use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    clock::start();
    python::start(module.py())?;
    call::output::start(module.py())?;
    memory::arrays::check_layout(module.py())?;
    module.add_class::<face::library::Library>()?;
    module.add_class::<call::nif::Nif>()?;
    module.add_class::<call::owner::Owner>()?;
    module.add_class::<face::workers::Workers>()?;
    module.add_class::<memory::Memory>()?;
    module.add_class::<memory::buffer::SharedBuffer>()?;
    module.add_class::<memory::file::MappedFile>()?;
    module.add_class::<memory::gpu::Gpu>()?;
    module.add_class::<memory::gpu::buffer::DeviceBuffer>()?;
    module.add_class::<telemetry::recorder::Recorder>()?;
    module.add_class::<telemetry::Telemetry>()?;
    module.add_function(wrap_pyfunction!(face::library::open_library, module)?)?;
    module.add_function(wrap_pyfunction!(face::library::open_tvm_ffi, module)?)?;
    module.add_function(wrap_pyfunction!(face::library::open_address, module)?)?;
    module.add_function(wrap_pyfunction!(face::library::open_isolated, module)?)?;
    module.add_function(wrap_pyfunction!(face::library::open_beside, module)?)?;
    module.add_function(wrap_pyfunction!(face::library::host_address, module)?)?;
    module.add_function(wrap_pyfunction!(face::library::layout, module)?)?;
    module.add_function(wrap_pyfunction!(telemetry::telemetry_layout, module)?)?;
    module.add_function(wrap_pyfunction!(memory::in_shared_memory, module)?)?;
    module.add_function(wrap_pyfunction!(memory::gpu::gpu_driver, module)?)?;
    module.add_function(wrap_pyfunction!(memory::gpu::gpu_device, module)?)?;
    module.add_function(wrap_pyfunction!(memory::gpu::gpu_load, module)?)?;
    module.add_function(wrap_pyfunction!(memory::gpu::gpu_kernel, module)?)?;
    module.add_function(wrap_pyfunction!(memory::gpu::gpu_synchronize, module)?)?;
    module.add_function(wrap_pyfunction!(memory::gpu::gpu_is_stale, module)?)?;
    module.add_function(wrap_pyfunction!(memory::gpu::gpu_array, module)?)?;
    module.add_function(wrap_pyfunction!(memory::copies::copy_array, module)?)?;
    module.add_function(wrap_pyfunction!(memory::frames::encode_frame, module)?)?;
    module.add_function(wrap_pyfunction!(memory::frames::view_frame, module)?)?;
    module.add_function(wrap_pyfunction!(memory::dlpack::read_table, module)?)?;
    module.add_function(wrap_pyfunction!(face::plain::plain, module)?)?;
    module.add_function(wrap_pyfunction!(call::owner::end_runtimes, module)?)?;
    module.add_function(wrap_pyfunction!(face::julia::start_julia, module)?)?;
    module.add_function(wrap_pyfunction!(face::julia::keep_signals, module)?)?;
    Ok(())
}
