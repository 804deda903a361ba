//! A shared buffer: one block, owned by languages that are counted.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nif::abi::{DEVICE_CPU, DType, Device, Tensor};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyTuple};

use crate::memory::arrays::Layout;
use crate::memory::block::Block;
use crate::memory::common::{Common, lock};
use crate::memory::dlpack;
use crate::memory::shared::Shared;
use crate::python;
use crate::python::errors::buffer_error;

/// Why a child of fork can't write to a buffer or release it.
pub const INHERITED: &str = "this buffer belongs to the process that this one was forked from: here it can only be read\n\
                             To fix: allocate a buffer in this process, or copy this one: numpy.array(buffer)";

/// What an array over a buffer has as its base: it keeps the block.
#[pyclass(frozen, module = "nif_lab._core")]
struct BlockKeeper {
    _block: Arc<Block>,
}

/// One block of shared memory as an array that languages own together.
///
/// It is freed when the last owner has released it and the last NumPy view is gone.
#[pyclass(frozen, module = "nif_lab", weakref)]
pub struct SharedBuffer {
    shared: Arc<Shared>,
    common: Arc<Common>,
    /// The array that functions get; None once the last owner has released.
    array: Mutex<Option<Py<PyAny>>>,
    /// Its axes, lengths and then strides in elements, as others take them by DLPack.
    axes: Box<[i64]>,
    /// None for elements that DLPack doesn't have.
    dtype: Option<DType>,
}

/// A buffer as a tensor, its axes, whether it may only be read, and its memory.
type Leave = (Tensor, Box<[i64]>, bool, Arc<Block>);

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        self.shared.is_held.store(false, Ordering::Release);
        if self.shared.is_inherited() {
            return; // the parent's to free; a thread of it may have had the locks at the fork
        }
        if self.shared.count() == 0 {
            self.forget();
        }
    }
}

/// What NumPy assigns: of another library's array its elements, which NumPy may not know how to read.
fn elements<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    let is_numpys = unsafe {
        // SAFETY: this thread is attached, and the object is alive.
        ffi::Py_TYPE(value.as_ptr()) == python::array_type()
    };
    if is_numpys || value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>() {
        return Ok(value.clone());
    }
    let given = py.import("nif_lab.arrays")?.call_method1("given_array", ("value", value))?;
    Ok(if given.is_none() { value.clone() } else { given })
}

fn released(py: Python<'_>) -> PyErr {
    buffer_error(py, "BufferReleased", "this buffer was released by all its owners")
}

impl SharedBuffer {
    pub fn new(
        py: Python<'_>,
        common: &Arc<Common>,
        block: Block,
        mut layout: Layout,
        languages: Vec<String>,
    ) -> PyResult<Self> {
        let mut owners = BTreeMap::new();
        for language in languages {
            *owners.entry(language).or_insert(0) += 1;
        }
        let block = Arc::new(block);
        let keeper = Py::new(py, BlockKeeper { _block: Arc::clone(&block) })?.into_any();
        let array = layout.view(py, block.address(), true, keeper)?;
        let shared = Arc::new(Shared {
            size: block.size(),
            handle: block.handle(),
            address: block.address().as_ptr() as usize,
            forks: nif_memory::forks(),
            block: Mutex::new(Some(block)),
            owners: Mutex::new(owners),
            is_held: AtomicBool::new(true),
        });
        common.buffers().insert((shared.handle.segment, shared.handle.offset), Arc::clone(&shared));
        let dtype = layout.dtype();
        let axes = dlpack::with_strides(&layout.shape());
        Ok(Self { shared, common: Arc::clone(common), array: Mutex::new(Some(array)), axes, dtype })
    }

