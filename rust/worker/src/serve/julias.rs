//! Julia's table, which no symbol of a library leads to.

use nif::abi::Library;
use nif_loader::library;

/// The table whose address Julia answered, if that is what it answered.
pub fn julias_table(answer: &str) -> Result<(&'static Library, &'static str), String> {
    let shown = "the table of Julia";
    let address: usize = answer.parse().map_err(|_| answer.to_owned())?;
    // SAFETY: the runtime gave this address as that of its table.
    let table = unsafe { library::check_table(std::ptr::with_exposed_provenance(address), shown) };
    table.map(|it| (it, shown)).map_err(|(reason, _)| reason)
}
