//! Builds each program below `programs/` so that it needs nothing beside it, and hands its bytes to the library.

use std::{env, path::PathBuf, process::Command};

/// Each program and the file that its others hang on.
const PROGRAMS: [(&str, &str); 2] = [("probe", "programs/probe/main.rs"), ("relay", "programs/relay.rs")];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // All that is below it, too.
    println!("cargo::rerun-if-changed=programs");
    for (program, source) in PROGRAMS {
        // Nothing but the standard library: cargo could link it statically only together with all of Torno.
        let built = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"))
            .args(["--edition=2024", "--crate-type=bin", "-Cpanic=abort", "-Copt-level=s", "-Cstrip=symbols"])
            .args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static", "--cap-lints=warn"])
            .arg(format!("--target={}", env::var("TARGET").expect("cargo sets TARGET")))
            .arg("-o")
            .arg(out.join(program))
            .arg(source)
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
