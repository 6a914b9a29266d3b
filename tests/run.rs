//! The main job: push an image, run it beside the data, pull the result. With the real engine and the real client.

use std::fs;

use serde_json::Value;
use torno_tests::{Docker, Site, tool};

const PROJECT: &str = "
[datasets.numbers]
path = 'numbers'
[datasets.words]
path = 'words'
[projects.one]
researchers = ['ada', 'bob']
custodians = ['cora']
datasets = ['numbers']
environment = { SEED = '42' }
limits = { memory = '128MiB', time = '1m' }
[projects.two]
researchers = ['ada']
datasets = ['numbers', 'words']
logs = 'always'
[projects.quiet]
researchers = ['ada']
logs = 'never'
";

fn site() -> Site {
    let mut site = Site::new(PROJECT);
    for (dataset, content) in [("numbers", "1\n2\n3\n"), ("words", "a\nb\n")] {
        site.write_data(dataset, content);
    }
    site.add_users(&["ada", "bob", "cora"]);
    site.start();
    site
}

fn run_json(folder: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("run/run.json")).expect("run.json")).expect("JSON")
}

#[test]
fn push_run_pull() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    ada.run(
        "one/sum:1",
        "mkdir /output/deep && awk '{s += $1} END {print s}' /input/data.txt > /output/deep/sum\n\
         echo $SEED $TORNO_RUN $TORNO_PROJECT $TORNO_INPUT $TORNO_OUTPUT $HOME > /output/environment\n\
         echo spoken; echo complained >&2",
    );
    let image = ada.pull_result("one/sum:1");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&image, files.path());
    let read = |name: &str| fs::read_to_string(files.path().join(name)).expect(name);
    assert_eq!(read("output/deep/sum"), "6\n");
    assert_eq!(read("output/environment"), "42 1 one /input /output /tmp\n");
    assert!(!files.path().join("run/stdout.log").exists(), "on-failure lets no log of a success out");

    let report = run_json(files.path());
    assert_eq!(report["run"], 1);
    assert!(!report.to_string().contains(site.path("").to_str().expect("UTF-8")), "no path of the host's");
    let ro_crate: Value = serde_json::from_str(&read("run/ro-crate-metadata.json")).expect("JSON");
    assert!(ro_crate["@graph"].is_array());

    // The admin has what was printed all the same.
    let log = site.torno(&["runs", "log", "1"]);
    assert_eq!(String::from_utf8_lossy(&log.stdout), "spoken\n");
    assert_eq!(String::from_utf8_lossy(&log.stderr), "complained\n");
    assert!(site.torno_ok(&["runs", "list"]).contains("run/one/sum:1"));

    // Whose result it is.
    let bob = Docker::login(&site, "bob");
    assert!(bob.fails(&["pull", &image]).contains("not known here"));
    Docker::login(&site, "cora").ok(&["pull", "--quiet", &image]);
}

#[test]
fn several_datasets_stand_side_by_side() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    ada.run("two/both:1", "cat /input/*/data.txt > /output/all; ls /input > /output/names; echo said");
    let image = ada.pull_result("two/both:1");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&image, files.path());
    let read = |name: &str| fs::read_to_string(files.path().join(name)).expect(name);
    assert_eq!(read("output/all"), "1\n2\n3\na\nb\n");
    assert_eq!(read("output/names"), "numbers\nwords\n");
    assert_eq!(read("run/stdout.log"), "said\n");
}

