//! A Lab's shared memory: its arena, what lives there, and who looks after it.

pub mod arrays;
pub mod block;
pub mod buffer;
pub mod common;
pub mod copies;
pub mod dlpack;
pub mod file;
pub mod frames;
pub mod gpu;
pub mod keeper;
pub mod ledger;
pub mod shared;
pub mod store;

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nif_memory::{Arena, Config, Handle, PoolConfig, files};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyList};

use crate::memory::arrays::{ArrayMaker, Layout};
use crate::memory::block::Block;
use crate::memory::buffer::SharedBuffer;
use crate::memory::common::{Common, lock};
use crate::memory::keeper::Keeper;
use crate::memory::shared::Shared;
use crate::python;
use crate::python::door::{self, Builtin, Given, builtin};
use crate::python::errors;
use crate::telemetry::Telemetry;

/// All arenas of the process, so that an address can be looked up.
static ARENAS: Mutex<Vec<Weak<Arena>>> = Mutex::new(Vec::new());

/// Does the range lie in one live block, or in one mapped file?
#[pyfunction]
pub fn in_shared_memory(address: usize, size: usize) -> bool {
    let in_block = lock(&ARENAS).iter().filter_map(Weak::upgrade).any(|it| it.find(address, size).is_some());
    in_block || files::find(address, size).is_some()
}

/// A Lab's shared memory.
#[pyclass(frozen, module = "nif_lab._core")]
pub struct Memory {
    pub common: Arc<Common>,
    maker: Arc<ArrayMaker>,
    keeper: Keeper,
    /// Are arguments refused that would have to be copied to fit?
    strict: AtomicBool,
    /// Are array results NumPy's, whatever kind the arguments are of?
    plain_results: AtomicBool,
    empty: ffi::PyMethodDef,
    zeros: ffi::PyMethodDef,
}

// SAFETY: the method definitions are never written after `new`; everything else is Send and Sync by itself.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

const EMPTY_DOC: &std::ffi::CStr = c"empty(shape, dtype=None, /)\n--\n\n\
    Return an array in shared memory whose elements may have any value.\n\n\
    Parameters\n----------\nshape\n    An int, or a sequence of ints.\n\
    dtype\n    As NumPy's; float64 unless given. No Python objects.";
const ZEROS_DOC: &std::ffi::CStr = c"zeros(shape, dtype=None, /)\n--\n\n\
    Return an array of zeros in shared memory.\n\n\
    Parameters\n----------\nshape\n    An int, or a sequence of ints.\n\
    dtype\n    As NumPy's; float64 unless given. No Python objects.";

impl Memory {
    pub fn create(py: Python<'_>, config: Config, telemetry: Option<Py<Telemetry>>) -> PyResult<Self> {
        let arena = Arc::new(Arena::new(config));
        let mut arenas = lock(&ARENAS);
        arenas.retain(|it| it.strong_count() > 0);
        arenas.push(Arc::downgrade(&arena));
        drop(arenas);
        let common = Arc::new(Common::new(Arc::clone(&arena)));
        let maker = Arc::new(ArrayMaker::new(py, arena)?);
        Ok(Self {
            keeper: Keeper::start(&common, &maker, telemetry.map(|it| it.get().sampler()))?,
            maker,
            common,
            strict: AtomicBool::new(true),
            plain_results: AtomicBool::new(false),
            empty: door::method(c"empty", EMPTY_DOC, builtin::<Make<false>>),
            zeros: door::method(c"zeros", ZEROS_DOC, builtin::<Make<true>>),
        })
    }

    /// An array that owns its block; none with Python's exception set.
    #[inline]
    fn array(&self, py: Python<'_>, layout: &mut Layout, zeroed: bool) -> Option<Py<PyAny>> {
        let store = self.maker.store(py);
        let size = layout.bytes.max(1); // as NumPy gives it back
        let data = store.take_kept(size, zeroed).or_else(|| self.take(py, size, zeroed))?;
        let array = self.maker.array(py, layout, data);
        if array.is_none() {
            store.put(data, size);
        }
        array
    }

    /// A new block; if there is no room, after everything that can be freed was.
    #[cold]
    fn take(&self, py: Python<'_>, size: usize, zeroed: bool) -> Option<NonNull<u8>> {
        let store = self.maker.store(py);
        let taken = store.take(size, zeroed).or_else(|_| {
            store.flush();
            self.common.collect();
            store.take(size, zeroed)
        });
        taken.map_err(|error| arrays::no_memory(py, &error).restore(py)).ok()
    }

    /// An array that takes over a block of this memory.
    pub fn adopt(&self, py: Python<'_>, block: Block, type_num: c_int, shape: &[i64]) -> PyResult<Py<PyAny>> {
        let array = self.maker.array(py, &mut Layout::with(py, type_num, shape)?, block.address());
        let array = array.ok_or_else(|| PyErr::fetch(py))?;
        block.give_up();
        Ok(array)
    }

