//! The short form of `make crash`, on a build for tests.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// How often the power is cut twice until something that was never synced is lost: each time it nearly always is.
const MOST_TRIES: usize = 5;

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
    crash_of(&torno(), arguments)
}

fn crash_of(torno: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torno-crash"));
    command.args(arguments).arg("--torno").arg(torno).output().expect("torno-crash")
}

/// A program that does something before it becomes Torno, or in its stead.
fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("torno");
    let script = script.replace("TORNO", torno().to_str().expect("UTF-8"));
    fs::write(&path, format!("#!/bin/sh\n{script}")).expect("a script");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a script");
    path
}

/// Lost, dangling and leaked, as the last line has them.
fn found(output: &Output) -> Vec<u64> {
    last_line(output).split(", ").skip(1).filter_map(|part| part.split(' ').next()?.parse().ok()).collect()
}

/// Disks can be mounted by root only, where there are loop devices.
fn has_disks() -> bool {
    let id = Command::new("id").arg("--user").output().expect("id");
    id.stdout == b"0\n" && Path::new("/dev/loop-control").exists()
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn twenty_kills_lose_nothing() {
    let output = crash(&["--kills", "20", "--power", "0"]);
    assert_eq!(last_line(&output), "crash: 20 kills, 0 lost, 0 dangling, 0 leaked", "{output:?}");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn two_power_cuts_lose_nothing() {
    if !has_disks() {
        return;
    }
    let output = crash(&["--kills", "0", "--power", "2"]);
    assert_eq!(last_line(&output), "crash: 0 kills, 0 lost, 0 dangling, 0 leaked", "{output:?}");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_is_never_synced_is_lost() {
    if !has_disks() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let calls = "fsync,fdatasync,syncfs,sync_file_range,msync";
    // In a process of its own the tracer lets Torno have the number that was started.
    let script = format!(
        "exec strace -D -f -qq -o /dev/null -e trace={calls} -e inject={calls}:retval=0 TORNO \"$@\""
    );
    let program = program(folder.path(), &script);
    // When everything was on the disk at the moment of a cut, for whatever reason, that cut proves nothing.
    let output = (0..MOST_TRIES)
        .map(|_| crash_of(&program, &["--kills", "0", "--power", "2"]))
        .find(|output| output.status.code() != Some(0))
        .expect("nothing is ever lost, so nothing is proved");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(found(&output).first().is_some_and(|lost| *lost > 0), "{output:?}");
}

#[test]
fn what_is_taken_away_or_left_behind_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    // At each start; the first finds nothing yet.
    let script = "if [ \"$1\" = serve ]; then
        for config; do :; done
        blobs=$(dirname \"$config\")/registry-data/blobs
        if [ -e \"$blobs\" ]; then
            find \"$blobs\" -type f | sort | head -n 20 | xargs -r rm -f
            touch \"$blobs/sha256/00/stray\"
        fi
    fi
    exec TORNO \"$@\"";
    let output = crash_of(&program(folder.path(), script), &["--kills", "6", "--power", "0"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found = found(&output);
    assert!(found.len() == 3 && found.iter().all(|count| *count > 0), "{output:?}");
}

#[test]
fn what_it_does_not_know_is_refused() {
    let output = crash(&["--kills", "many"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
