//! Memory and kernels of devices, which the host has and its workers use: what is told of them, and both ends of it.
//!
//! A function knows an array by a number. A worker knows no number until a function uses one: then it asks, and the host tells where
//! the array lies, for the running call only, so a number of a released array leads nowhere here too. The memory itself is the
//! host's, mapped by descriptor, and outlives whatever happens to a worker's context.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nif::abi::{DType, Device as DeviceNumber};
use nif_gpu::buffers::{self, Entry};
use nif_gpu::{Device, Error, Pool, Result, Window, kernels};
use serde::{Deserialize, Serialize};

/// What a host tells a worker of devices.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Open this device.
    Device {
        id: i32,
    },
    /// The descriptor that comes along is memory of a pool: where in its range, and how large both are.
    Part {
        pool: u32,
        device: i32,
        base: u64,
        range: u64,
        offset: u64,
        size: u64,
    },
    /// The pool has given that part back.
    Gone {
        pool: u32,
        offset: u64,
    },
    /// Where an array lies, for the running call: its device by `DLPack`'s numbers, its type's code, bits and lanes.
    Array {
        number: u64,
        pool: u32,
        offset: u64,
        bytes: u64,
        device: (i32, i32),
        dtype: (u8, u8, u16),
        lengths: Vec<i64>,
        is_read_only: bool,
    },
    /// Compiled kernels.
    Module {
        number: u64,
        device: i32,
        image: Vec<u8>,
    },
    Kernel {
        number: u64,
        module: u64,
        name: String,
    },
    /// Why a number leads nowhere.
    Nowhere {
        code: i32,
        text: String,
    },
}

/// What goes over the socket, and the memory that goes along.
pub type Mail = Vec<(Told, Option<Arc<OwnedFd>>)>;

/// The devices and kernels that a backend's calls have used: its spares have them ready.
#[derive(Clone, Debug, Default)]
pub struct Used {
    pub devices: BTreeSet<i32>,
    pub kernels: BTreeSet<u64>,
}

/// What a worker was told so far, as its host keeps it.
#[derive(Debug, Default)]
pub struct Shown {
    /// Those that it opened before it was ready.
    pub devices: BTreeSet<i32>,
    /// Pool, offset and id of each part.
    parts: BTreeSet<(u32, u64, u64)>,
    modules: BTreeSet<u64>,
    kernels: BTreeSet<u64>,
}

fn nowhere(error: &Error) -> Mail {
    vec![(Told::Nowhere { code: error.code(), text: error.to_string() }, None)]
}

impl Shown {
    /// What a new worker is told, so that it has ready what calls have used.
    pub fn all(&mut self, used: &Used) -> Mail {
        self.devices.clone_from(&used.devices);
        let opened = used.devices.iter().map(|id| (Told::Device { id: *id }, None));
        opened.chain(used.kernels.iter().flat_map(|it| self.try_kernel(*it).unwrap_or_default())).collect()
    }

    /// What to tell of an array.
    pub fn array(&mut self, number: u64) -> Mail {
        self.try_array(number).unwrap_or_else(|error| nowhere(&error))
    }

