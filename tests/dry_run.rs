//! What is printed for trying at home, against what a try at the site finds.

use std::{collections::BTreeMap, fs, process::Command};

use torno_tests::{Docker, Site, wait_until};

const PROJECT: &str = "
[datasets.numbers]
path = 'confidential'
sample = 'given'
[projects.one]
researchers = ['ada']
custodians = ['cora']
datasets = ['numbers']
mount = '/opt/ml/model'
environment = { WILD = \"it's $HOME `x` \\\"y\\\"\" }
limits = { memory = '96MiB', pids = 50, cpus = 0.5, tmp = '8MiB', time = '1m' }
[projects.two]
researchers = ['eve']
";

fn site() -> Site {
    let mut site = Site::new(PROJECT);
    for folder in ["confidential", "given"] {
        site.write_data(folder, folder);
    }
    site.add_users(&["admin", "ada", "cora", "eve"]);
    site.start();
    site
}

/// Looks around. Of mounts, what stands where and how; not from which disk.
const LOOK: &str = r#"
    cd /; exec > /output/report
    echo "uid: $(id -u) $(id -g) $(id -G)"; echo "pwd: $(pwd)"; echo "host: $(hostname)"
    env | sort | sed 's/^/env: /'
    for what in CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp; do echo "status: $(grep "^$what:" /proc/self/status)"; done
    for limit in n u c; do echo "ulimit -$limit: $(ulimit -$limit)"; done
    for file in memory.max memory.swap.max pids.max cpu.max; do echo "$file: $(cat /sys/fs/cgroup/$file)"; done
    echo "net: $(ls /sys/class/net)"
    awk '{split($6, o, ","); print "mount: " $5 " " o[1]}' /proc/self/mountinfo | grep -v " /proc/\| /sys/\| /dev/pts" | sort
    df -k /tmp /dev/shm | awk 'NR > 1 {print "size: " $6 " " $2}'
    echo "data: $(cat $TORNO_INPUT/data.txt)"; echo x > $TORNO_INPUT/x || echo "data: read-only"
    echo x > /x || echo "root: read-only"; echo x > /tmp/x && echo "tmp: writable"; echo "init: $(cat /proc/1/comm)"
"#;

fn report(path: &std::path::Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).expect("report");
    text.lines().map(|line| (line.to_owned(), String::new())).collect()
}

#[test]
fn the_printed_line_gives_what_a_try_gives() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let image = ada.build("try/one/look:1", LOOK, "ENV KEPT=yes\nUSER 0");
    ada.ok(&["push", "--quiet", &image]);
    let files = tempfile::tempdir().expect("folder");
    ada.files(&ada.pull_result_of("try-results/one/look:1"), files.path());
    let at_site = report(&files.path().join("output/report"));

    wait_until("the sample is published", || {
        (site.http("ada").get("/v2/samples/numbers/manifests/latest").status == 200).then_some(())
    });
    ada.remember(&ada.name("samples/numbers"));
    let script = site.http("ada").get("/api/projects/one/dry-run");
    script.expect(200).expect_header("content-type", "text/plain; charset=utf-8");
    let script = String::from_utf8(script.body).expect("UTF-8");
    let name = format!("IMAGE={}", ada.name("run/one/NAME:TAG"));
    assert!(script.contains(&name), "{script}");
    let script = script.replace(&name, &format!("IMAGE={image}"));
    let home = tempfile::tempdir().expect("folder");
    let config = ada.auth_file();
    let config = std::path::Path::new(&config).parent().expect("folder").to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &script]).current_dir(home.path()).env("DOCKER_CONFIG", config);
    let ran = shell.output().expect("sh");
    assert!(ran.status.success(), "{script}\n{}", String::from_utf8_lossy(&ran.stderr));
    let container = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    let at_home = report(&home.path().join("output/report"));
    assert!(at_home.len() > 20, "{at_home:#?}");
    assert!(at_home.contains_key("data: given") && at_home.contains_key("data: read-only"), "{at_home:#?}");
    assert_eq!(at_home, at_site, "{script}\n{container}");
    for id in ada
        .ok(&["ps", "--all", "--quiet", "--filter", &format!("ancestor={}", ada.name("samples/numbers"))])
        .lines()
    {
        ada.ok(&["rm", id]);
    }

    // The same from the command, which does not know the port that was given out.
    let shown = site.torno_ok(&["projects", "show", "one"]);
    let line =
        |text: &str| text.lines().find(|line| line.starts_with("docker run ")).expect("the line").to_owned();
    assert_eq!(line(&shown), line(&script));
    assert!(site.torno_ok(&["projects", "list"]).contains("numbers (with a sample)"));
    assert!(!site.torno(&["projects", "show", "three"]).status.success());
}

#[test]
fn a_project_is_shown_to_those_who_belong_to_it() {
    let site = site();
    let path = "/api/projects/one/dry-run";
    for who in ["ada", "cora"] {
        let json = site.http(who).send("GET", path, &[("accept", "application/json")], b"");
        assert!(json.expect(200).json()["command"].as_str().expect("a command").starts_with("docker run"));
    }
    for who in ["eve", "admin"] {
        let forbidden = site.http(who).get(path).expect_error(404, "NAME_UNKNOWN");
        let unknown = site.http(who).get("/api/projects/three/dry-run").expect_error(404, "NAME_UNKNOWN");
        assert_eq!(forbidden.replace("one", "three"), unknown);
    }
    site.anonymous().get(path).expect(401);
    site.http("ada").post(path).expect_error(405, "UNSUPPORTED");
    site.http("ada").get("/api/projects/one/other").expect_error(404, "NAME_UNKNOWN");
}
