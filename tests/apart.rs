//! `torno serve` and `torno execute` as two processes under two users: who parses the network has neither the engine's
//! socket nor the data.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::{Child, Command, Stdio},
};

use torno_tests::{Docker, Site, wait_until};

const PROJECT: &str = "
[datasets.numbers]
path = 'secure/numbers'
[projects.p]
researchers = ['ada']
datasets = ['numbers']
limits = { memory = '128MiB', time = '2m' }
";

/// Two users of nobody's, and the group they share.
const SERVER: u32 = 64_201;
const EXECUTOR: u32 = 64_202;
const GROUP: u32 = 64_200;

/// Where the engine listens.
const SOCKET: &str = "/var/run/docker.sock";

struct Apart {
    site: Site,
    executor: Option<Child>,
}

/// Who starts a program, in what groups.
fn user(uid: u32, groups: &str) -> Vec<String> {
    let words =
        ["setpriv", &format!("--reuid={uid}"), &format!("--regid={GROUP}"), groups, "--inh-caps=-all"];
    words.map(str::to_owned).to_vec()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

impl Apart {
    fn new() -> Self {
        let site = Site::new(PROJECT).with("TORNO_EXECUTOR_WITHIN", "execute");
        let secure = site.path("secure");
        fs::create_dir_all(secure.join("numbers")).expect("folder");
        fs::write(secure.join("numbers/data.txt"), "1\n2\n3\n").expect("data");
        // Where the sources stand others may have no way to.
        let torno = site.path("torno");
        fs::copy(site.command(&[]).get_program(), &torno).expect("a copy of the binary");
        site.add_users(&["ada"]);
        mode(&site.path(""), 0o711);
        mode(&site.path("torno.toml"), 0o644);
        // A run is yet another user.
        mode(&secure.join("numbers"), 0o755);
        chown(&secure, Some(EXECUTOR), Some(0)).expect("chown");
        mode(&secure, 0o700);
        let data = site.path("registry-data");
        for entry in fs::read_dir(&data).expect("folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                fs::remove_dir_all(&entry).expect("removed");
            }
        }
        for path in [data.clone(), data.join("htpasswd")] {
            chown(&path, Some(SERVER), Some(GROUP)).expect("chown");
        }
        mode(&data, 0o2770);
        let mut wrapper = user(SERVER, "--clear-groups");
        let copy = format!("shift; exec {} \"$@\"", torno.display());
        wrapper.extend(["sh", "-c", &copy, "sh"].map(str::to_owned));
        let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        Self { site: site.behind(&words), executor: None }
    }

    /// Starts `torno execute` and waits until it carries out runs.
    fn execute(&mut self) {
        let group = fs::metadata(SOCKET).expect("the engine's socket").gid();
        let [program, words @ ..] = &user(EXECUTOR, &format!("--groups={group}"))[..] else { unreachable!() };
        let torno = self.site.command(&["execute"]);
        let path = self.site.path("execute.log");
        let log = File::create(&path).expect("log");
        let mut command = Command::new(program);
        command.args(words).arg(self.site.path("torno")).args(torno.get_args());
        for (name, value) in torno.get_envs() {
            command.env(name, value.expect("a value"));
        }
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("torno execute");
        self.executor = Some(child);
        wait_until("the executor has started", || self.executed("carrying out what is pushed").then_some(()));
    }

    fn executed(&self, line: &str) -> bool {
        fs::read_to_string(self.site.path("execute.log")).unwrap_or_default().contains(line)
    }

    /// Ends `torno execute`; whether in good order.
    fn end(&mut self, signal: &str) -> bool {
        let mut child = self.executor.take().expect("the executor runs");
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(sent.expect("kill").success());
        wait_until("the executor ends", || child.try_wait().expect("wait")).success()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.site.path("execute.log")).unwrap_or_default());
        }
        if let Some(mut child) = self.executor.take() {
            // Best effort, after the test.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a user in some groups may read a path.
fn reads(uid: u32, groups: &str, path: &Path) -> bool {
    let [program, words @ ..] = &user(uid, groups)[..] else { unreachable!() };
    let tried = Command::new(program).args(words).args(["test", "-r"]).arg(path).status();
    tried.expect("setpriv").success()
}

#[test]
fn the_server_has_neither_the_socket_nor_the_data() {
    let mut apart = Apart::new();
    apart.site.start();
    let data = apart.site.path("secure/numbers/data.txt");
    for path in [&data, Path::new(SOCKET)] {
        assert!(!reads(SERVER, "--clear-groups", path), "{}", path.display());
    }
    let status = fs::read_to_string(format!("/proc/{}/status", apart.site.pid())).expect("its status");
    for line in
        [format!("Uid:\t{SERVER}\t{SERVER}\t"), "CapEff:\t0000000000000000".into(), "Groups:\t \n".into()]
    {
        assert!(status.contains(&line), "{line} in {status}");
    }

    // What is pushed waits for the executor, which hears of it when it is there.
    let ada = Docker::login(&apart.site, "ada");
    ada.run("p/sum:1", "awk '{s += $1} END {print s}' /input/data.txt > /output/sum");
    apart.execute();
    assert_eq!(apart.site.wait_for_run(1), "succeeded");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&ada.pull_result("p/sum:1"), files.path());
    assert_eq!(fs::read_to_string(files.path().join("output/sum")).expect("the result"), "6\n");

    // A pull that waits is woken by the other process: long before it would have given up.
    let begun = std::time::Instant::now();
    ada.run("p/sum:2", "cp /input/data.txt /output");
    ada.pull_result("p/sum:2");
    assert!(begun.elapsed().as_secs() < 25, "the pull was not woken");

    // Each cleans up after the other.
    apart.site.http("ada").delete("/v2/run/p/sum/manifests/1");
    apart.site.torno_ok(&["gc", "--grace", "0s"]);
    apart.site.torno_ok(&["verify"]);
    assert!(apart.end("TERM"));
    apart.site.stop();
    let keys = apart.site.path("registry-data/keys/token");
    assert!(!reads(EXECUTOR, "--clear-groups", &keys), "whoever runs images signs no logins");
}

#[test]
fn each_starts_again_alone() {
    let mut apart = Apart::new();
    apart.site.start();
    apart.execute();
    let ada = Docker::login(&apart.site, "ada");
    ada.run(
        "p/long:1",
        "until [ -e /tmp/never ]; do sleep 0.1; [ $((i += 1)) -gt 30 ] && break; done; echo done > /output/x",
    );
    let running = || apart.site.torno_ok(&["runs", "show", "1"]).contains("running").then_some(());
    wait_until("the run runs", running);
    apart.site.stop();
    apart.site.start();
    assert!(!apart.end("KILL"));
    apart.execute();
    assert_eq!(apart.site.wait_for_run(1), "succeeded");
    ada.pull_result("p/long:1");
    // A second executor of the same data is refused in words.
    let second = apart.site.torno(&["execute"]);
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("another torno executes the runs"), "{words}");
    assert!(apart.end("TERM"));
    apart.site.stop();
}
