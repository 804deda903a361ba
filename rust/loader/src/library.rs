//! Opening a NIF library: is it one of ours, was it built for this layout, what is in it.

#![allow(
    clippy::not_unsafe_ptr_arg_deref,
    reason = "the pointers are those of hosts and tables, which are what they say"
)]

use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::table;
use nif::abi::{ABI_VERSION, Function, Host, Init, Library as Table, STRUCT_HASH};

/// A refusal: the reason, and how to fix it.
pub type Refusal = (String, String);

#[must_use]
pub fn refuse(reason: String) -> Refusal {
    (reason, "rebuild it with this version's SDK: nif-lab build".into())
}

/// A library as the loader knows it, and its table.
pub struct Opened {
    handle: *mut libc::c_void,
    pub table: &'static Table,
    /// The memfd of a copy. The loader knows the copy by its descriptor's path: whoever looks a symbol up later opens that
    /// path, so nothing else may ever stand there while the copy is loaded.
    pub file: Option<File>,
}

// SAFETY: the handle is only ever given back to the loader, which locks.
unsafe impl Send for Opened {}

impl Opened {
    /// Let go of a library that says it can be: one without an unload hook stays.
    ///
    /// # Safety
    /// No call of it runs, and nobody keeps a pointer into it.
    pub unsafe fn close(mut self) {
        if let Some(unload) = self.table.unload {
            // SAFETY: the caller's promise, and the library's: after this hook nothing of it is in use.
            unsafe {
                unload();
                libc::dlclose(self.handle);
            }
        } else {
            std::mem::forget(self.file.take());
        }
    }
}

/// Open the library at `path`.
///
/// A damaged file must be found here: the dynamic loader maps what the headers promise and dies on what isn't there.
pub fn open_file(path: &Path, host: *const Host) -> Result<Opened, Refusal> {
    let shown = path.display();
    check_elf(path).map_err(|e| refuse(format!("{shown}: {e}")))?;
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| refuse(format!("{shown}: {e}")))?;
    // SAFETY: loading runs the library's initialisers, which is what the user asked for; the table lives until
    // the library is closed. `nif_init` has the type that the contract gives it.
    unsafe {
        let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if handle.is_null() {
            let why = CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned();
            return Err(refuse(format!("{shown} can't be loaded: {why}")));
        }
        let symbol = libc::dlsym(handle, c"nif_init".as_ptr());
        if symbol.is_null() {
            let cure = "see docs/abi.md for what a library exports".into();
            return Err((format!("{shown} is not a NIF library: it exports no nif_init"), cure));
        }
        let init = std::mem::transmute::<*mut libc::c_void, Init>(symbol);
        let table = check_table(init(host), &shown.to_string())?;
        Ok(Opened { handle, table, file: None })
    }
}

/// Is this a table of our version and layout?
///
/// # Safety
/// `table` is null or leads to a table of some version, which always begins with the version and the hash.
pub unsafe fn check_table(table: *const Table, shown: &str) -> Result<&'static Table, Refusal> {
    if table.is_null() {
        return Err(refuse(format!("{shown}: its nif_init returned nothing")));
    }
    // SAFETY: the first two fields are the same in every version; the rest is read only after they agree.
    unsafe {
        let version = (*table).abi_version;
        if version != ABI_VERSION {
            return Err(refuse(format!("{shown} speaks version {version} of the ABI, this nif_lab {ABI_VERSION}")));
        }
        let hash = (*table).struct_hash;
        if hash != STRUCT_HASH {
            let here = format!("{shown} has another struct layout (hash {hash:08x}, here {STRUCT_HASH:08x})");
            return Err(refuse(here));
        }
        Ok(&*table)
    }
}

/// The functions of a checked table.
#[must_use]
pub fn functions(table: &Table) -> &[Function] {
    if table.functions.is_null() {
        return &[];
    }
    // SAFETY: a checked table tells the truth about its functions.
    unsafe { std::slice::from_raw_parts(table.functions, table.n_functions as usize) }
}

/// A string of a checked table; empty for none.
#[must_use]
pub fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: a checked table has NUL-terminated strings.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// What a table says of itself.
pub fn describe(table: &Table) -> table::Table {
    let row = |it: &Function| table::Function {
        name: text(it.name),
        signature: text(it.signature),
        doc: text(it.doc),
        flags: it.flags,
    };
    table::Table {
        language: text(table.language),
        compiler: text(table.compiler),
        version: text(table.library_version),
        functions: functions(table).iter().map(row).collect(),
    }
}

/// Is it a whole shared object for this machine?
pub fn check_elf(path: &Path) -> io::Result<()> {
    let damaged = |what: &str| io::Error::other(format!("not a whole shared library ({what})"));
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut header = [0u8; 64];
    file.read_exact(&mut header).map_err(|_| damaged("shorter than an ELF header"))?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    if header[..4] != *b"\x7fELF" || header[4] != 2 || header[5] != 1 {
        return Err(damaged("no 64-bit ELF header"));
    }
    let machine = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    if number(&header[16..18]) != 3 || number(&header[18..20]) != machine {
        return Err(damaged("not a shared object of this machine"));
    }
    let (offset, entry, count) = (number(&header[32..40]), number(&header[54..56]), number(&header[56..58]));
    let size = entry.checked_mul(count).filter(|_| entry >= 56).ok_or_else(|| damaged("bad program headers"))?;
    let end = offset.checked_add(size).ok_or_else(|| damaged("bad program headers"))?;
    if end > length {
        return Err(damaged("cut off in its headers"));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut programs = vec![0u8; size as usize];
    file.read_exact(&mut programs)?;
    for program in programs.chunks_exact(entry as usize) {
        let segment = number(&program[8..16]).checked_add(number(&program[32..40]));
        if segment.is_none_or(|end| end > length) {
            return Err(damaged("cut off in its segments"));
        }
    }
    Ok(())
}