#[test]
fn the_result_is_the_artifact_of_the_design() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let http = site.http("ada");
    ada.run("one/x:1", "echo x > /output/x");
    ada.pull_result("one/x:1");
    let manifest = http.get("/v2/results/one/x/manifests/1");
    assert_eq!(manifest.header("content-type"), "application/vnd.oci.image.manifest.v1+json");
    let value = manifest.json();
    assert_eq!(value["artifactType"], "application/vnd.torno.result.v1");
    assert_eq!(value["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let layers = value["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 2);
    let config = http.get(&format!("/v2/results/one/x/blobs/{}", text(&value["config"]["digest"]))).json();
    assert_eq!(config["os"], "linux");
    assert!(!config["config"]["Cmd"].as_array().expect("Cmd").is_empty());
    for (index, title) in ["output", "run"].into_iter().enumerate() {
        let layer = &layers[index];
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let annotations = &layer["annotations"];
        assert_eq!(annotations["org.opencontainers.image.title"], title);
        assert_eq!(annotations["io.deis.oras.content.unpack"], "true");
        let diff_id = &config["rootfs"]["diff_ids"][index];
        assert_eq!(annotations["io.deis.oras.content.digest"], *diff_id);
        let bytes = http.get(&format!("/v2/results/one/x/blobs/{}", text(&layer["digest"]))).body;
        let mut tar = Vec::new();
        std::io::copy(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut tar).expect("gzip");
        assert_eq!(torno_tests::sha256(&tar), text(diff_id));
        for entry in tar::Archive::new(tar.as_slice()).entries().expect("tar") {
            let entry = entry.expect("entry");
            assert!(entry.path().expect("path").starts_with(title));
            let header = entry.header();
            let (uid, gid) = (header.uid().expect("uid"), header.gid().expect("gid"));
            assert_eq!((uid, gid, header.mtime().expect("mtime")), (0, 0, 0));
        }
    }
    let image = http.get("/v2/run/one/x/manifests/1").header("docker-content-digest");
    assert_eq!(value["subject"]["digest"], image.as_str());
    let referrers = http.get(&format!("/v2/results/one/x/referrers/{image}")).json();
    assert_eq!(referrers["manifests"][0]["digest"], manifest.header("docker-content-digest").as_str());
    let tags = http.get("/v2/results/one/x/tags/list").json();
    assert_eq!(tags["tags"], serde_json::json!(["1", "run-1"]));

    // Skopeo takes it too.
    let auth = ada.auth_file();
    let inspected = tool(
        "skopeo",
        &[
            "inspect",
            "--authfile",
            &auth,
            "--tls-verify=false",
            &format!("docker://{}", ada.name("results/one/x:run-1")),
        ],
    );
    assert!(inspected.contains("\"Layers\""));
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

#[test]
fn the_same_files_make_the_same_layer() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let layer = |tag: &str| {
        ada.run(&format!("one/same:{tag}"), "for i in b a c; do echo $i > /output/$i; done");
        ada.pull_result(&format!("one/same:{tag}"));
        let manifest = site.http("ada").get(&format!("/v2/results/one/same/manifests/{tag}")).json();
        text(&manifest["layers"][0]["digest"]).to_owned()
    };
    assert_eq!(layer("1"), layer("2"));
}

/// Checks a `run.json` with a validator of JSON schemas that is none of ours.
fn validate(folder: &std::path::Path) {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/run.schema.json");
    let file = folder.join("run/run.json");
    tool("/usr/bin/python3", &["-m", "jsonschema", "-i", file.to_str().expect("UTF-8"), schema]);
}

