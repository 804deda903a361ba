//! What a host offers to libraries for devices: `nif_gpu` of `nif_lab.h`. The Lab and its workers offer the same.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};

use nif::abi::{DEVICE_CPU, Gpu, Tensor, dtype_code};

use crate::buffers;
use crate::device::Device;
use crate::driver::Address;
use crate::error::{Error, Result};
use crate::kernels::{self, Shape};

thread_local! {
    /// Why the last function here failed on this thread.
    static SAID: RefCell<CString> = RefCell::default();
}

/// The table; it lives as long as the process.
#[allow(clippy::cast_possible_truncation, reason = "56")]
pub static SERVICES: Gpu =
    Gpu { struct_size: size_of::<Gpu>() as u32, zero: 0, tensor, fill, copy, launch, synchronize, message };

/// An offset of an array that a kernel only reads has this bit.
pub const READS: u32 = 1 << 31;

/// 0, or a code whose message this thread can ask for.
fn answer(result: Result<()>) -> i32 {
    let Err(error) = result else { return 0 };
    let text = error.to_string().replace('\0', " ");
    SAID.with_borrow_mut(|said| *said = CString::new(text).unwrap_or_default());
    error.code()
}

unsafe extern "C" fn tensor(number: u64, is_written: i32, out: *mut Tensor) -> i32 {
    let found = buffers::find_for_call(number).and_then(|entry| entry.checked(is_written != 0)).map(|entry| {
        // SAFETY: the contract: a place for a tensor.
        unsafe { out.write(entry.tensor()) }
    });
    answer(found)
}

/// The bytes of an element of value `value`; none for a type that devices don't fill.
fn element(tensor: &Tensor, value: f64) -> Option<([u8; 8], usize)> {
    let mut bytes = [0; 8];
    let width = usize::from(tensor.dtype.bits / 8);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded towards zero, as NumPy's fill does"
    )]
    match (tensor.dtype.code, width) {
        (dtype_code::FLOAT, 4) => bytes[..4].copy_from_slice(&(value as f32).to_le_bytes()),
        (dtype_code::FLOAT, 8) => bytes = value.to_le_bytes(),
        (dtype_code::INT, 1 | 2 | 4 | 8) => bytes = (value as i64).to_le_bytes(),
        (dtype_code::UINT, 1 | 2 | 4 | 8) => bytes = (value as u64).to_le_bytes(),
        (dtype_code::BOOL, 1) => bytes[0] = u8::from(value != 0.0),
        _ => return None,
    }
    Some((bytes, width))
}

/// Elements and bytes of a row-major tensor.
///
/// # Safety
/// Its shape has `ndim` numbers.
unsafe fn extent(tensor: &Tensor) -> (usize, usize) {
    let axes = usize::try_from(tensor.ndim).unwrap_or(0);
    // SAFETY: the caller's promise.
    let length = |axis| usize::try_from(unsafe { *tensor.shape.add(axis) }).unwrap_or(0);
    let count = (0..axes).fold(1_usize, |n, axis| n.saturating_mul(length(axis)));
    (count, count.saturating_mul(usize::from(tensor.dtype.bits / 8)))
}

fn address(tensor: &Tensor) -> u64 {
    tensor.data.addr() as u64 + tensor.byte_offset
}

unsafe extern "C" fn fill(to: *const Tensor, value: f64) -> i32 {
    // SAFETY: the contract: a tensor of a device.
    answer(unsafe { try_fill(&*to, value) })
}

unsafe fn try_fill(to: &Tensor, value: f64) -> Result<()> {
    let device = Device::get(to.device.id)?;
    let (bytes, width) = element(to, value).ok_or_else(|| Error::Driver {
        code: 1,
        name: "no such element type".into(),
        doing: "filling memory".into(),
    })?;
    // SAFETY: the caller's promise.
    let (count, size) = unsafe { extent(to) };
    let low = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let high = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    // SAFETY: as above.
    unsafe {
        if width < 8 {
            return device.fill(address(to), low, width, count);
        }
        if low == high {
            return device.fill(address(to), low, 4, 2 * count);
        }
        if size == 0 {
            return Ok(());
        }
        // No driver fills 8 bytes at a time: one element, then twice as many each time.
        device.upload(address(to), bytes.as_ptr().cast(), 8)?;
        let mut done = 8;
        while done < size {
            let more = done.min(size - done);
            device.copy(address(to) + done as u64, address(to), more)?;
            done += more;
        }
    }
    Ok(())
}

unsafe extern "C" fn copy(to: *const Tensor, from: *const Tensor) -> i32 {
    // SAFETY: the contract: two tensors.
    answer(unsafe { try_copy(&*to, &*from) })
}

