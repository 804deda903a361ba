//! Memory of devices: a Lab's pools there, and what is asked of the driver by name.

pub mod buffer;
pub mod foreign;
mod owners;

use std::os::fd::IntoRawFd;
use std::sync::{Arc, Mutex};

use nif_gpu::{Device, Driver, Pool, kernels};
use numpy::PyArrayDescr;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use crate::memory::Memory;
use crate::memory::common::{Common, lock};
use crate::memory::gpu::buffer::{DeviceBuffer, Held};
use crate::memory::gpu::owners::Owners;
use crate::python::errors::gpu_error;

/// The pools of a Lab, on all devices. Nothing is opened before the first block.
#[pyclass(frozen, module = "nif_lab._core")]
pub struct Gpu {
    common: Arc<Common>,
    /// By device and name; few, so that a look at each is the quickest.
    pools: Mutex<Vec<(i32, String, Arc<Pool>)>>,
}

/// A pool in another process: descriptor, offset and size of each of its parts.
type Parts = Vec<(i32, usize, usize)>;

impl Gpu {
    fn pool(&self, py: Python<'_>, device: i32, name: &str, limit: usize) -> PyResult<Arc<Pool>> {
        let mut pools = lock(&self.pools);
        if let Some((.., pool)) = pools.iter().find(|it| it.0 == device && it.1 == name) {
            return Ok(Arc::clone(pool));
        }
        let device_ = Device::get(device).map_err(|error| gpu_error(py, &error))?;
        let spelled = if device == 0 { name.to_owned() } else { format!("{name}:{device}") };
        let pool = Pool::new(&spelled, device_, limit).map_err(|error| gpu_error(py, &error))?;
        pools.push((device, name.to_owned(), Arc::clone(&pool)));
        pools.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        Ok(pool)
    }
}

#[pymethods]
impl Gpu {
    #[new]
    fn new(memory: &Bound<'_, Memory>) -> Self {
        Self { common: Arc::clone(&memory.get().common), pools: Mutex::default() }
    }

    /// A buffer on a device, its elements zeros if so: device, pool, the pool's limit in bytes, lengths, NumPy's dtype, owners.
    #[allow(clippy::too_many_arguments, reason = "Python's side has the names")]
    fn allocate(
        &self,
        py: Python<'_>,
        device: i32,
        pool: &str,
        limit: usize,
        lengths: &Bound<'_, PyList>,
        dtype: &Bound<'_, PyArrayDescr>,
        languages: &Bound<'_, PyList>,
        zeroed: bool,
    ) -> PyResult<DeviceBuffer> {
        let pool = self.pool(py, device, pool, limit)?;
        let lengths = lengths.iter().map(|it| it.extract()).collect::<PyResult<Vec<i64>>>()?;
        let mut owners = Owners::default();
        for it in languages {
            owners.add(it.cast::<PyString>()?.to_str()?);
        }
        let (dtype, bytes) = buffer::measure(dtype, &lengths)?;
        let block = pool.allocate(bytes).map_err(|error| gpu_error(py, &error))?;
        if zeroed {
            // SAFETY: the block's own memory.
            let filled = unsafe { block.device().fill(block.address, 0, 1, bytes) };
            filled.map_err(|error| gpu_error(py, &error))?;
        }
        let (address, device_) = (block.address, block.device());
        let (number, handle) = (block.handle.number(), block.handle);
        let entry = buffer::entry(device_, address, bytes, dtype, &lengths, false);
        let held = Held::new(number, &entry, device_, Some(block), None);
        Ok(DeviceBuffer::new(held, entry, handle, owners, Some(&self.common)))
    }

    /// The figures of every pool, in the form of the host's.
    fn metrics(&self, py: Python<'_>) -> PyResult<Py<PyList>> {
        let pools: Vec<_> = lock(&self.pools).iter().map(|it| it.2.metrics()).collect();
        let all = PyList::empty(py);
        for it in pools {
            let pool = PyDict::new(py);
            pool.set_item("name", it.name)?;
            pool.set_item("capacity", it.capacity)?;
            pool.set_item("segments", it.segments)?;
            pool.set_item("active", it.active)?;
            pool.set_item("blocks", it.blocks)?;
            pool.set_item("peak", it.peak)?;
            pool.set_item("allocations", it.allocations)?;
            pool.set_item("releases", it.releases)?;
            pool.set_item("committed", it.committed)?;
            pool.set_item("cached", it.cached)?;
            pool.set_item("metadata", it.metadata)?;
            pool.set_item("fragmentation", it.fragmentation)?;
            all.append(pool)?;
        }
        Ok(all.unbind())
    }