#[test]
fn run_json_is_what_its_schema_says() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    // It holds 30 MB for as long as it takes to count, however fast the machine is.
    ada.run(
        "one/use:1",
        "x=$(head -c 30000000 /dev/zero | tr '\\0' a); i=0; while [ $i -lt 1500000 ]; do i=$((i+1)); done\n\
         echo ${#x} > /output/length; echo 12345 > /output/y; ln -s /etc/passwd /output/link",
    );
    let image = ada.pull_result("one/use:1");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&image, files.path());
    validate(files.path());
    let report = run_json(files.path());
    // Its fingerprint stands there once it is known, which no run waits for.
    let given = &report["datasets"];
    assert_eq!((&given[0]["name"], &given[0]["mount"]), (&"numbers".into(), &"/input".into()));
    assert_eq!(given.as_array().map(Vec::len), Some(1), "{given}");
    assert_eq!(report["plan"]["limits"]["memoryBytes"], 128 << 20);
    assert_eq!((&report["outputBytes"], &report["leftOutCount"]), (&15.into(), &1.into()));
    let (memory, cpu) = (&report["used"]["peakMemoryBytes"], &report["used"]["cpuSeconds"]);
    assert!((28 << 20..=128 << 20).contains(&memory.as_u64().expect("seen")), "{memory}");
    let took = report["wallClockSeconds"].as_u64().expect("known") + 1;
    assert!(cpu.as_f64().is_some_and(|cpu| cpu > 0.1), "{cpu}");
    assert!(cpu.as_f64() < took.to_string().parse::<f64>().ok(), "{cpu} of {took}: one processor");
    let text = report.to_string();
    for secret in [site.path("").to_str().expect("UTF-8"), site.host(), "SEED"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let shown = site.torno_ok(&["runs", "show", "1"]);
    assert!(shown.contains("peak memory") && !shown.contains("peak memory  -"), "{shown}");

    ada.run("one/use:2", "exit 7");
    assert_eq!(site.wait_for_run(2), "exit status 7");
    let log = ada.name("results/one/use:2.log");
    ada.ok(&["pull", "--quiet", &log]);
    ada.remember(&log);
    let container = ada.ok(&["create", &log]);
    let files = tempfile::tempdir().expect("folder");
    ada.ok(&["cp", &format!("{}:/run", container.trim()), files.path().to_str().expect("UTF-8")]);
    ada.ok(&["rm", container.trim()]);
    validate(files.path());
    assert_eq!(run_json(files.path())["outcome"]["kind"], "exit-status");
}

#[test]
fn a_failure_says_so_and_shows_its_log() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    ada.run("one/bad:1", "echo before; echo the reason >&2; echo partial > /output/x; exit 3");
    assert_eq!(site.wait_for_run(1), "exit status 3");
    let message = ada.fails(&["pull", &ada.name("results/one/bad:1")]);
    let log = ada.name("results/one/bad:1.log");
    assert!(message.contains(&format!("run 1 failed: exit status 3; its log: {log}")), "{message}");
    ada.ok(&["pull", "--quiet", &log]);
    ada.remember(&log);
    let container = ada.ok(&["create", &log]);
    let files = tempfile::tempdir().expect("folder");
    ada.ok(&["cp", &format!("{}:/run", container.trim()), files.path().to_str().expect("UTF-8")]);
    ada.ok(&["rm", container.trim()]);
    assert_eq!(fs::read_to_string(files.path().join("run/stderr.log")).expect("log"), "the reason\n");
    assert!(!files.path().join("output").exists(), "nothing of a failed run's output leaves");

    ada.run("quiet/bad:1", "echo secret; exit 1");
    assert_eq!(site.wait_for_run(2), "exit status 1");
    let message = ada.fails(&["pull", &ada.name("results/quiet/bad:1")]);
    assert!(message.contains("run 2 failed: exit status 1") && !message.contains("log"), "{message}");
    ada.fails(&["pull", &ada.name("results/quiet/bad:1.log")]);
    assert_eq!(site.torno_ok(&["runs", "log", "2"]), "secret\n");
}