    /// The buffer as a tensor, which is valid while the buffer isn't released.
    pub fn tensor(&self, py: Python<'_>) -> PyResult<Tensor> {
        drop(self.array(py)?); // or an exception says that there is none any more
        let dtype = self.dtype.ok_or_else(|| PyBufferError::new_err("DLPack has no such element type"))?;
        let axes = self.axes.len() / 2;
        Ok(Tensor {
            data: std::ptr::with_exposed_provenance_mut::<u8>(self.shared.address).cast(),
            device: Device { r#type: DEVICE_CPU, id: 0 },
            ndim: axes as i32,
            dtype,
            shape: self.axes.as_ptr().cast_mut(),
            strides: self.axes[axes..].as_ptr().cast_mut(),
            byte_offset: 0,
        })
    }

    /// The same with its axes, whether it may only be read, and what keeps its memory without the buffer.
    pub fn leave(&self, py: Python<'_>) -> PyResult<Leave> {
        let tensor = self.tensor(py)?;
        let block = lock(&self.shared.block).clone();
        let block = block.ok_or_else(|| buffer_error(py, "BufferReleased", "this buffer was released"))?;
        Ok((tensor, self.axes.clone(), self.is_inherited(), block))
    }

    /// The array that functions get.
    pub fn array(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if !self.shared.is_inherited() && self.shared.count() == 0 {
            self.close(); // all its owners may be gone
        }
        let array = lock(&self.array).as_ref().map(|it| it.clone_ref(py));
        if let (Some(array), true) = (&array, self.shared.is_inherited()) {
            let copied = array.call_method0(py, "view")?;
            copied.getattr(py, "flags")?.setattr(py, "writeable", false)?;
            return Ok(copied);
        }
        array.ok_or_else(|| released(py))
    }

    /// Is it the parent's, and this process a child by fork? Then it can be read.
    pub fn is_inherited(&self) -> bool {
        self.shared.is_inherited()
    }

    /// Refuse to write and to release in a child of fork: that would reach nobody the buffer is shared with.
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_inherited() { Err(buffer_error(py, "OwnershipError", INHERITED)) } else { Ok(()) }
    }

    fn forget(&self) {
        let place = (self.shared.handle.segment, self.shared.handle.offset);
        let mut buffers = self.common.buffers();
        // Released before, its block may be another buffer's by now.
        if buffers.get(&place).is_some_and(|it| Arc::ptr_eq(it, &self.shared)) {
            buffers.remove(&place);
        }
        drop(buffers);
        self.shared.free();
    }

    fn names(&self) -> String {
        let owners = self.shared.owners();
        let names: Vec<&str> = owners.iter().filter(|(_, count)| **count > 0).map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }
}

