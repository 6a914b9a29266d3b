//! What a run finds when it looks around, from inside a real container.

use std::{collections::BTreeMap, fs};

use torno_tests::{Docker, Site};

const PROJECT: &str = "
[datasets.data]
path = 'data'
[projects.p]
researchers = ['ada']
datasets = ['data']
limits = { memory = '128MiB', pids = 64, time = '1m', output = '8MiB' }
";

fn site() -> Site {
    let mut site = Site::new(PROJECT);
    fs::create_dir(site.path("data")).expect("folder");
    fs::write(site.path("data/secret"), "secret\n").expect("data");
    site.add_users(&["ada"]);
    site.start();
    site
}

/// Runs a script and gives the files it left in `/output`.
fn output_of(site: &Site, docker: &Docker, image: &str, script: &str, lines: &str) -> tempfile::TempDir {
    let name = docker.build(&format!("run/p/{image}"), script, lines);
    docker.ok(&["push", "--quiet", &name]);
    let result = docker.pull_result(&format!("p/{image}"));
    let folder = tempfile::tempdir().expect("folder");
    docker.files(&result, folder.path());
    assert!(site.torno_ok(&["runs", "list"]).contains("succeeded"));
    folder
}

/// Each line `what: found`, told by a script with `tell what command…`.
const TELL: &str = "
tell() { what=$1; shift; if out=$(\"$@\" 2>&1); then s=ok; else s=failed; fi; echo \"$what: $s $out\" | tr '\\n' ' '; echo; }
exec > /output/report
";

fn report(folder: &tempfile::TempDir) -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder.path().join("output/report")).expect("report");
    let pair =
        |line: &str| line.split_once(": ").map(|(what, found)| (what.to_owned(), found.trim().to_owned()));
    text.lines().filter_map(pair).collect()
}

#[test]
fn what_a_run_sees_and_may_do() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let gateway = site.host();
    let port = gateway.rsplit(':').next().expect("port");
    let script = format!(
        "{TELL}
        tell interfaces ls /sys/class/net
        tell routes cat /proc/net/route
        tell dns nslookup example.org
        tell registry nc -w 2 127.0.0.1 {port}
        tell bridge nc -w 2 172.17.0.1 {port}
        tell socket ls /var/run/docker.sock
        tell read cat /input/secret
        tell write-input sh -c 'echo x > /input/x'
        tell change-input sh -c 'echo x >> /input/secret'
        tell remount mount -o remount,rw /input
        tell write-root sh -c 'echo x > /x'
        tell write-proc sh -c 'echo x > /proc/sys/kernel/hostname'
        tell write-tmp sh -c 'echo x > /tmp/x'
        tell write-hosts sh -c 'echo x > /etc/hosts'
        tell mknod mknod /tmp/disk b 8 0
        tell chown chown 0:0 /tmp
        tell uid id -u
        tell gid id -g
        tell caps sh -c \"grep Cap /proc/self/status | awk '{{print \\$2}}' | sort -u\"
        tell nonewprivs sh -c \"grep NoNewPrivs /proc/self/status | awk '{{print \\$2}}'\"
        tell seccomp sh -c \"grep Seccomp: /proc/self/status | awk '{{print \\$2}}'\"
        tell nofile sh -c 'ulimit -n'
        tell core sh -c 'ulimit -c'
        tell nproc awk '/Max processes/ {{print $3, $4}}' /proc/self/limits
        tell oom cat /proc/self/oom_score_adj
        tell cgroups sh -c \"cut -d: -f3 /proc/self/cgroup | sort -u\"
        tell userns unshare -U true
        tell keys cat /proc/keys
        tell timers cat /proc/timer_list
        tell firmware sh -c 'ls /sys/firmware | wc -l'
        tell workdir pwd
        tell init sh -c 'test $$ -ne 1'
        tell others sh -c 'ls /proc | grep -c \"^[0-9]\"'
        tell ld sh -c 'env | grep ^LD_'
        tell nvidia sh -c 'env | grep ^NVIDIA_'
        tell kept sh -c 'echo $KEPT'
        tell project sh -c 'echo $TORNO_PROJECT'
        tell home sh -c 'echo $HOME'
        tell volume sh -c 'echo x > /var/data/x && mount | grep \" /var/data \"'
        "
    );
    let lines = "ENV LD_PRELOAD=/evil.so LD_LIBRARY_PATH=/evil NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all KEPT=yes \
        TORNO_PROJECT=forged HOME=/root\nVOLUME /var/data\nUSER 0\nWORKDIR /opt/app\nHEALTHCHECK CMD /bin/busybox true";
    let folder = output_of(&site, &ada, "look:1", &script, lines);
    let found = report(&folder);
    let is = |what: &str| found.get(what).unwrap_or_else(|| panic!("no `{what}` in {found:#?}")).as_str();

    assert_eq!(is("interfaces"), "ok lo");
    assert!(!is("routes").contains("00000000"), "no default route: {}", is("routes"));
    for refused in ["dns", "registry", "bridge", "socket"] {
        assert!(is(refused).starts_with("failed"), "{refused}: {}", is(refused));
    }
    assert_eq!(is("read"), "ok secret");
    for refused in [
        "write-input",
        "change-input",
        "remount",
        "write-root",
        "write-proc",
        "write-hosts",
        "mknod",
        "chown",
    ] {
        assert!(is(refused).starts_with("failed"), "{refused}: {}", is(refused));
    }
    assert_eq!(is("write-tmp"), "ok");
    assert_eq!(is("uid"), "ok 65532");
    assert_eq!(is("gid"), "ok 65532");
    assert_eq!(is("caps"), "ok 0000000000000000", "no capability in any set");
    assert_eq!(is("nonewprivs"), "ok 1");
    assert_eq!(is("seccomp"), "ok 2", "a filter is on");
    assert_eq!(is("nofile"), "ok 4096");
    assert_eq!(is("core"), "ok 0");
    assert_eq!(is("nproc"), "ok 32768 32768");
    assert_eq!(is("oom"), "ok 1000");
    assert_eq!(is("cgroups"), "ok /", "nothing is seen of where it stands among the host's control groups");
    assert!(is("userns").starts_with("failed"), "no user namespace: {}", is("userns"));
    // A file is hidden by an empty one, a folder by an empty folder.
    for masked in ["keys", "timers"] {
        assert!(
            ["ok", "failed"].contains(&is(masked)) || is(masked).contains("No such"),
            "{masked}: {}",
            is(masked)
        );
    }
    assert!(is("firmware").ends_with('0'), "{}", is("firmware"));
    assert_eq!(is("workdir"), "ok /opt/app");
    assert_eq!(is("init"), "ok", "process 1 is the init");
    assert_eq!(is("ld"), "failed");
    assert_eq!(is("nvidia"), "ok NVIDIA_VISIBLE_DEVICES=void", "no GPU, and nothing of the image's");
    assert_eq!(is("kept"), "ok yes");
    assert_eq!(is("project"), "ok p", "the image cannot forge TORNO_*");
    assert_eq!(is("home"), "ok /tmp");
    assert!(is("volume").contains("tmpfs"), "an image's volume is in memory: {}", is("volume"));
    assert_eq!(fs::read_to_string(site.path("data/secret")).expect("data"), "secret\n");
}

