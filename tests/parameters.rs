//! What a researcher says in labels of the image: parameters, and that a run needs less than the project gives.

use std::fs;

use serde_json::{Value, json};
use torno_tests::{Answer, Docker, Image, Site, wait_until};

const PROJECT: &str = "
[projects.p]
researchers = ['ada']
limits = { memory = '64MiB', cpus = 1, time = '2m' }
";

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[test]
fn parameters_arrive_as_they_were_written_and_limits_are_lowered() {
    let site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    let script = "echo \"$TORNO_PARAM_FOLDS|$TORNO_PARAM_ODD|$TORNO_PARAM_FORGED\" > /output/found
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null > /output/memory
        cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null > /output/cpu || cut -d' ' -f1 /sys/fs/cgroup/cpu.max > /output/cpu";
    let lines = "LABEL org.torno.param.folds=5 org.torno.param.odd='$(touch /output/x); `id` ; é'
LABEL org.torno.cpus=0.5 org.torno.memory=32MiB org.torno.timeout=1m
ENV TORNO_PARAM_FOLDS=99 TORNO_PARAM_FORGED=yes";
    let image = ada.build("run/p/asks:1", script, lines);
    ada.ok(&["push", "--quiet", &image]);
    let result = ada.pull_result("p/asks:1");
    let folder = tempfile::tempdir().expect("folder");
    ada.files(&result, folder.path());
    let read = |name: &str| fs::read_to_string(folder.path().join("output").join(name)).expect(name);
    assert_eq!(read("found"), "5|$(touch /output/x); `id` ; é|\n");
    assert_eq!(read("memory"), format!("{}\n", 32 << 20));
    assert_eq!(read("cpu"), "50000\n", "of 100 ms each");
    assert!(!folder.path().join("output/x").exists());

    let image = ada.build("run/p/short:1", "sleep 100", "LABEL org.torno.timeout=2s");
    ada.ok(&["push", "--quiet", &image]);
    assert_eq!(site.wait_for_run(2), "stopped after 2s");
    let image = ada.build(
        "run/p/small:1",
        "awk 'BEGIN { s = \"x\"; while (1) s = s s }'",
        "LABEL org.torno.memory=16MiB",
    );
    ada.ok(&["push", "--quiet", &image]);
    assert_eq!(site.wait_for_run(3), "out of memory (limit 16MiB)");
}

#[test]
fn what_the_project_does_not_give_is_refused_at_the_push_with_the_bound() {
    let site = Site::start_with(PROJECT, &["ada"]);
    let http = site.http("ada");
    let push = |tag: &str, labels: &Value| {
        let config = json!({"Cmd": ["/busybox", "true"], "Labels": labels});
        Image::with_config(b"a layer", &config).push(&http, "run/p/n", tag)
    };
    for (number, (label, value, words)) in [
        (
            "org.torno.memory",
            "65MiB",
            "65.0 MiB of memory (label `org.torno.memory`) and this project gives a run at most 64.0 MiB",
        ),
        (
            "org.torno.cpus",
            "1.01",
            "1.01 processors (label `org.torno.cpus`) and this project gives a run at most 1 processor;",
        ),
        (
            "org.torno.timeout",
            "2m 1ms",
            "2m 1ms (label `org.torno.timeout`) and this project gives a run at most 2m;",
        ),
        ("org.torno.memory", "lots", "the label `org.torno.memory` is `lots`; write a size"),
        ("org.torno.param.A", "x", "the label `org.torno.param.A` has no name that can be a variable's"),
        ("org.torno.param.a", "two\nlines", "the value of the label `org.torno.param.a` cannot be handed on"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = push(&number.to_string(), &json!({label: value}));
        answer.expect(400);
        assert!(text(&answer).contains(words), "{}", text(&answer));
    }
    assert!(site.torno_ok(&["runs", "list"]).trim().lines().count() <= 1, "nothing runs");
    // At the bounds.
    push("at", &json!({"org.torno.memory": "64MiB", "org.torno.cpus": "1", "org.torno.timeout": "2m"}))
        .expect(201);

    // What the project gives can change while the server runs.
    let written = fs::read_to_string(site.path("torno.toml")).expect("the configuration");
    fs::write(site.path("torno.toml"), written.replace("64MiB", "32MiB")).expect("write");
    site.signal("HUP");
    let refused = wait_until("the new limit holds", || {
        let answer = push("after", &json!({"org.torno.memory": "64MiB"}));
        (answer.status == 400).then(|| text(&answer))
    });
    assert!(refused.contains("at most 32.0 MiB"), "{refused}");
}
