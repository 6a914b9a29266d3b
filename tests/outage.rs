//! What the site does to runs: engines that hang, die and come back, containers that are removed by hand, a full disk. Each
//! run begins anew or ends by a name of its own, and nobody else's things are touched.

use std::{fs, path::PathBuf};

use torno_tests::{Disk, Docker, Engine, Image, Site, layer, wait_until};

const PROJECT: &str = "
[datasets.d]
path = 'd'
[projects.p]
researchers = ['ada']
datasets = ['d']
limits = { time = '5m', output = '64MiB', memory = '64MiB' }
[projects.brief]
researchers = ['ada']
datasets = ['d']
limits = { time = '15s', memory = '64MiB' }
";

/// A site with an engine of its own, whose runs wait for a file of theirs.
struct Hospital {
    site: Site,
    ada: Docker,
    engine: Engine,
}

impl Hospital {
    fn open() -> Self {
        let engine = Engine::start();
        let mut site = Site::new(PROJECT)
            .with("TORNO_EXECUTOR_ENGINE", &engine.socket())
            .with("TORNO_EXECUTOR_CONCURRENT_RUNS", "8")
            .with("TORNO_EXECUTOR_RECONCILE", "1s")
            .with("TORNO_EXECUTOR_ATTEMPTS", "2")
            .with("TORNO_EXECUTOR_PATIENCE", "10s")
            .with("TORNO_RESULTS_WAIT", "0s");
        site.write_data("d", "first");
        site.add_users(&["ada"]);
        site.start();
        let ada = Docker::login_at(&engine.socket(), &site, "ada");
        Self { site, ada, engine }
    }

    /// Pushes a run that goes on until it is let go, and leaves what it saw last; and, if it is not let go yet, a file `early`.
    fn run(&self, name: &str) {
        self.run_in("p", name);
    }

    fn run_in(&self, project: &str, name: &str) {
        let script = format!(
            "[ -e /input/{name} ] || echo early > /output/early\n\
             while [ ! -e /input/{name} ]; do sleep 0.1; done; cat /input/data.txt > /output/seen"
        );
        self.ada.run(&format!("{project}/{name}:1"), &script);
    }

    fn let_go(&self, name: &str) {
        fs::write(self.site.path("d").join(name), "").expect("write");
    }

    fn shown(&self, run: u64) -> String {
        self.site.torno_ok(&["runs", "show", &run.to_string()])
    }

    fn attempts(&self, run: u64) -> u64 {
        let shown = self.shown(run);
        let line = shown.lines().find(|line| line.starts_with("attempts")).expect("a line");
        line.trim_start_matches("attempts").trim().parse().expect("a number")
    }

    /// Waits until an attempt at a run has begun.
    fn wait_for(&self, run: u64, attempt: u64) {
        wait_until(&format!("run {run} is tried for the {attempt}th time"), || {
            (self.attempts(run) == attempt && self.shown(run).contains("state        running")).then_some(())
        });
        wait_until("its program has begun", || {
            self.volume_folder(run).is_some_and(|folder| folder.join("early").exists()).then_some(())
        });
    }

    fn container(&self, run: u64) -> String {
        format!("torno-{}-run-{run}", self.site.instance().expect("an instance"))
    }

    fn volume_folder(&self, run: u64) -> Option<PathBuf> {
        let found =
            self.ada.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &self.container(run)]);
        found.status.success().then(|| String::from_utf8_lossy(&found.stdout).trim().into())
    }

    /// What a run that has succeeded left, by name.
    fn output(&self, name: &str) -> Vec<String> {
        let result = self.ada.pull_result(&format!("p/{name}:1"));
        let folder = tempfile::tempdir().expect("folder");
        self.ada.files(&result, folder.path());
        let listed = fs::read_dir(folder.path().join("output")).expect("output");
        let mut names: Vec<String> = listed
            .map(|entry| entry.expect("entry").file_name().to_str().expect("UTF-8").to_owned())
            .collect();
        names.sort();
        names
    }

    fn told(&self, name: &str) -> String {
        let answer = self.site.http("ada").get(&format!("/v2/results/p/{name}/manifests/1"));
        answer.expect_error(404, "MANIFEST_UNKNOWN")
    }

    /// Everything the engine holds of this site.
    fn held(&self) -> Vec<String> {
        let filter = format!("label=org.torno.instance={}", self.site.instance().expect("an instance"));
        let mut held = Vec::new();
        for kind in ["ps --all", "volume ls"] {
            let words: Vec<&str> = kind.split(' ').chain(["--quiet", "--filter", &filter]).collect();
            held.extend(self.ada.ok(&words).lines().map(str::to_owned));
        }
        held
    }

    fn close(mut self) {
        wait_until("nothing is left in the engine", || self.held().is_empty().then_some(()));
        self.site.stop();
    }
}