/// Every file and folder below a path.
fn walk(path: &std::path::Path, names: &mut Vec<String>, root: &std::path::Path) {
    for entry in fs::read_dir(path).expect("folder") {
        let path = entry.expect("entry").path();
        let kind = path.symlink_metadata().expect("file").file_type();
        assert!(kind.is_file() || kind.is_dir(), "{} is neither file nor folder", path.display());
        names.push(path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned());
        if kind.is_dir() {
            walk(&path, names, root);
        }
    }
}

#[test]
fn only_plain_files_come_out() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    fs::write(site.path("outside"), "outside\n").expect("write");
    let script = "cd /output
        echo good > good; mkdir -p folder/deeper; echo deep > folder/deeper/file
        ln -s /etc/passwd symlink; ln -s ../../../../../../../../etc folder/up; ln -s /input/secret data
        echo one > hard1; ln hard1 hard2
        mkfifo fifo
        cp /bin/busybox setuid; chmod 4755 setuid; cp /bin/busybox setgid; chmod 2755 setgid
        echo w > .wh.good; mkdir opaque; echo w > opaque/.wh..wh..opq
        echo n > \"$(printf 'new\\nline')\"
        echo b > \"$(printf 'bad\\377name')\"
        chmod 000 good; chmod 777 folder";
    let folder = output_of(&site, &ada, "files:1", script, "");
    let mut names = Vec::new();
    let output = folder.path().join("output");
    walk(&output, &mut names, &output);
    names.sort();
    let hard = if names.contains(&"hard1".to_owned()) { "hard1" } else { "hard2" };
    let mut expected = vec!["folder", "folder/deeper", "folder/deeper/file", "good", hard, "opaque"];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(fs::read_to_string(output.join("good")).expect("good"), "good\n");

    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("run/run.json")).expect("run.json"))
            .expect("JSON");
    let text = report.to_string();
    for left_out in ["symlink", "fifo", "setuid", "setgid", ".wh.good"] {
        assert!(text.contains(left_out), "{left_out} is listed as left out: {text}");
    }
}