    /// An array for an output that was left out; its elements may have any value.
    pub fn output(&self, py: Python<'_>, element: &str, shape: &[i64]) -> PyResult<Py<PyAny>> {
        let type_num = python::dtype::by_name(element).map(|(type_num, _)| type_num);
        let type_num = type_num.ok_or_else(|| PyTypeError::new_err(format!("no element type '{element}'")))?;
        self.array(py, &mut Layout::with(py, type_num, shape)?, false).ok_or_else(|| PyErr::fetch(py))
    }

    fn bind(slf: &Bound<'_, Self>, method: &ffi::PyMethodDef) -> PyResult<Py<PyAny>> {
        // SAFETY: the definition lives in the object, which the new one keeps alive as its `__self__`.
        unsafe { python::owned(slf.py(), ffi::PyCFunction_New(std::ptr::from_ref(method).cast_mut(), slf.as_ptr())) }
    }
}

/// `empty`, and `zeros` if so.
struct Make<const ZEROED: bool>;

impl<const ZEROED: bool> Builtin for Make<ZEROED> {
    type This = Memory;

    fn call(memory: &Memory, py: Python<'_>, given: &Given<'_>) -> *mut ffi::PyObject {
        let mut layout = Layout::float64();
        // SAFETY: the caller of a built-in keeps its arguments alive.
        let read = match *given.values {
            _ if !given.names.is_null() => Err(PyTypeError::new_err("takes no keyword arguments")),
            [shape] => unsafe { layout.read(py, shape, std::ptr::null_mut()) },
            [shape, dtype] => unsafe { layout.read(py, shape, dtype) },
            _ => Err(PyTypeError::new_err(format!("takes a shape and a dtype, {} given", given.values.len()))),
        };
        if let Err(error) = read {
            error.restore(py);
            return std::ptr::null_mut();
        }
        memory.array(py, &mut layout, ZEROED).map_or(std::ptr::null_mut(), Py::into_ptr)
    }
}

#[pymethods]
impl Memory {
    /// `pools`: (name, largest block, blocks of that size, limit in bytes) each, the smallest first.
    #[new]
    #[pyo3(signature = (pools, telemetry=None))]
    fn new(
        py: Python<'_>,
        pools: Vec<(String, usize, usize, usize)>,
        telemetry: Option<Py<Telemetry>>,
    ) -> PyResult<Self> {
        let pools = pools.into_iter().map(|(name, block_bytes, blocks, limit_bytes)| PoolConfig {
            name,
            block_bytes,
            blocks,
            limit_bytes,
        });
        Self::create(py, Config { pools: pools.collect() }, telemetry)
    }

    #[getter]
    fn empty(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::bind(slf, &slf.get().empty)
    }

    #[getter]
    fn zeros(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::bind(slf, &slf.get().zeros)
    }

    /// A buffer owned by the languages of that name.
    fn allocate(
        slf: &Bound<'_, Self>,
        shape: &Bound<'_, PyAny>,
        dtype: &Bound<'_, PyAny>,
        languages: Vec<String>,
    ) -> PyResult<SharedBuffer> {
        let py = slf.py();
        let mut layout = Layout::float64();
        // SAFETY: both are alive.
        unsafe { layout.read(py, shape.as_ptr(), dtype.as_ptr())? };
        let common = &slf.get().common;
        let block = common.allocate(layout.bytes, true).map_err(|error| arrays::no_memory(py, &error))?;
        SharedBuffer::new(py, common, block, layout, languages)
    }

    /// Free the buffers whose owners are gone: how many bytes.
    fn collect(&self) -> u64 {
        self.common.collect()
    }

    /// Let go of all that a language owns, because it is gone: how many buffers.
    fn disown(&self, language: &str) -> usize {
        let buffers: Vec<Arc<Shared>> = self.common.buffers().values().cloned().collect();
        let disowned = buffers.iter().filter(|it| it.disown(language)).count();
        self.common.collect();
        disowned
    }

    /// Give free blocks back to the system: how many bytes.
    fn trim(&self, py: Python<'_>) -> usize {
        self.maker.store(py).flush();
        py.detach(|| self.common.arena.trim())
    }

    /// Where a handle (segment, generation, offset) leads: address and size.
    fn resolve(&self, py: Python<'_>, segment: u64, generation: u64, offset: u64) -> PyResult<(usize, usize)> {
        let handle = Handle { segment, generation, offset };
        let found = self.common.arena.resolve(handle);
        found
            .map(|(address, size)| (address.as_ptr() as usize, size))
            .map_err(|error| errors::buffer_error(py, "HandleError", &error.to_string()))
    }

