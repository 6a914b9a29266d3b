//! Runs behind a kernel of their own (gVisor), as a project may ask for.

use torno_tests::{Docker, Engine, Site, wait_until};

use crate::doctor::{examined, text};

const PROJECT: &str = "
[projects.sealed]
researchers = ['ada']
runtime = 'runsc'
limits = { memory = '128MiB', pids = 64, time = '1m', output = '1MiB' }
";

/// Without KVM, as on most virtual machines.
const RUNSC: &str =
    r#"{"runtimes": {"runsc": {"path": "runsc", "runtimeArgs": ["--platform=ptrace", "--network=none"]}}}"#;
/// Somebody's mistake.
const RUNC_UNDER_ITS_NAME: &str = r#"{"runtimes": {"runsc": {"path": "runc"}}}"#;

/// A site with an engine that knows these runtimes, where a pull waits so long.
fn site(runtimes: &str, wait: &str) -> (Site, Engine) {
    let engine = Engine::start_with(|folder| {
        let file = folder.join("daemon.json");
        std::fs::write(&file, runtimes).expect("write");
        vec!["--config-file".into(), file.to_str().expect("UTF-8").into()]
    });
    let mut site = Site::new(PROJECT)
        .with("TORNO_EXECUTOR_ENGINE", &engine.socket())
        .with("TORNO_EXECUTOR_RECONCILE", "1s")
        .with("TORNO_RESULTS_WAIT", wait);
    site.add_users(&["ada"]);
    site.start();
    (site, engine)
}

#[test]
fn a_run_has_a_kernel_of_its_own_and_every_promise_is_kept() {
    let (mut site, engine) = site(RUNSC, "30s");
    let ada = Docker::login_at(&engine.socket(), &site, "ada");
    ada.run(
        "sealed/hello:1",
        "dmesg | head -1 > /output/kernel; id -u > /output/user; ls /sys/class/net > /output/net",
    );
    let image = ada.pull_result("sealed/hello:1");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&image, files.path());
    let read = |name: &str| std::fs::read_to_string(files.path().join("output").join(name)).expect(name);
    assert!(read("kernel").contains("Starting gVisor"), "{}", read("kernel"));
    assert_eq!((read("user").as_str(), read("net").trim()), ("65532\n", "lo"));

    // What takes more than its limit is ended by name, and the next one is well.
    ada.run("sealed/memory:1", "a=$(head -c 300m /dev/zero | tr '\\0' x); echo survived > /output/x");
    assert!(site.wait_for_run(2).contains("out of memory"), "{}", site.wait_for_run(2));
    ada.run("sealed/fork:1", "f() { f | f & f; }; f; sleep 5");
    assert_ne!(site.wait_for_run(3), "succeeded");
    ada.run("sealed/honest:1", "echo fine > /output/fine");
    assert_eq!(site.wait_for_run(4), "succeeded");

    let (lines, starts) = examined(&site);
    assert!(starts, "{lines:#?}");
    assert!(lines.iter().all(|line| line["runtime"] == "runsc"), "only that runtime is in use");
    for (name, verdict) in
        [("write-input", "kept"), ("tcp", "kept"), ("mknod", "contained"), ("memory", "contained")]
    {
        let line = lines.iter().find(|line| line["line"] == name).expect("the line");
        assert_eq!(text(line, "verdict"), verdict, "{line}");
    }
    site.stop();
}

#[test]
fn what_is_only_called_gvisor_runs_nothing() {
    let (mut site, engine) = site(RUNC_UNDER_ITS_NAME, "0s");
    let ada = Docker::login_at(&engine.socket(), &site, "ada");
    ada.run("sealed/hello:1", "true");
    wait_until("that was found out", || site.log().contains("is not gVisor").then_some(()));
    assert!(!site.torno(&["doctor"]).status.success());
    let told = |path: &str| {
        site.http("ada").get(&format!("/v2/results/{path}/manifests/1")).expect_error(404, "MANIFEST_UNKNOWN")
    };
    let unfit = "no run of its project is started: since ";
    wait_until("whoever waits is told", || told("sealed/hello").contains(unfit).then_some(()));
    assert!(!told("sealed/hello").contains("gVisor") && !told("sealed/hello").contains("runsc"));
    assert!(site.torno_ok(&["runs", "show", "1"]).contains("queued, host not fit"));
    let listed = site.torno(&["runs", "list"]);
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(said.contains("no run of `sealed` is started since"), "{said}");

    // What is fit runs beside it.
    let configure = |text: &str, read: usize| {
        let written = std::fs::read_to_string(site.path("torno.toml")).expect("the configuration");
        let projects = written.rfind("[projects.sealed]").expect("projects");
        std::fs::write(site.path("torno.toml"), format!("{}{text}", &written[..projects])).expect("write");
        site.signal("HUP");
        let line = "the configuration was read again";
        wait_until("it is read", || (site.log().matches(line).count() == read).then_some(()));
    };
    let project =
        |name: &str, runtime: &str| format!("[projects.{name}]\nresearchers = ['ada']\n{runtime}\n");
    let (runsc, none) = ("runtime = 'runsc'", "");
    configure(&(project("sealed", runsc) + &project("plain", none)), 1);
    ada.run("plain/first:1", "true");
    assert_eq!(site.wait_for_run(2), "succeeded");
    assert!(site.torno_ok(&["runs", "show", "1"]).contains("queued, host not fit"));

    // What is not waits when a project comes to ask for it, and goes on when it asks for it no longer.
    configure(&(project("sealed", none) + &project("plain", runsc)), 2);
    assert_eq!(site.wait_for_run(1), "succeeded");
    ada.run("plain/second:1", "true");
    wait_until("whoever waits is told", || told("plain/second").contains(unfit).then_some(()));
    let shown = site.torno_ok(&["runs", "show", "3"]);
    assert!(shown.contains("queued, host not fit") && shown.contains("attempts     0"), "{shown}");
    configure(&(project("sealed", none) + &project("plain", none)), 3);
    assert_eq!(site.wait_for_run(3), "succeeded");
    wait_until("nobody is told so any more", || {
        site.torno(&["runs", "list"]).stderr.is_empty().then_some(())
    });
    site.stop();
}
