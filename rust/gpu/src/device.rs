//! One device: its context, which it shares with every other library of the process, and copies.
//!
//! All work goes into the default stream, whose order is that of the calls; `CuPy` and torch use the same one unless told otherwise. So a
//! block that was released may be given away at once: what was asked of it before comes first.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::driver::{Access, Address, DESCRIPTOR, Driver, Location, ON_DEVICE, Opaque, PINNED, Property, READ_WRITE};
use crate::error::{Error, Result};
use crate::lock;

/// An opened device. It stays open as long as the process.
pub struct Device {
    pub driver: &'static Driver,
    pub id: i32,
    pub name: String,
    /// Bytes.
    pub memory: usize,
    /// "9.0" as 90.
    pub capability: i32,
    /// Memory is created in multiples of it.
    pub granularity: usize,
    context: Opaque,
    number: i32,
    /// Devices whose memory this one was asked to see, and whether it does.
    peers: Mutex<Vec<(i32, bool)>>,
}

// SAFETY: the driver's functions may be called on any thread; the rest is never written but under its lock.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

static OPENED: Mutex<Vec<&'static Device>> = Mutex::new(Vec::new());

/// The driver's attributes for the two numbers of a device's capability.
const MAJOR: i32 = 75;
const MINOR: i32 = 76;
/// What it says when a thing was done before.
const ALREADY_ENABLED: i32 = 704;
/// An event that measures no time.
const NO_TIMING: u32 = 2;
/// Work isn't over yet.
const NOT_READY: i32 = 600;
/// How long it is looked for without a pause, and then between two looks.
const LOOK: Duration = Duration::from_micros(50);

/// While it lives, the calling thread works on a device. Then it is as it was: another library may have chosen another device.
pub struct Turn {
    device: &'static Device,
    before: Opaque,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Where nothing was chosen, the first device is what everybody means.
        let is_default = self.before.is_null() && self.device.id == 0;
        if self.before != self.device.context && !is_default {
            // SAFETY: a context that was current before.
            unsafe { (self.device.driver.table.set_context)(self.before) };
        }
    }
}