    fn try_array(&mut self, number: u64) -> Result<Mail> {
        let Entry { address, bytes, dtype, lengths, device, is_read_only } = buffers::find(number)?;
        let (pool, offset) = Pool::at(address).ok_or(Error::Foreign)?;
        let mine = pool.segment;
        let known: BTreeSet<u64> = self.parts.iter().filter(|it| it.0 == mine).map(|it| it.2).collect();
        let (base, range, ids, parts) = pool.export(|id| known.contains(&id))?;
        let mut mail = Mail::new();
        self.parts.retain(|(pool, offset, id)| {
            let stays = *pool != mine || ids.contains(id);
            if !stays {
                mail.push((Told::Gone { pool: *pool, offset: *offset }, None));
            }
            stays
        });
        for it in parts {
            let (offset, size) = (it.offset as u64, it.size as u64);
            self.parts.insert((mine, offset, it.id));
            let told = Told::Part { pool: mine, device: pool.device.id, base, range: range as u64, offset, size };
            mail.push((told, Some(Arc::new(it.descriptor))));
        }
        let told = Told::Array {
            number,
            pool: mine,
            offset,
            bytes: bytes as u64,
            device: (device.r#type, device.id),
            dtype: (dtype.code, dtype.bits, dtype.lanes),
            lengths: lengths.to_vec(),
            is_read_only,
        };
        mail.push((told, None));
        Ok(mail)
    }

    /// What to tell of a kernel.
    pub fn kernel(&mut self, number: u64) -> Mail {
        self.try_kernel(number).unwrap_or_else(|error| nowhere(&error))
    }

    fn try_kernel(&mut self, number: u64) -> Result<Mail> {
        let mut mail = Mail::new();
        let it = kernels::origin(number)?;
        let module = it.module as u64;
        if self.modules.insert(module) {
            mail.push((Told::Module { number: module, device: it.device, image: it.image.to_vec() }, None));
        }
        if self.kernels.insert(number) {
            mail.push((Told::Kernel { number, module, name: it.name.to_string() }, None));
        }
        Ok(mail)
    }
}

/// A worker's view of the devices.
#[derive(Default)]
pub struct Devices {
    windows: BTreeMap<u32, Window>,
    /// The worker's own numbers of the host's modules.
    modules: BTreeMap<u64, usize>,
    /// Arrays of the running call, and the devices that it uses.
    arrays: Vec<u64>,
    used: BTreeSet<i32>,
    /// Why the last that was told isn't here.
    failed: Option<Error>,
}

impl Devices {
    /// Do what the host tells. What can't be done fails the call that asked for it, not the worker.
    pub fn hear(&mut self, told: Told, descriptor: Option<&OwnedFd>) {
        if let Err(error) = self.try_hear(told, descriptor) {
            self.failed.get_or_insert(error);
        }
    }

    fn try_hear(&mut self, told: Told, descriptor: Option<&OwnedFd>) -> Result<()> {
        let size_of = |it: u64| usize::try_from(it).map_err(|_| Error::Unknown);
        match told {
            Told::Device { id } => {
                Device::get(id)?;
            }
            Told::Part { pool, device, base, range, offset, size } => {
                let window = match self.windows.entry(pool) {
                    std::collections::btree_map::Entry::Occupied(it) => it.into_mut(),
                    std::collections::btree_map::Entry::Vacant(it) => {
                        it.insert(Window::new(Device::get(device)?, base, size_of(range)?)?)
                    }
                };
                let file = descriptor.ok_or(Error::Unknown)?;
                window.add(file.as_fd(), size_of(offset)?, size_of(size)?)?;
            }
            Told::Gone { pool, offset } => {
                if let Some(window) = self.windows.get_mut(&pool) {
                    window.remove(size_of(offset)?);
                }
            }
            Told::Array { number, pool, offset, bytes, device, dtype, lengths, is_read_only } => {
                let window = self.windows.get(&pool).ok_or(Error::Unknown)?;
                let entry = Entry {
                    address: window.base + offset,
                    bytes: size_of(bytes)?,
                    dtype: DType { code: dtype.0, bits: dtype.1, lanes: dtype.2 },
                    lengths: lengths.into(),
                    device: DeviceNumber { r#type: device.0, id: device.1 },
                    is_read_only,
                };
                buffers::publish(number, entry);
                self.arrays.push(number);
                self.used.insert(device.1);
            }
            Told::Module { number, device, image } => {
                self.modules.insert(number, kernels::load(Device::get(device)?, &image)?);
            }
            Told::Kernel { number, module, name } => {
                let module = self.modules.get(&module).ok_or(Error::Unknown)?;
                kernels::adopt(number, *module, &name)?;
            }
            Told::Nowhere { code, text } => return Err(Error::Told { code, text }),
        }
        Ok(())
    }

    /// Whether all is here that was told since the last time.
    ///
    /// # Errors
    /// Why it isn't.
    pub fn is_here(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// The call is over when its work on devices is: its arrays lead nowhere then. An error of that work, and whether the device can't
    /// be used by this process any more.
    pub fn settle(&mut self) -> Option<(Error, bool)> {
        self.used.extend(kernels::started());
        if self.used.is_empty() {
            return None;
        }
        for number in self.arrays.drain(..) {
            buffers::forget(number);
        }
        let devices: Vec<&Device> = std::mem::take(&mut self.used).into_iter().filter_map(Device::opened).collect();
        let failed = devices.iter().find_map(|it| it.synchronize().err())?;
        // An error that the driver forgets is that of one piece of work.
        Some((failed, devices.iter().any(|it| it.synchronize().is_err())))
    }
}
