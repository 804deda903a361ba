//! A mapped file as Python and the backends see it.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nif_memory::file::{Access, Advice, FileError, MappedFile as Mapping};
use nif_memory::files;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::memory::arrays::Layout;
use crate::memory::common::lock;
use crate::python::errors::{buffer_error, file_error};

/// A mapping that is noted among the process's shared memory while it lives.
struct Noted(Mapping);

impl Noted {
    fn new(mapping: Mapping) -> Result<Self, FileError> {
        let entered = files::enter(mapping.address().as_ptr() as usize, mapping.size(), mapping.file());
        entered.map_err(|error| mapping.failed(error))?;
        Ok(Self(mapping))
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        files::leave(self.0.address().as_ptr() as usize);
    }
}

/// What an array over a file has as its base: it keeps the mapping.
#[pyclass(frozen, module = "nif_lab._core", weakref)]
struct FileKeeper {
    _mapping: Arc<Noted>,
}

/// A file in memory, as an array.
#[pyclass(frozen, module = "nif_lab", weakref)]
pub struct MappedFile {
    mapping: Mutex<Option<(Arc<Noted>, Py<PyAny>)>>,
    access: Access,
    #[pyo3(get)]
    path: Option<PathBuf>,
    /// Size in bytes.
    #[pyo3(get)]
    nbytes: usize,
}

fn access_of(name: &str) -> PyResult<Access> {
    match name {
        "read_only" => Ok(Access::ReadOnly),
        "write_only" => Ok(Access::WriteOnly),
        "read_write" => Ok(Access::ReadWrite),
        _ => Err(PyValueError::new_err(format!(
            "expected access 'read_only', 'write_only' or 'read_write', got '{name}'"
        ))),
    }
}

fn raise(py: Python<'_>, error: &FileError) -> PyErr {
    file_error(py, &error.path.display().to_string(), &error.reason.to_string(), error.reason.cure())
}

impl MappedFile {
    pub fn is_write_only(&self) -> bool {
        self.access == Access::WriteOnly
    }

    /// The array that functions get.
    pub fn array(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let array = lock(&self.mapping).as_ref().map(|(_, array)| array.clone_ref(py));
        array.ok_or_else(|| self.closed(py))
    }

    /// What Python holds of a mapping: the array that begins at byte `offset` of it.
    fn seen(
        py: Python<'_>,
        noted: Noted,
        offset: usize,
        access: Access,
        path: Option<PathBuf>,
        shape: &Bound<'_, PyAny>,
        dtype: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let mut layout = Layout::float64();
        // SAFETY: both are alive.
        unsafe { layout.read(py, shape.as_ptr(), dtype.as_ptr())? };
        let nbytes = noted.0.size().saturating_sub(offset);
        if layout.bytes > nbytes {
            let reason = format!("the file has {nbytes} bytes, the shape needs {}", layout.bytes);
            return Err(PyValueError::new_err(reason));
        }
        // SAFETY: the place was found to lie in the mapping.
        let address = unsafe { noted.0.address().add(offset.min(noted.0.size())) };
        let mapping = Arc::new(noted);
        let keeper = Py::new(py, FileKeeper { _mapping: Arc::clone(&mapping) })?.into_any();
        let array = layout.view(py, address, access != Access::ReadOnly, keeper)?;
        Ok(Self { mapping: Mutex::new(Some((mapping, array))), access, path, nbytes })
    }

    fn closed(&self, py: Python<'_>) -> PyErr {
        let name = self.path.as_ref().map_or_else(|| "a temporary file".into(), |it| it.display().to_string());
        buffer_error(py, "BufferReleased", &format!("{name} is closed: map it again"))
    }

    fn mapping(&self, py: Python<'_>) -> PyResult<Arc<Noted>> {
        let mapping = lock(&self.mapping).as_ref().map(|(mapping, _)| Arc::clone(mapping));
        mapping.ok_or_else(|| self.closed(py))
    }

    fn readable(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_write_only() {
            let reason = "this file is mapped write_only: write into it with write(data, offset), or map it read_write";
            return Err(buffer_error(py, "AccessError", reason));
        }
        Ok(())
    }
}

#[pymethods]
impl MappedFile {
    /// Map a file: a temporary one without a path, else the one at `path`, made if `size` is given and it isn't there.
    #[new]
    #[pyo3(signature = (path, size, access, shape, dtype, create))]
    fn new(
        py: Python<'_>,
        path: Option<PathBuf>,
        size: Option<u64>,
        access: &str,
        shape: &Bound<'_, PyAny>,
        dtype: &Bound<'_, PyAny>,
        create: bool,
    ) -> PyResult<Self> {
        let access = access_of(access)?;
        let mapped = py.detach(|| match (&path, size) {
            (Some(path), size) if !create => Mapping::open(path, size, access),
            (path, size) => Mapping::create(path.as_deref(), size.unwrap_or(0), access),
        });
        let mapping = mapped.map_err(|error| raise(py, &error))?;
        let noted = Noted::new(mapping).inspect_err(|_| {
            if let Some(path) = path.as_ref().filter(|_| create) {
                let _ = std::fs::remove_file(path); // as `create` does itself when it fails
            }
        });
        let noted = noted.map_err(|error| raise(py, &error))?;
        Self::seen(py, noted, 0, access, path, shape, dtype)
    }