    /// Give memory behind the last blocks back to the devices: how many bytes.
    fn trim(&self, py: Python<'_>) -> PyResult<usize> {
        let pools: Vec<Arc<Pool>> = lock(&self.pools).iter().map(|it| Arc::clone(&it.2)).collect();
        let trimmed: Result<Vec<usize>, _> = py.detach(|| pools.iter().map(|it| it.trim()).collect());
        trimmed.map(|it| it.iter().sum()).map_err(|error| gpu_error(py, &error))
    }

    /// Where a handle leads: address and size.
    fn resolve(&self, py: Python<'_>, segment: u64, generation: u64, offset: u64) -> PyResult<(u64, usize)> {
        let pools: Vec<Arc<Pool>> = lock(&self.pools).iter().map(|it| Arc::clone(&it.2)).collect();
        let found = nif_gpu::Handle::of_words((segment, generation, offset)).and_then(|handle| {
            let pool = pools.iter().find(|it| it.segment == handle.segment)?;
            Some(pool.resolve(handle))
        });
        found.unwrap_or(Err(nif_gpu::Error::Unknown)).map_err(|error| gpu_error(py, &error))
    }

    /// A pool's segment, base, size and parts, for a process that maps it: the caller closes the descriptors.
    fn export(&self, py: Python<'_>, device: i32, pool: &str) -> PyResult<Option<(u32, u64, usize, Parts)>> {
        let found = lock(&self.pools).iter().find(|it| it.0 == device && it.1 == pool).map(|it| Arc::clone(&it.2));
        let Some(pool) = found else { return Ok(None) };
        let (base, size, _, parts) = pool.export(|_| false).map_err(|error| gpu_error(py, &error))?;
        let parts = parts.into_iter().map(|it| (it.descriptor.into_raw_fd(), it.offset, it.size)).collect();
        Ok(Some((pool.segment, base, size, parts)))
    }
}

/// The driver: kind, library, version, and how many devices.
#[pyfunction]
pub fn gpu_driver(py: Python<'_>) -> PyResult<(&'static str, String, i32, i32)> {
    let driver = Driver::get().map_err(|error| gpu_error(py, &error))?;
    Ok((driver.kind.name(), driver.path.clone(), driver.version, driver.devices))
}

/// A device: name, bytes free and in all, capability (90 for 9.0), granularity of its memory.
#[pyfunction]
pub fn gpu_device(py: Python<'_>, number: i32) -> PyResult<(String, usize, usize, i32, usize)> {
    let device = Device::get(number).map_err(|error| gpu_error(py, &error))?;
    let (free, _) = device.free_memory().map_err(|error| gpu_error(py, &error))?;
    Ok((device.name.clone(), free, device.memory, device.capability, device.granularity))
}

/// Load compiled kernels on a device: the module's number.
#[pyfunction]
pub fn gpu_load(py: Python<'_>, device: i32, image: &[u8]) -> PyResult<usize> {
    Device::get(device).and_then(|it| kernels::load(it, image)).map_err(|error| gpu_error(py, &error))
}

/// A kernel of a module: its number.
#[pyfunction]
pub fn gpu_kernel(py: Python<'_>, module: usize, name: &str) -> PyResult<u64> {
    kernels::find(module, name).map_err(|error| gpu_error(py, &error))
}

/// Wait for all work of a device; an error if some of it failed.
#[pyfunction]
pub fn gpu_synchronize(py: Python<'_>, device: i32) -> PyResult<()> {
    py.detach(|| Device::get(device).and_then(Device::synchronize)).map_err(|error| gpu_error(py, &error))
}

/// Did an array on a device have this number, and was it released?
#[pyfunction]
pub fn gpu_is_stale(number: u64) -> bool {
    matches!(nif_gpu::buffers::find(number), Err(nif_gpu::Error::Stale))
}

/// Another library's array on a device, as a buffer that nobody owns; None for an array that isn't on one.
#[pyfunction]
pub fn gpu_array(value: &Bound<'_, PyAny>) -> PyResult<Option<DeviceBuffer>> {
    foreign::view(value, None)
}
