//! Compiles the supervisor, a program without a C library, beside the extension module.
//!
//! maturin puts it into the wheel (see `include` in pyproject.toml).

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/sys");
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let program = PathBuf::from(variable("OUT_DIR")).join("fastjob-supervisor");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .arg(PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("src/sys/supervisor/main.rs"))
        .args(["--edition", "2024", "--crate-name", "fastjob_supervisor"])
        .args(["--target", &variable("TARGET")])
        .args(["-C", "opt-level=2", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "relocation-model=static", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"])
        .arg("-o")
        .arg(&program);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let status = rustc.status().expect("failed to run rustc for the supervisor");
    assert!(status.success(), "failed to compile the supervisor");
    println!("cargo::rustc-env=FASTJOB_SUPERVISOR={}", program.display());
}
