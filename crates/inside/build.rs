//! Builds each program below `programs/` so that it needs nothing beside it, and hands its bytes to the library.

use std::{env, path::PathBuf, process::Command};

const PROGRAMS: [&str; 1] = ["probe"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for program in PROGRAMS {
        let source = format!("programs/{program}.rs");
        println!("cargo::rerun-if-changed={source}");
        // One file and the standard library: cargo could link it statically only together with all of Torno.
        let built = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"))
            .args(["--edition=2024", "--crate-type=bin", "-Cpanic=abort", "-Copt-level=s", "-Cstrip=symbols"])
            .args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static", "--cap-lints=warn"])
            .arg(format!("--target={}", env::var("TARGET").expect("cargo sets TARGET")))
            .arg("-o")
            .arg(out.join(program))
            .arg(&source)
            .status();
        match built {
            Ok(status) if status.success() => {}
            other => {
                panic!("{source} was not built ({other:?}): a C compiler and the static C library are needed")
            }
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
}