#[test]
fn a_log_comes_back_as_text_with_its_times() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    ada.run(
        "two/print:1",
        "printf '\\033[31mred\\033[0m\\r50%%\\r100%%\\n\\377\\n'; echo complained >&2; printf '\\033]0;x\\007end'",
    );
    let image = ada.pull_result("two/print:1");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&image, files.path());
    let read = |name: &str| fs::read_to_string(files.path().join("run").join(name)).expect("UTF-8");
    let stdout = "red\n50%\n100%\n\u{fffd}\n\u{fffd}]0;x\u{fffd}end";
    assert_eq!((read("stdout.log").as_str(), read("stderr.log").as_str()), (stdout, "complained\n"));
    let timed: Vec<Value> =
        read("log.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut lines: Vec<_> = timed.iter().map(|line| (text(&line["stream"]), text(&line["text"]))).collect();
    // The engine reads the two streams beside each other.
    lines.sort_by_key(|(stream, _)| *stream);
    let stdout = ["red\n50%\n100%", "\u{fffd}", "\u{fffd}]0;x\u{fffd}end"].map(|line| ("stdout", line));
    assert_eq!(lines, [&[("stderr", "complained")][..], &stdout].concat());
    let report = run_json(files.path());
    for line in &timed {
        let time = text(&line["time"]);
        assert_eq!(time.len(), "2026-01-02T03:04:05Z".len(), "{time}: to the second");
        // Of one form, in one time zone: their order is that of their texts.
        assert!(text(&report["started"]) <= time && time <= text(&report["finished"]), "{time}");
    }

    // The admin has it as the engine kept it, whose log files are JSON, and the times finer.
    let raw = site.torno(&["runs", "logs", "1"]).stdout;
    assert_eq!(raw, b"\x1b[31mred\x1b[0m\r50%\r100%\n\xef\xbf\xbd\n\x1b]0;x\x07end");
    let timed = site.torno(&["runs", "logs", "--times", "1"]).stdout;
    let timed = String::from_utf8_lossy(&timed);
    assert!(timed.lines().any(|line| line.ends_with("Z stderr complained")), "{timed}");
    assert_eq!(timed.lines().count(), 4, "{timed}");
}

#[test]
fn a_log_is_the_end_of_what_was_printed() {
    let mut site = Site::new(
        "[projects.loud]\nresearchers = ['ada']\nlogs = 'always'\nlimits = { log = '1KiB', memory = '64MiB' }\n",
    );
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    // 1024 bytes on one stream, 1025 on the other.
    ada.run(
        "loud/p:1",
        "printf 'a%.0s' $(seq 1023); echo; printf 'b%.0s' $(seq 24) >&2; echo >&2; printf 'c%.0s' $(seq 999) >&2; echo >&2",
    );
    let image = ada.pull_result("loud/p:1");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&image, files.path());
    let read = |name: &str| fs::read_to_string(files.path().join("run").join(name)).expect("UTF-8");
    assert_eq!(read("stdout.log"), format!("{}\n", "a".repeat(1023)));
    assert_eq!(read("stderr.log"), format!("{}\n{}\n", "b".repeat(23), "c".repeat(999)));
}

#[test]
fn a_command_that_cannot_start_is_named() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let name = ada.build("run/one/nocmd:1", "", "ENTRYPOINT [\"/missing\"]");
    ada.ok(&["push", "--quiet", &name]);
    let state = site.wait_for_run(1);
    assert!(state.starts_with("the command could not be started: no such file"), "{state}");
}

#[test]
fn after_a_second_push_the_first_result_is_never_pulled() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    for round in ["first", "second", "third"] {
        ada.run("one/again:1", &format!("echo {round} > /output/round"));
        let image = ada.pull_result("one/again:1");
        let files = tempfile::tempdir().expect("folder");
        ada.files(&image, files.path());
        assert_eq!(
            fs::read_to_string(files.path().join("output/round")).expect("round"),
            format!("{round}\n")
        );
    }
}

#[test]
fn deleting_frees_what_a_run_left() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let empty = site.blob_bytes();
    ada.run("one/gone:1", "echo x > /output/x");
    ada.pull_result("one/gone:1");
    let http = site.http("ada");
    for repository in ["run/one/gone", "results/one/gone"] {
        let digest = http.get(&format!("/v2/{repository}/manifests/1")).header("docker-content-digest");
        http.delete(&format!("/v2/{repository}/manifests/{digest}")).expect(202);
    }
    assert!(site.torno_ok(&["gc"]).contains("freed"));
    assert_eq!(site.blob_bytes(), empty);
}
