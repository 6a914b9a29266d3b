//! The short form of `make crash`, on a build for tests.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Torno, built from the sources at hand.
fn torno() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "torno", "--bin", "torno"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo");
    assert!(built.success(), "torno could not be built");
    Path::new(env!("CARGO_BIN_EXE_torno-crash")).with_file_name("torno")
}

fn crash(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torno-crash"));
    command.args(arguments).arg("--torno").arg(torno()).output().expect("torno-crash")
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn twenty_kills_lose_nothing() {
    let output = crash(&["--kills", "20"]);
    assert_eq!(last_line(&output), "crash: 20 kills, 0 lost, 0 dangling, 0 leaked", "{output:?}");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_it_does_not_know_is_refused() {
    let output = crash(&["--kills", "many"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
