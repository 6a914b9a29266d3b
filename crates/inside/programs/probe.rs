//! `torno-probe ATTACK`: tries one thing that a run must not be able to do, as the process of a container.
//!
//! Ends with 0 when the host kept its promise, with 1 and a line on stdout when it did not, with 2 when it was asked for
//! what it does not know.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("write-root") => {
            kept(std::fs::write("/attack", b"x").is_err(), "a file was written to the root")
        }
        _ => ExitCode::from(2),
    }
}

fn kept(kept: bool, broken: &str) -> ExitCode {
    if !kept {
        println!("{broken}");
    }
    ExitCode::from(u8::from(!kept))
}
