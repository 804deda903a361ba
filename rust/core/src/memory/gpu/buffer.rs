//! An array on a device that languages own together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nif::abi::{DType, Device as DeviceNumber};
use nif_gpu::buffers::{self, Entry};
use nif_gpu::{Block, Device, Handle, Pinned};
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, PyArrayObject};
use numpy::{PY_ARRAY_API, PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::memory::common::{Common, lock};
use crate::memory::dlpack;
use crate::memory::gpu::owners::Owners;
use crate::python;
use crate::python::errors::{buffer_error, gpu_error};

/// Copies between the host and a device, as the ledger has them.
const TO_DEVICE: &str = "host to device";
const FROM_DEVICE: &str = "device to host";
/// Copies of so many bytes lock the host's memory in place.
const WORTH_LOCKING: usize = 1 << 20;
/// `__dlpack__`'s numbers of streams: the default one, and each thread's own.
const NO_STREAM: i64 = -1;
pub const DEFAULT_STREAM: i64 = 1;

/// The memory of a buffer: a block of a pool, or another library's array. Views of it hold it too.
pub struct Held {
    pub number: u64,
    device: &'static Device,
    block: Option<Block>,
    _object: Option<Py<PyAny>>,
    /// Another stream than the default one has got it.
    is_elsewhere: AtomicBool,
    forks: u32,
}

impl Held {
    pub fn new(
        number: u64,
        entry: &Entry,
        device: &'static Device,
        block: Option<Block>,
        object: Option<Py<PyAny>>,
    ) -> Arc<Self> {
        buffers::publish(number, entry.clone());
        let forks = nif_memory::forks();
        Arc::new(Self { number, device, block, _object: object, is_elsewhere: AtomicBool::new(false), forks })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.forks != nif_memory::forks() {
            return; // the parent's
        }
        buffers::forget(self.number);
        if self.is_elsewhere.load(Ordering::Acquire) && self.block.is_some() {
            // Nobody knows whether that stream still exists. A device that failed has nothing left to wait for.
            let _ = self.device.synchronize_all();
        }
    }
}

/// One block of a device's memory as an array that languages own together.
///
/// It is freed when the last owner has released it and the last view of another library is gone.
#[pyclass(frozen, module = "nif_lab", weakref)]
pub struct DeviceBuffer {
    /// None once the last owner has released it.
    held: Mutex<Option<Arc<Held>>>,
    owners: Mutex<Owners>,
    forks: u32,
    entry: Entry,
    handle: Handle,
    common: Option<Arc<Common>>,
    /// What libraries got that only know the address: they rely on this object, so it keeps the memory.
    lent: Mutex<Option<Arc<Held>>>,
}

/// DLPack's type of NumPy's, and the bytes of so many elements.
pub fn measure(dtype: &Bound<'_, PyArrayDescr>, lengths: &[i64]) -> PyResult<(DType, usize)> {
    let found = python::dtype::from_numpy(dtype.num()).filter(|_| dtype.is_native_byteorder() != Some(false));
    let found =
        found.ok_or_else(|| PyTypeError::new_err("devices have numbers and truth values of native byte order"))?;
    let item = usize::from(found.bits / 8);
    if let Some(length) = lengths.iter().find(|it| **it < 0) {
        return Err(PyValueError::new_err(format!("an axis has 0 elements or more, got {length}")));
    }
    let bytes = lengths.iter().try_fold(item, |n, length| n.checked_mul(usize::try_from(*length).ok()?));
    let bytes =
        bytes.ok_or_else(|| PyValueError::new_err(format!("shape {lengths:?} is more than can be addressed")))?;
    Ok((found, bytes))
}

/// An array on a device, as the calls of all languages find it.
pub fn entry(device: &Device, address: u64, bytes: usize, dtype: DType, lengths: &[i64], is_read_only: bool) -> Entry {
    let number = DeviceNumber { r#type: device.driver.kind.dlpack(), id: device.id };
    Entry { address, bytes, dtype, lengths: lengths.into(), device: number, is_read_only }
}

fn released(py: Python<'_>) -> PyErr {
    buffer_error(py, "BufferReleased", "this buffer was released by all its owners")
}

impl DeviceBuffer {
    pub fn new(held: Arc<Held>, entry: Entry, handle: Handle, owners: Owners, common: Option<&Arc<Common>>) -> Self {
        Self {
            held: Mutex::new(Some(held)),
            owners: Mutex::new(owners),
            forks: nif_memory::forks(),
            entry,
            handle,
            common: common.cloned(),
            lent: Mutex::new(None),
        }
    }

    fn free(&self) {
        let held = lock(&self.held).take();
        drop(held);
    }

    /// Its memory, which the caller then keeps.
    pub fn held(&self, py: Python<'_>) -> PyResult<Arc<Held>> {
        if self.forks != nif_memory::forks() {
            let reason = "this buffer belongs to the process that this one was forked from, and drivers don't work after a fork\n\
                          To fix: start processes by multiprocessing's \"spawn\", or copy it before: buffer.numpy()";
            return Err(buffer_error(py, "OwnershipError", reason));
        }
        lock(&self.held).clone().ok_or_else(|| released(py))
    }

    fn note(&self, bytes: usize, reason: &str) {
        if let Some(common) = &self.common {
            common.ledger().note(bytes, "gpu", reason);
        }
    }

    /// Keep the pool's block in which a range of the host's memory lies in place, so that this copy and later ones are fast.
    fn keep_in_place(&self, address: usize, bytes: usize, device: &'static Device) {
        let Some(common) = self.common.as_ref().filter(|_| bytes >= WORTH_LOCKING) else { return };
        common.arena.pin(address, bytes, |start, size| {
            // SAFETY: the pool drops it before it gives the pages back. If they can't be locked the copy is slower.
            let pinned = unsafe { Pinned::new(device, start.as_ptr().cast(), size) };
            pinned.ok().map(|it| Box::new(it) as nif_memory::Pin)
        });
    }

    /// Copy all elements into an array of the same shape and type, row-major.
    fn download(&self, held: &Held, array: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
        let py = array.py();
        // SAFETY: it is an array.
        let data = unsafe { (*array.as_array_ptr()).fields.data } as usize;
        let (from, bytes) = (self.entry.address, self.entry.bytes);
        let copied = py.detach(|| {
            self.keep_in_place(data, bytes, held.device);
            let to = std::ptr::with_exposed_provenance_mut(data);
            // SAFETY: as many bytes on both sides; the caller keeps the array.
            unsafe { held.device.download(to, from, bytes) }
        });
        copied.map_err(|error| gpu_error(py, &error))?;
        self.note(bytes, FROM_DEVICE);
        Ok(())
    }

    fn device_(&self, py: Python<'_>) -> PyResult<&'static Device> {
        Ok(self.held(py)?.device)
    }

    fn names(&self) -> String {
        let owners = lock(&self.owners);
        let mut names: Vec<&str> = owners.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.join(", ")
    }

    fn numpy_dtype<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (number, _) =
            python::dtype::to_numpy(self.entry.dtype).ok_or_else(|| PyTypeError::new_err("no such element type"))?;
        // SAFETY: NumPy knows the number; a new reference, or an exception.
        unsafe { Bound::from_owned_ptr_or_err(py, PY_ARRAY_API.PyArray_DescrFromType(py, number).cast()) }
    }

    fn refuse_inherited(&self, py: Python<'_>) -> PyResult<()> {
        if self.forks == nif_memory::forks() { Ok(()) } else { self.held(py).map(|_| ()) }
    }
}

#[pymethods]
impl DeviceBuffer {
    /// A copy in the host's memory, as a NumPy array; it waits for the device.
    fn numpy(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let held = self.held(py)?;
        let array = py.import("numpy")?.call_method1("empty", (self.shape(py)?, self.numpy_dtype(py)?))?;
        self.download(&held, array.cast()?)?;
        Ok(array.unbind())
    }

    /// Set the elements of an array of the host, of the same shape and type, to these; it waits for the device.
    fn copy_to(&self, target: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = target.py();
        let held = self.held(py)?;
        let array = target.cast::<PyUntypedArray>().map_err(|_| {
            PyTypeError::new_err("expected a NumPy array to write to (of a SharedBuffer: buffer.array)")
        })?;
        let lengths: Vec<i64> = array.shape().iter().map(|it| *it as i64).collect();
        if *lengths != *self.entry.lengths {
            return Err(PyValueError::new_err(format!("expected shape {:?}, got {lengths:?}", self.entry.lengths)));
        }
        let (found, wanted) = (array.dtype(), self.numpy_dtype(py)?);
        if !found.eq(&wanted)? {
            return Err(PyTypeError::new_err(format!("expected elements of type {wanted}, got {found}")));
        }
        // SAFETY: it is an array.
        let flags = unsafe { (*array.as_array_ptr()).fields.flags };
        if !array.is_c_contiguous() || flags & NPY_ARRAY_WRITEABLE == 0 {
            return Err(PyValueError::new_err("expected a row-major array that can be written to (numpy.empty_like)"));
        }
        self.download(&held, array)
    }

    /// Set the elements to those of an array of the host, of the same shape; it waits until that may change again.
    fn copy_from(&self, source: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = source.py();
        let held = self.held(py)?;
        if self.entry.is_read_only {
            return Err(buffer_error(py, "AccessError", "this array of another library is read-only"));
        }
        let numpy = py.import("numpy")?;
        let array = numpy.call_method1("ascontiguousarray", (source, self.numpy_dtype(py)?))?;
        let array =
            if self.entry.lengths.is_empty() { array.call_method1("reshape", (PyTuple::empty(py),))? } else { array };
        let lengths: Vec<i64> = array.getattr("shape")?.extract()?;
        if *lengths != *self.entry.lengths {
            return Err(PyValueError::new_err(format!("expected shape {:?}, got {lengths:?}", self.entry.lengths)));
        }
        // SAFETY: an array that is kept until the end of this function.
        let data = unsafe { (*array.as_ptr().cast::<PyArrayObject>()).fields.data } as usize;
        let (to, bytes) = (self.entry.address, self.entry.bytes);
        let copied = py.detach(|| {
            self.keep_in_place(data, bytes, held.device);
            let from = std::ptr::with_exposed_provenance(data);
            // SAFETY: as many bytes on both sides.
            unsafe { held.device.upload(to, from, bytes) }
        });
        copied.map_err(|error| gpu_error(py, &error))?;
        self.note(bytes, TO_DEVICE);
        Ok(())
    }

    #[pyo3(signature = (*_arguments, **_options))]
    #[allow(clippy::unused_self, reason = "NumPy calls it on an instance")]
    fn __array__(&self, _arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        Err(PyTypeError::new_err("this array is on a device: buffer.numpy() copies it to the host"))
    }

    /// `stream`: where its consumer will use it, in DLPack's numbers; work begun here comes first.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__(
        &self,
        py: Python<'_>,
        stream: Option<i64>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Py<PyAny>> {
        let held = self.held(py)?;
        if dl_device.is_some_and(|it| it != self.__dlpack_device__()) {
            return Err(PyBufferError::new_err("the buffer is on another device: copy it there first"));
        }
        if copy == Some(true) {
            return Err(PyBufferError::new_err("a copy isn't made here: copy the array that you get"));
        }
        let is_cuda = self.entry.device.r#type == 2;
        match stream {
            Some(0) if is_cuda => {
                return Err(PyBufferError::new_err(
                    "stream 0 is ambiguous: 1 is the default stream, 2 each thread's own",
                ));
            }
            None | Some(NO_STREAM | 0 | DEFAULT_STREAM) => {}
            Some(number) => {
                let later = std::ptr::without_provenance_mut(number as usize);
                // SAFETY: DLPack's contract: the number is a stream of the device.
                let ordered = unsafe { held.device.order(std::ptr::null_mut(), later) };
                ordered.map_err(|error| gpu_error(py, &error))?;
                held.is_elsewhere.store(true, Ordering::Release);
            }
        }
        let has_versions = max_version.is_some_and(|(major, _)| major >= 1);
        if self.entry.is_read_only && !has_versions {
            return Err(PyBufferError::new_err("a read-only array needs a consumer that knows DLPack 1.0"));
        }
        let tensor = self.entry.tensor();
        dlpack::device_capsule(py, &tensor, &self.entry.lengths, self.entry.is_read_only, held, has_versions)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (self.entry.device.r#type, self.entry.device.id)
    }

    /// For libraries that read addresses: CuPy and Numba. They keep this object, which then keeps its memory.
    #[getter]
    fn __cuda_array_interface__(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        let held = self.held(py)?;
        *lock(&self.lent) = Some(held);
        let all = PyDict::new(py);
        all.set_item("shape", self.shape(py)?)?;
        all.set_item("typestr", self.numpy_dtype(py)?.getattr("str")?)?;
        all.set_item("data", (if self.entry.bytes == 0 { 0 } else { self.entry.address }, self.entry.is_read_only))?;
        all.set_item("strides", py.None())?;
        all.set_item("version", 3)?;
        all.set_item("stream", DEFAULT_STREAM)?;
        Ok(all.unbind())
    }

    /// What functions of all languages are given for it. It leads nowhere once the buffer is released.
    #[getter]
    pub fn number(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.held(py)?.number)
    }

    /// Segment, generation and offset.
    #[getter]
    fn handle(&self) -> (u64, u64, u64) {
        self.handle.words()
    }

    /// Address of the first element on the device.
    #[getter]
    fn address(&self) -> u64 {
        self.entry.address
    }

    /// ``"gpu:0"``.
    #[getter]
    fn device(&self) -> String {
        format!("gpu:{}", self.entry.device.id)
    }

    /// The name of its pool; None for an array of another library.
    #[getter]
    fn pool(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(self.held(py)?.block.as_ref().map(|it| it.pool().name.clone()))
    }

    /// Size in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.entry.bytes
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.entry.lengths.iter())
    }

    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.numpy_dtype(py)?.unbind())
    }

    /// Whether functions must not write to it: so it is for some arrays of other libraries.
    #[getter]
    fn read_only(&self) -> bool {
        self.entry.is_read_only
    }

    fn __len__(&self) -> PyResult<usize> {
        let first =
            self.entry.lengths.first().ok_or_else(|| PyTypeError::new_err("an array without axes has no length"))?;
        Ok(*first as usize)
    }

    /// How many owners there are: the sum of their counts.
    #[getter]
    fn reference_count(&self, py: Python<'_>) -> PyResult<usize> {
        self.refuse_inherited(py)?;
        Ok(lock(&self.owners).total())
    }

    /// How often each language owns the buffer.
    #[getter]
    fn owners(&self, py: Python<'_>) -> PyResult<BTreeMap<String, usize>> {
        self.refuse_inherited(py)?;
        Ok(lock(&self.owners).iter().map(|(name, count)| (name.clone(), count)).collect())
    }

    /// Whether the last owner has released it.
    #[getter]
    fn released(&self, py: Python<'_>) -> PyResult<bool> {
        self.refuse_inherited(py)?;
        Ok(lock(&self.held).is_none())
    }

    /// Let a language own the buffer once more.
    #[pyo3(signature = (language="python"))]
    fn retain(&self, py: Python<'_>, language: &str) -> PyResult<()> {
        self.held(py)?;
        lock(&self.owners).add(language);
        Ok(())
    }

    /// End a language's ownership; the last one frees the memory, as soon as no view of it is left.
    #[pyo3(signature = (language="python"))]
    fn release(&self, py: Python<'_>, language: &str) -> PyResult<()> {
        self.held(py)?;
        let mut owners = lock(&self.owners);
        let before = owners.of(language).map(|count| std::mem::replace(count, count.saturating_sub(1)));
        let is_last = before == Some(1) && owners.total() == 0;
        drop(owners);
        match before {
            _ if is_last => self.free(),
            Some(1..) => {}
            Some(0) => {
                let reason = format!("{language} has released this buffer before; its owners are {}", self.names());
                return Err(buffer_error(py, "OwnershipError", &reason));
            }
            None => {
                let reason = format!("{language} doesn't own this buffer; its owners are {}", self.names());
                return Err(buffer_error(py, "OwnershipError", &reason));
            }
        }
        Ok(())
    }

    /// Release it for all owners. Nothing happens if that was done before.
    fn close(&self) {
        if self.forks != nif_memory::forks() {
            return;
        }
        *lock(&self.owners) = Owners::default();
        self.free();
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        if self.forks != nif_memory::forks() {
            return Ok("<DeviceBuffer of the process that this one was forked from>".into());
        }
        if lock(&self.held).is_none() {
            return Ok("<DeviceBuffer, released>".into());
        }
        let (shape, dtype) = (self.shape(py)?, self.numpy_dtype(py)?);
        Ok(format!("<DeviceBuffer {dtype} {shape} on {}, owned by {}>", self.device(), self.names()))
    }

    /// Wait for all work of its device.
    fn synchronize(&self, py: Python<'_>) -> PyResult<()> {
        let device = self.device_(py)?;
        py.detach(|| device.synchronize()).map_err(|error| gpu_error(py, &error))
    }
}
