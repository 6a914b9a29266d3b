//! The short form of the instrument, on a build for tests: that it measures, and says so in the right form. How fast
//! anything is, is no matter here.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything may take that should be quick.
const PATIENCE: Duration = Duration::from_mins(1);

/// Torno, built from the sources at hand.
fn torno() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "torno", "--bin", "torno"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo");
    assert!(built.success(), "torno could not be built");
    Path::new(env!("CARGO_BIN_EXE_torno-bench")).with_file_name("torno")
}

/// The short form without distribution, which only `make bench` installs.
fn bench(output: &Path, figures: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torno-bench"));
    command.args(["--short", "--without", "distribution", "--output"]).arg(output);
    command.arg("--torno").arg(torno());
    for figure in figures {
        command.args(["--only", figure]);
    }
    command
}

fn run(folder: &Path, figures: &[&str]) -> (Output, Value) {
    let file = folder.join("bench.json");
    let output = bench(&file, figures).output().expect("torno-bench");
    let text = fs::read_to_string(&file);
    let said = String::from_utf8_lossy(&output.stderr);
    let text = text.unwrap_or_else(|error| panic!("no report ({error}): {said}"));
    (output, serde_json::from_str(&text).expect("JSON"))
}

/// The words of a line that begins with `bench`, in order: name, and what stands behind each `=`.
fn words(line: &str) -> Option<(String, Vec<(String, String)>)> {
    let mut words = line.strip_prefix("bench ")?.split(' ');
    let name = words.next()?.to_owned();
    let pairs = words.map(|word| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())));
    Some((name, pairs.collect::<Option<Vec<_>>>()?))
}

#[test]
fn it_measures_and_says_so_in_lines_and_json() {
    let folder = tempfile::tempdir().expect("a folder");
    // Each with the peers it is compared with, and without distribution.
    let expected: &[(&str, &[&str])] = &[
        ("pull-1gib", &["nginx"]),
        ("pull-1mib", &["nginx"]),
        ("push-1gib", &["openssl"]),
        ("small-images", &[]),
        ("tags-page", &["small"]),
        ("catalog-page", &["small"]),
        ("referrers-page", &["small"]),
        ("memory", &[]),
        ("push-result", &["docker"]),
    ];
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let (output, report) = run(folder.path(), &names);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "a missed goal alone is no failure: {stderr}");

    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let mut lines = stdout.lines().filter_map(words);
    let mut values = report["figures"].as_array().expect("figures").iter();
    for (name, peers) in expected {
        if peers.is_empty() {
            let (found, pairs) = lines.next().expect("a line");
            let keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!((found.as_str(), keys), (*name, vec!["torno", "unit"]));
        }
        for peer in *peers {
            let (found, pairs) = lines.next().expect("a line");
            let keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!((found.as_str(), keys), (*name, vec!["torno", *peer, "ratio", "unit"]));
            for (key, value) in &pairs {
                let positive = value.parse::<f64>().is_ok_and(|value| value > 0.0);
                assert!(key == "unit" || positive, "{name} {key}={value}");
            }
            let value = values.next().expect("a value");
            assert_eq!((&value["name"], &value["peer"]), (&(*name).into(), &(*peer).into()));
            let number = |key: &str| value[key].as_f64().expect("a number");
            let (torno, other) = (number("torno"), number("peer_value"));
            let ratio = if value["better"] == "higher" { torno / other } else { other / torno };
            assert!((ratio - number("ratio")).abs() < 1e-9, "{value}");
            assert_eq!(value["rounds"]["torno"].as_array().map(Vec::len), Some(1), "{value}");
        }
    }
    assert!(lines.next().is_none() && values.next().is_none(), "{stdout}");
    assert_eq!((&report["scale"], &report["failed"]), (&"short".into(), &Value::Array(Vec::new())));
    let missed = report["missed"].as_array().expect("what is missed").len();
    assert_eq!(stdout.lines().filter(|line| line.starts_with("missed ")).count(), missed);
}

#[test]
fn what_cannot_be_measured_is_a_failure_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bench.json");
    let mut command = bench(&file, &["pull-1gib"]);
    let output = command.args(["--torno", "/nonexistent/torno"]).output().expect("torno-bench");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_str(&fs::read_to_string(&file).expect("a report")).expect("JSON");
    assert_eq!(report["failed"][0]["name"], "pull-1gib");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("pull-1gib could not be measured"),
        "{output:?}"
    );
}

#[test]
fn a_signal_leaves_no_process_and_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bench.json");
    // Long enough to be stopped in its midst.
    let mut command = bench(&file, &["pull-1gib", "small-images"]);
    let mut child = command.args(["--rounds", "100"]).stderr(Stdio::piped()).spawn().expect("torno-bench");
    let mut said = BufReader::new(child.stderr.take().expect("stderr"));
    let mut line = String::new();
    while !line.contains("pull-1gib took") {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("a line"), 0, "it ended by itself");
    }
    let servers = servers_of(child.id());
    let sent = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().expect("kill");
    assert!(sent.success());
    assert_eq!(child.wait().expect("its end").code(), Some(128 + 15));
    for server in servers {
        let stat = fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
        // Whoever inherits a process that has ended may take a moment to wait for it.
        assert!(stat.is_empty() || stat.contains(") Z "), "process {server} is left: {stat}");
    }
    let target = Path::new(env!("CARGO_BIN_EXE_torno-bench")).ancestors().nth(2).expect("target");
    let of_ours = format!("bench.{}.", child.id());
    let left = fs::read_dir(target).expect("target").filter_map(Result::ok);
    let left: Vec<_> =
        left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&of_ours)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!file.exists(), "half a measurement is none");
}

/// The children of a process, once there are any.
fn servers_of(id: u32) -> Vec<u32> {
    let since = Instant::now();
    loop {
        let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let children: Vec<u32> = text.split_whitespace().filter_map(|child| child.parse().ok()).collect();
        if !children.is_empty() {
            return children;
        }
        assert!(since.elapsed() < PATIENCE, "it starts nothing");
        thread::park_timeout(Duration::from_millis(5));
    }
}