#[test]
fn what_is_done_by_hand_and_what_an_engine_does_ends_no_run_for_good() {
    let mut hospital = Hospital::open();
    for name in ["removed", "emptied", "killed", "lost"] {
        hospital.run(name);
    }
    for run in 1..=4 {
        hospital.wait_for(run, 1);
    }
    beside_runs_what_nobody_needs_goes(&hospital);

    // By hand: the container, what its volume holds, its processes.
    hospital.ada.ok(&["rm", "--force", &hospital.container(1)]);
    hospital.ada.ok(&["rm", "--force", &hospital.container(4)]);
    hospital.ada.ok(&["kill", &hospital.container(3)]);
    // Its program cannot write there any more, and fails.
    fs::remove_dir_all(hospital.volume_folder(2).expect("a volume")).expect("removed");
    hospital.let_go("emptied");
    wait_until("it waits to be tried again", || {
        hospital.told("removed").contains("is queued again after a failure").then_some(())
    });
    fs::write(hospital.site.path("d/data.txt"), "second").expect("write");
    hospital.let_go("removed");
    hospital.wait_for(4, 2);
    hospital.ada.ok(&["rm", "--force", &hospital.container(4)]);
    for (run, name) in [(1, "removed"), (2, "emptied")] {
        assert_eq!(hospital.site.wait_for_run(run), "succeeded");
        assert_eq!((hospital.attempts(run), hospital.output(name)), (2, vec!["seen".to_owned()]));
    }
    // Whoever did it knows why, and it is not done behind their back.
    assert_eq!(hospital.site.wait_for_run(3), "it was killed at the site; ask its admin why");
    assert_eq!(hospital.attempts(3), 1);
    let gone = "its container was removed at the site, and it was tried 2 times; tell its admin";
    assert_eq!(hospital.site.wait_for_run(4), gone);
    assert!(hospital.told("lost").contains(gone));

    // A program that does it to itself is its person's own failure.
    hospital.ada.run("p/itself:1", "kill -9 0; kill -9 $$");
    assert_eq!(hospital.site.wait_for_run(5), "exit status 137");
    assert_eq!(hospital.attempts(5), 1);

    // An engine that dies and comes back, and a server that does while what that has lost waits; a host that loses its power.
    hospital.run("restarted");
    hospital.wait_for(6, 1);
    hospital.engine.kill();
    hospital.engine.begin();
    wait_until("it waits to be tried again", || {
        hospital.told("restarted").contains("is queued again after a failure").then_some(())
    });
    hospital.site.kill();
    hospital.let_go("restarted");
    hospital.site.start();
    assert_eq!(hospital.site.wait_for_run(6), "succeeded");
    assert_eq!((hospital.attempts(6), hospital.output("restarted")), (2, vec!["seen".to_owned()]));
    hospital.run("rebooted");
    hospital.wait_for(7, 1);
    hospital.site.kill();
    hospital.engine.lose_power();
    hospital.let_go("rebooted");
    hospital.engine.begin();
    hospital.site.start();
    assert_eq!(hospital.site.wait_for_run(7), "succeeded");
    assert_eq!((hospital.attempts(7), hospital.output("rebooted")), (2, vec!["seen".to_owned()]));
    let lost = hospital.site.torno_ok(&["audit", "show", "--event", "run_lost"]);
    assert_eq!(lost.lines().filter(|line| line.contains("run_lost")).count(), 5, "{lost}");
    hospital.close();
}

/// While runs are under way, the engine holds things of others, and things of runs that nobody needs.
fn beside_runs_what_nobody_needs_goes(hospital: &Hospital) {
    let Hospital { site, ada, .. } = hospital;
    let mine = format!("org.torno.instance={}", site.instance().expect("an instance"));
    let volume = |name: &str, labels: &[&str]| {
        let labels = labels.iter().flat_map(|label| ["--label", label]);
        let words: Vec<&str> = ["volume", "create"].into_iter().chain(labels).chain([name]).collect();
        ada.ok(&words);
    };
    volume("unmarked", &[]);
    volume("of-another", &["org.torno.instance=0123456789abcdef", "org.torno.run=77"]);
    volume("of-a-live-run", &[&mine, "org.torno.run=1"]);
    volume("of-no-run", &[&mine, "org.torno.run=77"]);
    volume("illegible", &[&mine, "org.torno.run=x"]);
    let image = ada.name("run/p/removed:1");
    ada.ok(&["create", "--name=left", "--label", &mine, "--label=org.torno.run=78", &image]);
    ada.ok(&["create", "--name=unmarked", &image]);
    let held = || ada.ok(&["volume", "ls", "--quiet"]) + &ada.ok(&["ps", "--all", "--format={{.Names}}"]);
    wait_until("what nobody needs is gone", || {
        let held = held();
        ["of-no-run", "illegible", "left"]
            .iter()
            .all(|name| !held.lines().any(|line| line == *name))
            .then_some(())
    });
    let held = held();
    for name in ["unmarked", "of-another", "of-a-live-run", &hospital.container(1)] {
        assert!(held.lines().any(|line| line == name), "{name} in {held}");
    }
    assert_eq!(held.lines().filter(|line| *line == "unmarked").count(), 2, "the container and the volume");
    ada.ok(&["rm", "unmarked"]);
    ada.ok(&["volume", "rm", "unmarked", "of-another"]);
}