impl Device {
    /// The device of that number; it is opened if it wasn't.
    ///
    /// # Errors
    /// [`Error::Unavailable`], when there is no driver or no such device.
    pub fn get(id: i32) -> Result<&'static Self> {
        let driver = Driver::get()?;
        let mut opened = lock(&OPENED);
        if let Some(device) = opened.iter().find(|it| it.id == id) {
            return Ok(device);
        }
        if !(0..driver.devices).contains(&id) {
            let last = driver.devices - 1;
            return Err(Error::Unavailable {
                reason: format!("no device gpu:{id}: this machine has {}", driver.devices),
                cure: if last == 0 { "use gpu:0".into() } else { format!("use gpu:0 to gpu:{last}") },
            });
        }
        let device: &'static Self = Box::leak(Box::new(Self::open(driver, id)?));
        opened.push(device);
        Ok(device)
    }

    /// The device of that number, if it was opened.
    #[must_use]
    pub fn opened(id: i32) -> Option<&'static Self> {
        lock(&OPENED).iter().find(|it| it.id == id).copied()
    }

    fn open(driver: &'static Driver, id: i32) -> Result<Self> {
        let table = &driver.table;
        let mut name = [0 as c_char; 128];
        let (mut number, mut memory, mut context, mut granularity) = (0, 0, ptr::null_mut(), 0);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the driver fills places that are alive; the name ends within its room.
        let name = unsafe {
            driver.check((table.device)(&raw mut number, id), "opening a device")?;
            driver.check((table.device_name)(name.as_mut_ptr(), 127, number), "asking for a device's name")?;
            driver.check((table.device_memory)(&raw mut memory, number), "asking for a device's memory")?;
            driver
                .check((table.device_attribute)(&raw mut major, MAJOR, number), "asking for a device's capability")?;
            driver
                .check((table.device_attribute)(&raw mut minor, MINOR, number), "asking for a device's capability")?;
            driver.check((table.retain_context)(&raw mut context, number), "opening a device's context")?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        let property = property(id);
        // SAFETY: as above.
        let status = unsafe { (table.granularity)(&raw mut granularity, &raw const property, 0) };
        driver.check(status, "asking in what pieces a device gives memory")?;
        let granularity = granularity.max(4096);
        Ok(Self {
            driver,
            id,
            name,
            memory,
            capability: major * 10 + minor,
            granularity,
            context,
            number,
            peers: Mutex::default(),
        })
    }

    /// Work on this device on the calling thread.
    ///
    /// # Errors
    /// What the driver says.
    #[inline]
    pub fn turn(&'static self) -> Result<Turn> {
        let mut before = ptr::null_mut();
        // SAFETY: a place, and this device's context.
        unsafe {
            let table = &self.driver.table;
            self.driver.check((table.context)(&raw mut before), "asking for the thread's device")?;
            if before != self.context {
                self.driver.check((table.set_context)(self.context), "choosing a device")?;
            }
        }
        Ok(Turn { device: self, before })
    }

    /// Bytes that are free, and all.
    ///
    /// # Errors
    /// What the driver says.
    pub fn free_memory(&'static self) -> Result<(usize, usize)> {
        let _turn = self.turn()?;
        let (mut free, mut all) = (0, 0);
        // SAFETY: places.
        let status = unsafe { (self.driver.table.memory_info)(&raw mut free, &raw mut all) };
        self.driver.check(status, "asking for free memory")?;
        Ok((free, all))
    }

    /// Set elements of 1, 2 or 4 bytes, of which `value` has the bits.
    ///
    /// # Safety
    /// Memory of this device is there.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn fill(&'static self, to: Address, value: u32, width: usize, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let _turn = self.turn()?;
        let (table, stream) = (&self.driver.table, ptr::null_mut());
        #[allow(clippy::cast_possible_truncation, reason = "the bits of a narrower element")]
        // SAFETY: the caller's promise.
        let status = unsafe {
            match width {
                1 => (table.fill8)(to, value as u8, count, stream),
                2 => (table.fill16)(to, value as u16, count, stream),
                _ => (table.fill32)(to, value, count, stream),
            }
        };
        self.driver.check(status, "filling memory")
    }

    /// Copy bytes from the host, and wait until its memory may change.
    ///
    /// # Safety
    /// Both are there.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn upload(&'static self, to: Address, from: *const c_void, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let _turn = self.turn()?;
        // SAFETY: the caller's promise.
        let status = unsafe { (self.driver.table.to_device)(to, from, bytes, ptr::null_mut()) };
        self.driver.check(status, "copying to the device")?;
        self.synchronize()
    }

    /// Copy bytes to the host, and wait for them.
    ///
    /// # Safety
    /// Both are there.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn download(&'static self, to: *mut c_void, from: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let _turn = self.turn()?;
        // SAFETY: the caller's promise.
        let status = unsafe { (self.driver.table.to_host)(to, from, bytes, ptr::null_mut()) };
        self.driver.check(status, "copying to the host")?;
        self.synchronize()
    }

    /// Copy bytes on the device, or from another one.
    ///
    /// # Safety
    /// Both are there.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn copy(&'static self, to: Address, from: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let _turn = self.turn()?;
        // SAFETY: the caller's promise.
        let status = unsafe { (self.driver.table.copy)(to, from, bytes, ptr::null_mut()) };
        self.driver.check(status, "copying on the device")
    }

    /// Wait until all work is done.
    ///
    /// # Errors
    /// What the driver says, also of work before this.
    pub fn synchronize(&'static self) -> Result<()> {
        let _turn = self.turn()?;
        // SAFETY: the default stream.
        let status = unsafe { (self.driver.table.synchronize)(ptr::null_mut()) };
        self.driver.check(status, "waiting for the device")
    }

    /// Wait until all work of all streams is done, also that of other libraries.
    ///
    /// # Errors
    /// As of [`synchronize`](Self::synchronize).
    pub fn synchronize_all(&'static self) -> Result<()> {
        let _turn = self.turn()?;
        // SAFETY: it takes nothing.
        let status = unsafe { (self.driver.table.synchronize_all)() };
        self.driver.check(status, "waiting for the device")
    }

    /// Is all work done?
    ///
    /// # Errors
    /// What the driver says, also of work before this.
    pub fn is_idle(&'static self) -> Result<bool> {
        let _turn = self.turn()?;
        // SAFETY: the default stream.
        match unsafe { (self.driver.table.query)(ptr::null_mut()) } {
            NOT_READY => Ok(false),
            status => self.driver.check(status, "asking whether the device is done").map(|()| true),
        }
    }

    /// Wait until all work is done, but no longer than that: whether it is.
    ///
    /// # Errors
    /// As of [`is_idle`](Self::is_idle).
    pub fn wait(&'static self, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        while !self.is_idle()? {
            let spent = start.elapsed();
            if spent >= limit {
                return Ok(false);
            }
            if spent > LOOK {
                std::thread::sleep(LOOK);
            }
        }
        Ok(true)
    }

    /// Let the work of `later` from now on wait for that of `earlier` until now.
    ///
    /// # Safety
    /// Both are streams of this device.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn order(&'static self, earlier: Opaque, later: Opaque) -> Result<()> {
        if earlier == later {
            return Ok(());
        }
        let _turn = self.turn()?;
        let (table, mut event) = (&self.driver.table, ptr::null_mut());
        // SAFETY: the caller's promise; the driver keeps a destroyed event until nobody waits for it.
        unsafe {
            self.driver.check((table.create_event)(&raw mut event, NO_TIMING), "making an event")?;
            let mut status = (table.record)(event, earlier);
            if status == 0 {
                status = (table.wait)(later, event, 0);
            }
            (table.destroy_event)(event);
            self.driver.check(status, "ordering two streams")
        }
    }

    /// Does this device read another's memory directly? It is switched on if that can be.
    ///
    /// # Errors
    /// What the driver says.
    pub fn sees(&'static self, other: &'static Self) -> Result<bool> {
        if self.id == other.id {
            return Ok(true);
        }
        let mut peers = lock(&self.peers);
        if let Some((_, sees)) = peers.iter().find(|it| it.0 == other.id) {
            return Ok(*sees);
        }
        let _turn = self.turn()?;
        let mut can = 0;
        // SAFETY: a place; an open context.
        let sees = unsafe {
            let table = &self.driver.table;
            self.driver.check((table.can_access)(&raw mut can, self.number, other.number), "asking for peer access")?;
            can != 0 && matches!((table.enable_access)(other.context, 0), 0 | ALREADY_ENABLED)
        };
        peers.push((other.id, sees));
        Ok(sees)
    }

    /// Let this device, and each other one that can, reach memory that was mapped at this address.
    ///
    /// # Errors
    /// What the driver says.
    pub fn allow(&'static self, address: Address, bytes: usize) -> Result<()> {
        let _turn = self.turn()?;
        let reach = |id| Access { location: Location { kind: ON_DEVICE, id }, flags: READ_WRITE };
        let others = (0..self.driver.devices).filter(|id| *id != self.id && self.is_reached_by(*id));
        let access: Vec<Access> = std::iter::once(self.id).chain(others).map(reach).collect();
        // SAFETY: the descriptions are alive; the address is one of the driver's.
        let status = unsafe { (self.driver.table.set_access)(address, bytes, access.as_ptr(), access.len()) };
        self.driver.check(status, "letting devices reach memory")
    }

    /// Can another device read and write this one's memory?
    fn is_reached_by(&self, id: i32) -> bool {
        let (table, mut number, mut can) = (&self.driver.table, 0, 0);
        // SAFETY: two places.
        let known = unsafe {
            (table.device)(&raw mut number, id) == 0 && (table.can_access)(&raw mut can, number, self.number) == 0
        };
        known && can != 0
    }
}

/// Memory of a device that can be exported as a file descriptor.
pub(crate) fn property(id: i32) -> Property {
    Property {
        kind: PINNED,
        handle_types: DESCRIPTOR,
        location: Location { kind: ON_DEVICE, id },
        windows: ptr::null_mut(),
        flags: [0; 8],
    }
}
