//! Tells the crate which compiler builds it: a library says so in its table.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let output = Command::new(rustc).arg("--version").output().expect("rustc --version runs");
    let version = String::from_utf8(output.stdout).expect("rustc writes UTF-8");
    println!("cargo::rustc-env=NIF_COMPILER={}", version.trim());
}