unsafe fn try_copy(to: &Tensor, from: &Tensor) -> Result<()> {
    // SAFETY: the caller's promise.
    let ((_, size), (_, given)) = unsafe { (extent(to), extent(from)) };
    if size != given {
        let doing = format!("copying {given} bytes into {size}");
        return Err(Error::Driver { code: 1, name: "sizes that differ".into(), doing });
    }
    // SAFETY: as above.
    unsafe {
        match (to.device.r#type == DEVICE_CPU, from.device.r#type == DEVICE_CPU) {
            (true, true) => std::ptr::copy(from.data.cast::<u8>(), to.data.cast(), size),
            (false, true) => {
                let data = std::ptr::with_exposed_provenance::<c_void>(from.data.expose_provenance());
                Device::get(to.device.id)?.upload(address(to), data, size)?;
            }
            (true, false) => Device::get(from.device.id)?.download(to.data, address(from), size)?,
            (false, false) => {
                let device = Device::get(to.device.id)?;
                let other = Device::get(from.device.id)?;
                if to.device.id != from.device.id {
                    other.synchronize()?; // its stream isn't this one's
                }
                if device.sees(other)? {
                    device.copy(address(to), address(from), size)?;
                } else {
                    through_the_host((device, address(to)), (other, address(from)), size)?;
                }
            }
        }
    }
    Ok(())
}

/// Copy between devices that can't reach each other's memory, a piece at a time.
///
/// # Safety
/// So many bytes are there.
unsafe fn through_the_host(
    (device, to): (&'static Device, Address),
    (other, from): (&'static Device, Address),
    size: usize,
) -> Result<()> {
    let mut room = vec![0_u8; size.min(PIECE)];
    for done in (0..size).step_by(PIECE) {
        let (more, at) = (PIECE.min(size - done), room.as_mut_ptr().cast::<c_void>());
        // SAFETY: the caller's promise; the room is that large.
        unsafe {
            other.download(at, from + done as u64, more)?;
            device.upload(to + done as u64, at, more)?;
        }
        device.synchronize()?; // the room is used again
    }
    Ok(())
}

unsafe extern "C" fn launch(
    kernel: u64,
    shape: *const u32,
    arguments: *const c_void,
    size: u64,
    places: *const u32,
    count: u64,
) -> i32 {
    // SAFETY: the contract: seven numbers, so many bytes, so many places.
    answer(unsafe { try_launch(kernel, shape, arguments.cast(), size, places, count) })
}

/// So many bytes of a copy through the host are under way at once.
const PIECE: usize = 16 << 20;
/// The most bytes of arguments that a kernel takes.
const MOST: usize = 4096;

unsafe fn try_launch(
    kernel: u64,
    shape: *const u32,
    arguments: *const u8,
    size: u64,
    places: *const u32,
    count: u64,
) -> Result<()> {
    let found = kernels::get(kernel)?;
    let wrong = |name: &str| Error::Driver { code: 1, name: name.into(), doing: "starting a kernel".into() };
    let size = usize::try_from(size)
        .ok()
        .filter(|it| *it <= MOST)
        .ok_or_else(|| wrong("more than 4096 bytes of arguments"))?;
    let mut packed = [0_u8; MOST];
    // SAFETY: the caller's promise.
    let (shape, places) = unsafe {
        if size > 0 {
            std::ptr::copy_nonoverlapping(arguments, packed.as_mut_ptr(), size);
        }
        let places =
            if count == 0 { &[] } else { std::slice::from_raw_parts(places, usize::try_from(count).unwrap_or(0)) };
        (std::slice::from_raw_parts(shape, 7), places)
    };
    for place in places {
        let at = (*place & !READS) as usize;
        let bytes = packed[..size].get_mut(at..at + 8);
        let bytes = bytes.ok_or_else(|| wrong("an array that lies outside of the arguments"))?;
        let number =
            u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]);
        let entry = buffers::find(number)?.checked(*place & READS == 0)?;
        if entry.device.id != found.device.id {
            return Err(wrong("an array of another device"));
        }
        bytes.copy_from_slice(&entry.address.to_le_bytes());
    }
    let [x, y, z, i, j, k, shared] = [shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6]];
    // SAFETY: the caller's promise: the arguments are the kernel's.
    unsafe { found.launch(&Shape { grid: [x, y, z], block: [i, j, k], shared }, &packed[..size]) }
}

unsafe extern "C" fn synchronize(device: i32) -> i32 {
    answer(Device::get(device).and_then(Device::synchronize))
}

unsafe extern "C" fn message() -> *const c_char {
    SAID.with_borrow(|said| said.as_ptr())
}
