//! Torno is killed at every stage of a run; after a restart each run ends exactly once.

use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use torno_tests::{Docker, Site, wait_until};

const PROJECT: &str = "
[projects.p]
researchers = ['ada']
limits = { time = '1m', output = '256MiB' }
";

/// Listens to the engine for the starts of a site's containers.
struct Starts {
    listener: Child,
    heard: PathBuf,
}

impl Starts {
    fn listen(site: &Site) -> Self {
        let heard = site.path("starts");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let listener = Command::new("docker")
            .args(["events", "--since", &now.to_string(), "--filter", "type=container"])
            .args(["--filter", "event=start", "--format", "{{json .Actor.Attributes}}"])
            .stdin(Stdio::null())
            .stdout(File::create(&heard).expect("file"))
            .spawn()
            .expect("docker events");
        Self { listener, heard }
    }

    /// How often the engine has started a container of a run.
    fn of(&self, site: &Site, run: u64) -> usize {
        let instance = site.instance().expect("the executor has started");
        let run = run.to_string();
        let heard = fs::read_to_string(&self.heard).expect("file");
        let labels = heard.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        labels
            .filter(|labels| {
                labels["org.torno.instance"] == instance && labels["org.torno.run"] == run.as_str()
            })
            .count()
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        self.listener.kill().expect("kill");
        self.listener.wait().expect("wait");
    }
}

fn state(site: &Site, run: u64) -> String {
    let shown = site.torno_ok(&["runs", "show", &run.to_string()]);
    let line = shown.lines().find(|line| line.starts_with("state")).expect("state");
    line.trim_start_matches("state").trim().to_owned()
}

fn wait_for_state(site: &Site, run: u64, wanted: &[&str]) {
    wait_until(&format!("run {run} is {wanted:?}"), || {
        wanted.contains(&state(site, run).as_str()).then_some(())
    });
}

/// After a restart the run succeeds, has been started once, and its result is there.
fn ends_once(site: &mut Site, ada: &Docker, starts: &Starts, image: &str) {
    site.start();
    assert_eq!(site.wait_for_run(1), "succeeded");
    assert_eq!(starts.of(site, 1), 1, "started once");
    let result = ada.pull_result(image);
    let folder = tempfile::tempdir().expect("folder");
    ada.files(&result, folder.path());
    assert_eq!(fs::read_to_string(folder.path().join("output/done")).expect("done"), "done\n");
    assert_eq!(site.torno_ok(&["runs", "list"]).lines().count(), 2, "one run and the heading");
    // What is attached to the result came with it, once.
    let name = format!("results/{image}");
    assert!(site.torno_ok(&["provenance", "verify", &name]).contains("run        1 (succeeded)"));
    let (repository, tag) = name.rsplit_once(':').expect("a tag");
    let http = site.http("ada");
    let digest = http.head(&format!("/v2/{repository}/manifests/{tag}")).header("docker-content-digest");
    let attached = http.get(&format!("/v2/{repository}/referrers/{digest}")).json();
    let listed = attached["manifests"].as_array().expect("a list").iter();
    let mut types: Vec<_> = listed.map(|one| one["artifactType"].as_str().expect("a type")).collect();
    types.sort_unstable();
    assert_eq!(types, ["application/vnd.in-toto+json", "application/vnd.torno.ro-crate.v1+json"]);
}

#[test]
fn while_queued() {
    let mut site = Site::new(PROJECT).with("TORNO_EXECUTOR_ENGINE", "unix:///nonexistent/docker.sock");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    let starts = Starts::listen(&site);
    ada.run("p/x:1", "echo done > /output/done");
    assert_eq!(state(&site, 1), "queued");
    site.kill();
    let mut site = site.with("TORNO_EXECUTOR_ENGINE", "unix:///var/run/docker.sock");
    ends_once(&mut site, &ada, &starts, "p/x:1");
}

#[test]
fn while_being_pulled() {
    let mut site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    let starts = Starts::listen(&site);
    // Large enough for the pull to take a moment, and nothing that compresses.
    let mut ballast = vec![0; 64 << 20];
    File::open("/dev/urandom").expect("open").read_exact(&mut ballast).expect("read");
    let name = ada.build_with("run/p/x:1", "echo done > /output/done", "", &ballast);
    ada.ok(&["push", "--quiet", &name]);
    // The engine must fetch what it pushed.
    ada.ok(&["image", "rm", &name]);
    wait_for_state(&site, 1, &["pulling", "starting", "running"]);
    site.kill();
    ends_once(&mut site, &ada, &starts, "p/x:1");
}

#[test]
fn while_running() {
    let mut site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    let starts = Starts::listen(&site);
    ada.run("p/x:1", "sleep 4; echo done > /output/done");
    wait_for_state(&site, 1, &["running"]);
    site.kill();
    ends_once(&mut site, &ada, &starts, "p/x:1");
}

#[test]
fn while_it_ends_unseen() {
    let mut site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    let starts = Starts::listen(&site);
    ada.run("p/x:1", "sleep 2; echo done > /output/done");
    wait_for_state(&site, 1, &["running"]);
    site.kill();
    let instance = site.instance().expect("instance");
    wait_until("the container has ended", || {
        let filter = format!("label=org.torno.instance={instance}");
        let listed = ada.ok(&["ps", "--quiet", "--filter", "status=running", "--filter", &filter]);
        listed.trim().is_empty().then_some(())
    });
    ends_once(&mut site, &ada, &starts, "p/x:1");
}

#[test]
fn while_being_collected() {
    let mut site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    let starts = Starts::listen(&site);
    // Large enough for the collection to take a moment.
    ada.run("p/x:1", "dd if=/dev/urandom of=/output/large bs=1M count=48; echo done > /output/done");
    wait_for_state(&site, 1, &["collecting", "succeeded"]);
    site.kill();
    ends_once(&mut site, &ada, &starts, "p/x:1");
}

#[test]
fn at_a_stop_in_good_order_too() {
    let mut site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    let starts = Starts::listen(&site);
    ada.run("p/x:1", "sleep 4; echo done > /output/done");
    wait_for_state(&site, 1, &["running"]);
    site.stop();
    ends_once(&mut site, &ada, &starts, "p/x:1");
}

#[test]
fn over_and_over() {
    let mut site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    let starts = Starts::listen(&site);
    let runs = 3;
    for run in 1..=runs {
        ada.run(&format!("p/x:{run}"), "sleep 1; echo done > /output/done");
    }
    for round in 0..6_u32 {
        // At no particular moment: what the state is after so many looks at it.
        for _ in 0..=round * 3 {
            state(&site, 1);
        }
        site.kill();
        site.start();
    }
    for run in 1..=runs {
        assert_eq!(site.wait_for_run(run), "succeeded");
        assert_eq!(starts.of(&site, run), 1, "run {run} is started once");
    }
}

#[test]
fn a_container_that_is_removed_by_hand_ends_the_last_attempt_at_its_run() {
    let mut site = Site::new(PROJECT).with("TORNO_EXECUTOR_ATTEMPTS", "1");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    ada.run("p/x:1", "sleep 50");
    wait_for_state(&site, 1, &["running"]);
    let filter = format!("label=org.torno.instance={}", site.instance().expect("instance"));
    let id = ada.ok(&["ps", "--quiet", "--filter", &filter]);
    ada.ok(&["rm", "--force", id.trim()]);
    assert_eq!(site.wait_for_run(1), "its container was removed at the site; tell its admin");
}
