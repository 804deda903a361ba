//! Builds the native libraries of the other languages beside the core, so that one wheel has them all.
//!
//! The recipes are Python (`nif_lab.build`): the same that `nif-lab build` runs. A language whose compiler is missing is left out
//! with a warning; the Lab then says how to fix it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    // Whether this Python has a GIL: cfg(Py_GIL_DISABLED).
    pyo3_build_config::use_pyo3_cfgs();
    // Measured: where libraries share the low bits of their addresses, calls between them are 40 % slower in every third
    // process; aligned like NumPy and Python themselves, never.
    println!("cargo::rustc-link-arg=-Wl,-z,max-page-size=0x200000");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap()).join("../..");
    let out = PathBuf::from(env::var("OUT_DIR").unwrap()).join("_native");
    for watched in [
        "rust/nif",
        "rust/nif-macros",
        "rust/kernels",
        "rust/copy",
        "rust/gpu",
        "rust/memory",
        "rust/loader",
        "rust/worker",
        "zig",
        "nim",
        "julia/src",
        "julia/Project.toml",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    for watched in ["src/nif_lab/build.py", "src/nif_lab/backends", "src/nif_lab/errors.py"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    // `cargo check` and clippy want no libraries.
    println!("cargo:rerun-if-env-changed=NIF_LAB_BUILD");
    if env::var("NIF_LAB_BUILD").as_deref() == Ok("core") {
        std::fs::create_dir_all(&out).unwrap();
        return;
    }
    // Added to what is there: in an isolated build, pip's own entries are how the compilers' packages are found.
    let mut path = vec![root.join("src")];
    path.extend(env::split_paths(&env::var_os("PYTHONPATH").unwrap_or_default()));
    let path = env::join_paths(path).unwrap();
    let python = env::var("PYO3_PYTHON").unwrap_or_else(|_| "python3".into());
    let built = Command::new(&python)
        .args(["-m", "nif_lab.build", "--out"])
        .arg(&out)
        .args(["--machine", &env::var("CARGO_CFG_TARGET_ARCH").unwrap()])
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output();
    let output = match built {
        Ok(output) if output.status.success() => output,
        Ok(output) => panic!("{python} -m nif_lab.build: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{python} doesn't start: {error}"),
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("cargo:warning={line}");
    }
}