    /// The figures of every pool, in order; of all collections; of the languages' buffers.
    fn metrics(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        self.maker.store(py).flush(); // what it keeps isn't in use
        let all = PyDict::new(py);
        let pools = PyList::empty(py);
        for it in self.common.arena.metrics() {
            let pool = PyDict::new(py);
            pool.set_item("name", it.name)?;
            pool.set_item("capacity", it.capacity)?;
            pool.set_item("segments", it.segments)?;
            pool.set_item("active", it.active_bytes)?;
            pool.set_item("blocks", it.active_blocks)?;
            pool.set_item("peak", it.peak_bytes)?;
            pool.set_item("allocations", it.allocations)?;
            pool.set_item("releases", it.releases)?;
            pool.set_item("committed", it.committed_bytes)?;
            pool.set_item("cached", it.cached_bytes)?;
            pool.set_item("metadata", it.metadata_bytes)?;
            pool.set_item("fragmentation", it.fragmentation)?;
            pools.append(pool)?;
        }
        all.set_item("pools", pools)?;
        let collected = *self.common.collected();
        all.set_item("collections", (collected.collections, collected.buffers, collected.bytes))?;
        // Summed first: what makes Python objects may run the collector, whose finalizers use the same lock.
        let mut sums = BTreeMap::<String, (u64, u64)>::new();
        for buffer in self.common.buffers().values() {
            for (language, count) in buffer.owners() {
                let (buffers, bytes) = sums.entry(language).or_default();
                if count > 0 {
                    (*buffers, *bytes) = (*buffers + 1, *bytes + buffer.size as u64);
                }
            }
        }
        sums.retain(|_, (buffers, _)| *buffers > 0);
        let languages = sums.into_py_dict(py)?;
        all.set_item("languages", languages)?;
        if let Some(sample) = self.keeper.pressure() {
            let pressure = PyDict::new(py);
            pressure.set_item("level", format!("{:?}", sample.level).to_lowercase())?;
            pressure.set_item("used", sample.used)?;
            pressure.set_item("limit", sample.limit)?;
            pressure.set_item("available", sample.available)?;
            pressure.set_item("psi_some_avg10", sample.psi_some_avg10)?;
            pressure.set_item("psi_full_avg10", sample.psi_full_avg10)?;
            pressure.set_item("source", sample.source)?;
            all.set_item("pressure", pressure)?;
        }
        Ok(all.unbind())
    }

    /// Whether arguments are refused that would have to be copied to fit.
    #[getter]
    fn strict(&self) -> bool {
        self.strict.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_strict(&self, on: bool) {
        self.strict.store(on, Ordering::Relaxed);
    }

    /// ``"caller"`` for array results of the first array argument's kind, ``"numpy"`` for NumPy's.
    #[getter]
    fn results(&self) -> &'static str {
        if self.plain_results.load(Ordering::Relaxed) { "numpy" } else { "caller" }
    }

    #[setter]
    fn set_results(&self, kind: &str) -> PyResult<()> {
        if !matches!(kind, "caller" | "numpy") {
            return Err(PyValueError::new_err(format!("results: expected \"caller\" or \"numpy\", got {kind:?}")));
        }
        self.plain_results.store(kind == "numpy", Ordering::Relaxed);
        Ok(())
    }

    /// Note a copy that Python code made: bytes, where, why.
    fn note_copy(&self, bytes: usize, place: &str, reason: &str) {
        self.common.ledger().note(bytes, place, reason);
    }

    /// How many copies there were.
    #[getter]
    fn copy_count(&self) -> u64 {
        self.common.ledger().count()
    }

    /// The copies after that number, the last 1,000 at most; of this thread only, if asked: (bytes, place, reason) each.
    fn copies_since(&self, number: u64, mine: bool) -> Vec<(u64, String, String)> {
        let entries = self.common.ledger().since(number, mine);
        entries.into_iter().map(|it| (it.bytes, it.place, it.reason)).collect()
    }

    /// All copies by reason: (reason, copies, bytes) each.
    fn copies(&self) -> Vec<(String, u64, u64)> {
        self.common.ledger().sums()
    }

    /// The blocks of a pool: (segment, offset, size, live) each.
    fn blocks(&self, py: Python<'_>, pool: usize) -> PyResult<Vec<(u64, u64, u64, bool)>> {
        self.maker.store(py).flush();
        if pool >= self.common.arena.metrics().len() {
            return Err(PyValueError::new_err("no such pool"));
        }
        let blocks = self.common.arena.blocks(pool);
        Ok(blocks.into_iter().map(|it| (it.segment, it.offset, it.size as u64, it.live)).collect())
    }
}