#[test]
fn an_engine_that_hangs_is_told_of_and_its_runs_go_on_after_it() {
    let mut hospital = Hospital::open();
    hospital.run("patient");
    hospital.run_in("brief", "overdue");
    hospital.wait_for(1, 1);
    hospital.wait_for(2, 1);
    hospital.engine.signal("STOP");
    hospital.let_go("patient");
    let told = || String::from_utf8_lossy(&hospital.site.torno(&["runs", "list"]).stderr).into_owned();
    wait_until("it is noticed", || told().contains("the engine has not answered since").then_some(()));
    // The server takes pushes and says what they wait for.
    Image::new(&layer("waits")).push(&hospital.site.http("ada"), "run/p/waits", "1").expect(201);
    let message = hospital.told("waits");
    assert!(message.contains("run 3 is queued, 1 run before it"), "{message}");
    assert!(message.contains("the site's container engine has not answered since"), "{message}");
    assert!(message.ends_with("runs go on when it does, tell its admin"), "{message}");
    assert!(hospital.told("patient").contains("has been running for"));
    // One whose time is up meanwhile cannot be stopped, and nobody will ever know how it went on.
    wait_until("it is given up", || hospital.shown(2).contains("state        queued").then_some(()));
    assert_eq!(hospital.attempts(2), 1);
    hospital.let_go("overdue");
    hospital.engine.signal("CONT");
    assert_eq!(hospital.site.wait_for_run(2), "succeeded");
    assert_eq!(hospital.attempts(2), 2);
    assert_eq!(hospital.site.wait_for_run(1), "succeeded");
    assert_eq!((hospital.attempts(1), hospital.output("patient")), (1, vec!["early".into(), "seen".into()]));
    assert_eq!(told(), "");
    hospital.site.wait_for_run(3);

    // A server that starts beside an engine that hangs serves, and stops when it is told to.
    hospital.site.stop();
    hospital.engine.signal("STOP");
    hospital.site.start();
    hospital.site.http("ada").get("/v2/").expect(200);
    hospital.site.stop();
    hospital.engine.signal("CONT");
    hospital.site.start();
    hospital.close();
}

/// While runs are made and end, somebody looks all the time for what nobody needs.
#[test]
fn what_a_run_has_just_made_is_not_taken_for_left_over() {
    const RUNS: u64 = 16;
    let mut site = Site::new(PROJECT)
        .with("TORNO_EXECUTOR_CONCURRENT_RUNS", "4")
        .with("TORNO_EXECUTOR_RECONCILE", "1s")
        .with("TORNO_EXECUTOR_ATTEMPTS", "1");
    site.write_data("d", "data");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    let image = ada.build("run/p/short:1", "cat /input/data.txt > /output/x", "");
    for tag in 1..=RUNS {
        let name = ada.name(&format!("run/p/short:{tag}"));
        ada.ok(&["tag", &image, &name]);
        ada.remember(&name);
        ada.ok(&["push", "--quiet", &name]);
    }
    for run in 1..=RUNS {
        assert_eq!(site.wait_for_run(run), "succeeded");
    }
    assert!(!site.log().contains("what nobody needs was removed"), "nothing was left over");
}

#[test]
fn what_finds_no_room_is_collected_again_and_not_run_again() {
    let Some(disk) = Disk::new(128) else { return };
    let data = disk.path().join("data");
    fs::create_dir(&data).expect("a folder");
    let mut site = Site::new(PROJECT)
        .with("TORNO_DATA", data.to_str().expect("UTF-8"))
        .with("TORNO_EXECUTOR_PATIENCE", "10s")
        .with("TORNO_RESULTS_WAIT", "0s");
    site.write_data("d", "data");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    let script = |name: &str, mebibytes: u32| {
        format!(
            "while [ ! -e /input/{name} ]; do sleep 0.1; done\n\
             dd if=/dev/urandom of=/output/big bs=1M count={mebibytes}"
        )
    };
    let runs = |run: &str| {
        wait_until("it runs", || site.torno_ok(&["runs", "show", run]).contains("running").then_some(()));
    };
    let let_go = |name: &str| fs::write(site.path("d").join(name), "").expect("write");
    // Full to the last byte, then no more: what it left is still there.
    ada.run("p/later:1", &script("later", 8));
    runs("1");
    disk.fill();
    let_go("later");
    wait_until("it finds no room", || {
        site.log().contains("there is no room for what a run left").then_some(())
    });
    disk.make_room();
    assert_eq!(site.wait_for_run(1), "succeeded");
    assert!(site.torno_ok(&["runs", "show", "1"]).contains("attempts     1"));

    // More than there will be, with room to say so.
    ada.run("p/never:1", &script("never", 60));
    fs::write(disk.path().join("ballast"), vec![0; 50 << 20]).expect("ballast");
    runs("2");
    let_go("never");
    let state = site.wait_for_run(2);
    assert!(state.contains("no room for what it left; tell its admin"), "{state}");
    assert!(site.torno_ok(&["runs", "show", "2"]).contains("attempts     1"));
    disk.make_room();
    drop(ada);
    site.stop();
}