    /// Map what another process has lent by the descriptor `file`, which stays the caller's: an array that begins at byte
    /// `offset`. The file has to be one that can't be cut shorter.
    #[staticmethod]
    fn received(
        py: Python<'_>,
        file: i32,
        offset: usize,
        shape: &Bound<'_, PyAny>,
        dtype: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        // SAFETY: the caller keeps the descriptor open until this returns.
        let file = unsafe { BorrowedFd::borrow_raw(file) }.try_clone_to_owned()?;
        let mapping = Mapping::received(file.into(), Access::ReadWrite).map_err(|error| raise(py, &error))?;
        let noted = Noted::new(mapping).map_err(|error| raise(py, &error))?;
        Self::seen(py, noted, offset, Access::ReadWrite, None, shape, dtype)
    }

    /// `"read_only"`, `"write_only"` or `"read_write"`.
    #[getter]
    fn access(&self) -> &'static str {
        match self.access {
            Access::ReadOnly => "read_only",
            Access::WriteOnly => "write_only",
            Access::ReadWrite => "read_write",
        }
    }

    /// Whether it was closed.
    #[getter(closed)]
    fn is_closed(&self) -> bool {
        lock(&self.mapping).is_none()
    }

    /// The elements, as a NumPy array over the file; read-only if the file is.
    #[getter(array)]
    fn view(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.readable(py)?;
        self.array(py)?.call_method0(py, "view")
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__(&self, py: Python<'_>, dtype: Option<Py<PyAny>>, copy: Option<bool>) -> PyResult<Py<PyAny>> {
        let view = self.view(py)?;
        let kwargs = pyo3::types::PyDict::new(py);
        kwargs.set_item("dtype", dtype)?;
        kwargs.set_item("copy", copy)?;
        Ok(py.import("numpy")?.call_method("array", (view,), Some(&kwargs))?.unbind())
    }

    /// Copy bytes into the file, from byte `offset` on.
    #[pyo3(signature = (data, offset=0))]
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>, offset: usize) -> PyResult<()> {
        let mapping = self.mapping(py)?;
        if self.access == Access::ReadOnly {
            let reason = "this file is mapped read_only: map it read_write to write into it";
            return Err(buffer_error(py, "AccessError", reason));
        }
        let data = py.import("builtins")?.call_method1("memoryview", (data,))?.call_method1("cast", ("B",))?;
        let data = PyBuffer::<u8>::get(&data)?;
        let size = data.len_bytes();
        if offset.checked_add(size).is_none_or(|end| end > self.nbytes) {
            let reason = format!("{size} bytes at {offset} don't fit into a file of {} bytes", self.nbytes);
            return Err(PyValueError::new_err(reason));
        }
        // SAFETY: both ranges were checked; the buffer is contiguous because it could be cast, and may be the file itself.
        unsafe { std::ptr::copy(data.buf_ptr().cast::<u8>(), mapping.0.address().as_ptr().add(offset), size) };
        Ok(())
    }

    /// Write what has changed to the disk, and wait until it is there.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let mapping = self.mapping(py)?;
        py.detach(|| mapping.0.sync()).map_err(|error| raise(py, &error))
    }

    /// Say how the file is going to be used: `"normal"`, `"sequential"`, `"random"`,
    /// `"will_need"` or `"dont_need"`.
    fn advise(&self, py: Python<'_>, advice: &str) -> PyResult<()> {
        let advice = match advice {
            "normal" => Advice::Normal,
            "sequential" => Advice::Sequential,
            "random" => Advice::Random,
            "will_need" => Advice::WillNeed,
            "dont_need" => Advice::DontNeed,
            _ => return Err(PyValueError::new_err(format!("no advice '{advice}'"))),
        };
        self.mapping(py)?.0.advise(advice).map_err(|error| raise(py, &error))
    }

    /// Unmap it, as soon as no view of it is left. A temporary file is gone then.
    fn close(&self) {
        let mapping = lock(&self.mapping).take();
        drop(mapping);
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let name = self.path.as_ref().map_or_else(|| "temporary".into(), |it| it.display().to_string());
        let Ok(array) = self.array(py) else { return Ok(format!("<MappedFile {name}, closed>")) };
        let (shape, dtype) = (array.getattr(py, "shape")?, array.getattr(py, "dtype")?);
        Ok(format!("<MappedFile {name}, {dtype} {shape}, {}>", self.access()))
    }
}