#[pymethods]
impl SharedBuffer {
    /// The elements, as a NumPy array over the same memory. It keeps the memory, not the buffer.
    #[getter(array)]
    fn view(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        // A view: whoever changes its shape in place doesn't change what functions get.
        self.array(py)?.call_method0(py, "view")
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__(&self, py: Python<'_>, dtype: Option<Py<PyAny>>, copy: Option<bool>) -> PyResult<Py<PyAny>> {
        let view = self.view(py)?;
        let kwargs = PyDict::new(py);
        kwargs.set_item("dtype", dtype)?;
        kwargs.set_item("copy", copy)?;
        Ok(py.import("numpy")?.call_method("array", (view,), Some(&kwargs))?.unbind())
    }

    /// The functions by which other libraries take a buffer without a call of Python's.
    #[classattr]
    fn __dlpack_c_exchange_api__(py: Python<'_>) -> PyResult<Py<PyAny>> {
        dlpack::capsule(py)
    }

    #[pyo3(signature = (**options))]
    fn __dlpack__(&self, py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Py<PyAny>> {
        self.view(py)?.call_method(py, "__dlpack__", (), options)
    }

    #[staticmethod]
    fn __dlpack_device__() -> (i32, i32) {
        (DEVICE_CPU, 0)
    }

    unsafe fn __getbuffer__(&self, py: Python<'_>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let array = self.view(py)?;
        // SAFETY: Python passes a buffer to fill; the array fills it and keeps itself alive in it.
        if unsafe { ffi::PyObject_GetBuffer(array.as_ptr(), view, flags) } < 0 {
            return Err(PyErr::take(py).unwrap_or_else(|| PyBufferError::new_err("no buffer")));
        }
        Ok(())
    }

    /// How many owners there are: the sum of their counts.
    #[getter]
    fn reference_count(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_process(py)?;
        Ok(self.shared.count())
    }

    /// How often each language owns the buffer.
    #[getter]
    fn owners(&self, py: Python<'_>) -> PyResult<BTreeMap<String, usize>> {
        self.check_process(py)?;
        Ok(self.shared.owners().into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// Whether the last owner has released it.
    #[getter]
    fn released(&self, py: Python<'_>) -> PyResult<bool> {
        self.check_process(py)?;
        Ok(self.shared.count() == 0)
    }

    /// Size in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.shared.size
    }

    /// Segment, generation and offset: what another process is told.
    #[getter]
    fn handle(&self) -> (u64, u64, u64) {
        let handle = self.shared.handle;
        (handle.segment, handle.generation, handle.offset)
    }

    /// What another process maps it by: a descriptor of its segment, which is the caller's to close, and where in it the
    /// buffer begins. It stays the buffer of its owners, so who lends it retains it first.
    fn lend(&self, py: Python<'_>) -> PyResult<(i32, u64)> {
        self.check_process(py)?;
        let block = lock(&self.shared.block).clone().ok_or_else(|| released(py))?;
        block.lend();
        let handle = self.shared.handle;
        let segments = self.common.arena.segments();
        let segment = segments.iter().find(|it| it.id == handle.segment).ok_or_else(|| released(py))?;
        Ok((segment.file.try_clone()?.into_raw_fd(), handle.offset))
    }

    /// Address of the first element in this process.
    #[getter]
    fn address(&self) -> usize {
        self.shared.address
    }

    #[getter]
    fn shape(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.array(py)?.getattr(py, "shape")
    }

    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.array(py)?.getattr(py, "dtype")
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.array(py)?.bind(py).len()
    }

    fn __getitem__(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Ok(self.array(py)?.bind(py).get_item(index)?.unbind())
    }

    fn __setitem__(&self, py: Python<'_>, index: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.check_process(py)?;
        self.array(py)?.bind(py).set_item(index, elements(value)?)
    }

    /// Fill the buffer with the elements of any array that a function takes, or with one number.
    fn copy_from(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.__setitem__(py, py.Ellipsis().bind(py), value)
    }

    /// Let a language own the buffer once more.
    #[pyo3(signature = (language="python"))]
    fn retain(&self, py: Python<'_>, language: &str) -> PyResult<()> {
        self.check_process(py)?;
        self.array(py)?;
        if self.shared.retain(language) { Ok(()) } else { Err(released(py)) }
    }

    /// End a language's ownership; the last one frees the memory, as soon as no view of it is left.
    #[pyo3(signature = (language="python"))]
    fn release(&self, py: Python<'_>, language: &str) -> PyResult<()> {
        self.check_process(py)?;
        self.array(py)?;
        match self.shared.release(language) {
            (_, true) => self.close(),
            (Some(1..), false) => {}
            (Some(0), _) => {
                let reason = format!("{language} has released this buffer before; its owners are {}", self.names());
                return Err(buffer_error(py, "OwnershipError", &reason));
            }
            (None, _) => {
                let reason = format!("{language} doesn't own this buffer; its owners are {}", self.names());
                return Err(buffer_error(py, "OwnershipError", &reason));
            }
        }
        Ok(())
    }

    /// Release it for all owners. Nothing happens if that was done before.
    fn close(&self) {
        if self.shared.is_inherited() {
            return;
        }
        for count in lock(&self.shared.owners).values_mut() {
            *count = 0;
        }
        self.forget();
        let array = lock(&self.array).take();
        drop(array);
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        if self.shared.is_inherited() {
            return Ok("<SharedBuffer of the process that this one was forked from>".into());
        }
        let Ok(array) = self.array(py) else { return Ok("<SharedBuffer, released>".into()) };
        let (shape, dtype) = (array.getattr(py, "shape")?, array.getattr(py, "dtype")?);
        Ok(format!("<SharedBuffer {dtype} {shape}, owned by {}>", self.names()))
    }
}
