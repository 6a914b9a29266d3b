//! The services a run may reach: exactly those that its project allows, by their names, and what it shows there.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, sync::OnceLock};

use tempfile::TempDir;
use torno_tests::{Docker, Postgres, Site, libraries, tool, wait_until};

/// A site whose project `p` may reach a database with a secret.
fn site(postgres: &Postgres) -> Site {
    let port = postgres.port();
    let mut site = Site::new(&format!(
        "[projects.p]
        researchers = ['ada']
        allow = ['db.internal:5432 = 127.0.0.1:{port}', 'nobody.internal:5432 = 127.0.0.1:1']
        secrets = {{ db-password = {{ file = 'password' }} }}
        logs = 'always'
        limits = {{ memory = '128MiB', time = '5m' }}
        [projects.bare]
        researchers = ['ada']"
    ))
    .with("TORNO_EXECUTOR_CONCURRENT_RUNS", "2");
    secret(&site, Postgres::READER_PASSWORD, 0o600);
    site.add_users(&["ada"]);
    site.start();
    site
}

fn secret(site: &Site, text: &str, mode: u32) {
    fs::write(site.path("password"), text).expect("write");
    fs::set_permissions(site.path("password"), fs::Permissions::from_mode(mode)).expect("mode");
}

/// A folder with files for an image.
fn root(files: &[(&Path, &str)]) -> TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (from, to) in files {
        let to = root.path().join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("folder");
        fs::copy(from, to).expect("copy");
    }
    root
}

/// What `psql` needs, and a function `query` around it.
fn with_client() -> TempDir {
    let client = Postgres::client();
    let libraries = libraries(&client);
    let mut files = vec![(client.as_path(), "/bin/psql")];
    files.extend(libraries.iter().map(|path| (path.as_path(), path.to_str().expect("UTF-8"))));
    let root = root(&files);
    fs::create_dir_all(root.path().join("etc")).expect("etc");
    fs::write(root.path().join("etc/nsswitch.conf"), "hosts: files dns\n").expect("nsswitch.conf");
    root
}

const QUERY: &str = "
query() { PGPASSWORD=$(cat /run/secrets/db-password) psql -h db.internal -U reader -d postgres -Atc \"$1\"; }
";

fn push(docker: &Docker, root: &TempDir, image: &str, script: &str) {
    let name = docker.build_on(root, &format!("run/{image}"), script, "");
    docker.ok(&["push", "--quiet", &name]);
}

fn files(docker: &Docker, image: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    docker.files(&docker.pull_result(image), folder.path());
    folder
}

fn read(folder: &TempDir, file: &str) -> String {
    fs::read_to_string(folder.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The counts of a run and a service: connections, refused, sent, received.
fn counts(site: &Site, run: u64, service: &str) -> Vec<u64> {
    let shown = site.torno_ok(&["runs", "show", &run.to_string()]);
    let line = shown.lines().find(|line| line.starts_with("service") && line.contains(service));
    let (_, counts) = line.and_then(|line| line.split_once(&format!("{service}: "))).expect("a line");
    counts.split(' ').filter_map(|word| word.parse().ok()).collect()
}

/// A query that must succeed at once.
fn honest(docker: &Docker, root: &TempDir, tag: &str) {
    push(
        docker,
        root,
        &format!("p/honest:{tag}"),
        &format!("{QUERY}query 'SELECT count(*) FROM patients' > /output/n"),
    );
    assert_eq!(read(&files(docker, &format!("p/honest:{tag}")), "output/n"), "3\n");
}

/// What the engine holds with a label, by name.
fn containers(site: &Site) -> Vec<String> {
    let filter = format!("label=org.torno.instance={}", site.instance().expect("an instance"));
    let names = tool("docker", &["ps", "--all", "--format", "{{.Names}}", "--filter", &filter]);
    names.lines().map(str::to_owned).collect()
}

#[test]
fn a_run_reads_a_database_by_its_name_with_a_secret() {
    let postgres = Postgres::start();
    let site = site(&postgres);
    let ada = Docker::login(&site, "ada");
    let client = with_client();
    let script = format!(
        "{QUERY}
        query 'SELECT id, name FROM patients ORDER BY id' > /output/rows || exit 9
        query \"INSERT INTO patients VALUES (4, 'four')\" 2> /output/refused && exit 8
        query 'SELECT repeat(chr(97), 100000)' | wc -c > /output/long
        psql -h nobody.internal -U reader -d postgres -c 'SELECT 1' 2> /output/nobody && exit 7
        psql -h other.internal -U reader -d postgres -c 'SELECT 1' 2> /output/other && exit 6
        echo changed > /run/secrets/db-password && exit 5
        ls -ln /run/secrets > /output/secrets; mount | grep secrets > /output/mount; env > /output/env"
    );
    push(&ada, &client, "p/query:1", &script);
    let folder = files(&ada, "p/query:1");
    assert_eq!(read(&folder, "output/rows"), "1|one\n2|two\n3|three\n");
    assert!(read(&folder, "output/refused").contains("permission denied"));
    assert_eq!(read(&folder, "output/long").trim(), "100001");
    assert!(read(&folder, "output/nobody").contains("server closed the connection unexpectedly"));
    assert!(read(&folder, "output/other").contains("could not translate host name"));
    assert!(read(&folder, "output/mount").contains("tmpfs"), "{}", read(&folder, "output/mount"));
    assert!(read(&folder, "output/secrets").contains("-r--r--r--"), "{}", read(&folder, "output/secrets"));
    assert_eq!(postgres.sql("SELECT count(*) FROM patients"), "3");

    let [connections, refused, sent, received] = counts(&site, 1, "db.internal:5432")[..] else {
        panic!("four counts")
    };
    assert_eq!((connections, refused), (3, 0));
    assert!(sent > 200 && received > 100_000, "{sent} {received}");
    let [connections, refused, ..] = counts(&site, 1, "nobody.internal:5432")[..] else { panic!("counts") };
    assert!(connections == 0 && refused > 0, "{connections} {refused}");
    let report: serde_json::Value = serde_json::from_str(&read(&folder, "run/run.json")).expect("JSON");
    let service = report["services"].as_array().expect("a list").iter();
    let service = service.into_iter().find(|service| service["service"] == "db.internal:5432").expect("it");
    // A run chooses how much it exchanges: a result says so only roughly.
    assert_eq!((&service["connections"], &service["refusedConnections"]), (&4.into(), &0.into()));
    assert_eq!(service["bytesReceived"], received.next_power_of_two());
    assert_eq!(report["plan"]["network"], "services");
    // The record says it exactly.
    let line = site.torno_ok(&["audit", "show", "--json", "--event", "run_exchanged", "--project", "p"]);
    let line: serde_json::Value = serde_json::from_str(&line).expect("one line");
    let told = line["services"].as_array().expect("services").iter();
    let told = told.into_iter().find(|service| service["service"] == "db.internal:5432").expect("it");
    assert_eq!((&told["connections"], &told["received"]), (&3.into(), &received.into()));

    // What it was given is nowhere but in the run.
    let password = Postgres::READER_PASSWORD;
    for file in ["output/env", "run/run.json", "run/ro-crate-metadata.json", "run/stderr.log"] {
        assert!(!read(&folder, file).contains(password), "{file}");
    }
    assert!(!site.log().contains(password));
    for file in ["torno.db", "torno.db-wal"] {
        let bytes = fs::read(site.path(&format!("registry-data/{file}"))).expect("database");
        assert!(!bytes.windows(password.len()).any(|bytes| bytes == password.as_bytes()), "{file}");
    }
    // The cause is in the site's log.
    assert!(site.log().contains("a service cannot be reached for a run"));

    // A project that allows nothing reaches nothing, and is given nothing.
    push(
        &ada,
        &client,
        "bare/query:1",
        "ls /run/secrets > /output/secrets 2>&1
        psql -h db.internal -U reader -d postgres -c 'SELECT 1' > /output/query 2>&1; true",
    );
    let folder = files(&ada, "bare/query:1");
    assert!(read(&folder, "output/query").contains("could not translate host name"));
    assert!(read(&folder, "output/secrets").contains("No such file"));

    // A secret that others can read is given to nobody. It is looked at anew for each run.
    secret(&site, password, 0o644);
    push(&ada, &client, "p/open:1", "true");
    assert_eq!(site.wait_for_run(3), "something failed at this site; tell its admin the run's number");
    assert!(site.log().contains("chmod 0640"), "{}", site.log());
    secret(&site, password, 0o600);
    honest(&ada, &client, "1");
    assert!(!site.log().contains(password));

    // What a project reaches is told to whoever tries at home, and to the admin where that is too.
    let told = site.torno_ok(&["projects", "show", "p"]);
    let at = format!("db.internal:5432 (at 127.0.0.1:{})", postgres.port());
    assert!(told.lines().any(|line| line.starts_with("reaches ") && line.contains(&at)), "{told}");
    assert!(
        told.lines().any(|line| line.starts_with("secrets ") && line.ends_with(" /run/secrets/db-password"))
    );
    let script = String::from_utf8(site.http("ada").get("/api/projects/p/dry-run").body).expect("UTF-8");
    assert!(script.contains("# a run reaches db.internal:5432, nobody.internal:5432;"), "{script}");
    assert!(!script.contains(&postgres.port().to_string()), "{script}");
}

/// A hostile program, built once.
fn intruder() -> &'static Path {
    static BUILT: OnceLock<TempDir> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/relay/intruder.rs");
        let to = folder.path().join("intruder");
        let options = ["--edition=2024", "-Copt-level=1", "-Ctarget-feature=+crt-static", source, "-o"];
        let built = Command::new("rustc").args(options).arg(to).output().expect("rustc");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        folder
    });
    Box::leak(folder.path().join("intruder").into_boxed_path())
}

#[test]
fn a_hostile_image_reaches_nothing_else_and_leaves_nothing_worse() {
    let postgres = Postgres::start();
    let site = site(&postgres);
    let ada = Docker::login(&site, "ada");
    let hostile = root(&[(intruder(), "/bin/intruder")]);
    // Where the registry, the database and whatever else there is on this machine can be found.
    let host = tool("hostname", &["-I"]);
    let addresses = host.split_whitespace().count();
    assert!(addresses > 0, "this machine has an address");
    let script = format!(
        "/bin/intruder 127.0.1.1:5432 {host} > /output/told 2>&1; echo status $? >> /output/told
        nslookup example.org > /output/dns 2>&1 && echo resolved >> /output/told
        cat /etc/hosts > /output/hosts; echo 127.0.0.1 db.internal >> /etc/hosts && echo redirected >> /output/told
        ls -d /proc/[0-9]* | wc -l > /output/processes",
        host = host.trim()
    );
    push(&ada, &hostile, "p/hostile:1", &script);
    let folder = files(&ada, "p/hostile:1");
    let told = read(&folder, "output/told");
    // The other name has an address of its own, at which somebody listens; nobody is behind it.
    let reached: Vec<_> = told.lines().filter(|line| line.starts_with("reached")).collect();
    assert_eq!(reached, ["reached 127.0.1.2:5432"], "{told}");
    assert!(told.contains("the service answers at 127.0.1.1:5432"), "{told}");
    assert!(!told.contains("resolved") && !told.contains("redirected"), "{told}");
    assert!(told.contains(&format!("tried {}\n", addresses * 65_535)), "{told}");
    assert!(told.contains("done\nstatus 0"), "{told}");
    let held = told.lines().find_map(|line| line.strip_prefix("held ")).expect("a count");
    let held: u64 = held.parse().expect("a number");
    assert_eq!(held, 64, "{told}");
    assert!(read(&folder, "output/hosts").contains("127.0.1.1\tdb.internal"));
    // Its own, and none of the relay's.
    assert!(read(&folder, "output/processes").trim().parse::<u64>().expect("a number") < 8);
    let [connections, ..] = counts(&site, 1, "db.internal:5432")[..] else { panic!("counts") };
    assert!(connections >= held, "{connections} {held}");
    honest(&ada, &with_client(), "1");
    // Nothing stays of either.
    wait_until("every connection has ended", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader' OR usename IS NULL AND client_port > 0";
        (postgres.sql(sql) == "0").then_some(())
    });
}

/// Begins a run that says `name` to the database, asks until the gate is open, and counts then.
fn waiting(ada: &Docker, client: &TempDir, postgres: &Postgres, name: &str) {
    let script = format!(
        "{QUERY}
        query \"INSERT INTO marks VALUES ('{name}')\" > /dev/null || exit 9
        until [ \"$(query 'SELECT n FROM gate')\" = 1 ]; do sleep 0.2; done
        query 'SELECT count(*) FROM patients' > /output/n
        readlink /proc/self/ns/net > /output/network"
    );
    push(ada, client, &format!("p/{name}:1"), &script);
    wait_until("the run has begun", || {
        (postgres.sql(&format!("SELECT count(*) FROM marks WHERE name = '{name}'")) == "1").then_some(())
    });
}

/// A database with a gate that is shut.
fn gated() -> Postgres {
    let postgres = Postgres::start();
    postgres.sql("CREATE TABLE gate AS SELECT 0 AS n");
    postgres.sql("CREATE TABLE marks (name text)");
    postgres.sql("GRANT SELECT ON gate TO reader");
    postgres.sql("GRANT INSERT ON marks TO reader");
    postgres
}

#[test]
fn two_runs_side_by_side_share_nothing() {
    let postgres = gated();
    let site = site(&postgres);
    let ada = Docker::login(&site, "ada");
    let client = with_client();
    waiting(&ada, &client, &postgres, "left");
    waiting(&ada, &client, &postgres, "right");
    let (relays, runs): (Vec<_>, Vec<_>) =
        containers(&site).into_iter().partition(|name| name.ends_with("-relay"));
    assert_eq!((relays.len(), runs.len()), (2, 2));
    for name in relays.iter().chain(&runs) {
        let told = tool("docker", &["inspect", name]);
        assert!(!told.contains(Postgres::READER_PASSWORD), "{told}");
    }
    // Only this user finds what is in memory, and each run's relay only what is its own.
    let memory = Path::new("/dev/shm").join(format!("torno-{}", site.instance().expect("an instance")));
    assert_eq!(fs::metadata(&memory).expect("a folder").permissions().mode() & 0o777, 0o700);
    for name in &relays {
        let mounted =
            tool("docker", &["inspect", "--format", "{{range .Mounts}}{{.Source}} {{.RW}}\n{{end}}", name]);
        let run = name.trim_end_matches("-relay").rsplit_once("run-").expect("a run").1;
        assert_eq!(mounted.trim(), format!("{} false", memory.join(format!("run-{run}/relay")).display()));
    }
    postgres.sql("UPDATE gate SET n = 1");
    let (left, right) = (files(&ada, "p/left:1"), files(&ada, "p/right:1"));
    assert_eq!([read(&left, "output/n"), read(&right, "output/n")], ["3\n", "3\n"]);
    assert_ne!(read(&left, "output/network"), read(&right, "output/network"));
}

#[test]
fn a_run_goes_on_asking_after_torno_was_started_again() {
    let postgres = gated();
    let mut site = site(&postgres);
    let ada = Docker::login(&site, "ada");
    let client = with_client();
    waiting(&ada, &client, &postgres, "long");
    site.kill();
    site.start();
    postgres.sql("UPDATE gate SET n = 1");
    assert_eq!(read(&files(&ada, "p/long:1"), "output/n"), "3\n");
    assert!(counts(&site, 1, "db.internal:5432")[0] >= 2);
}

#[test]
fn a_run_that_has_lost_its_relay_begins_anew() {
    let postgres = gated();
    let site = site(&postgres);
    let ada = Docker::login(&site, "ada");
    let client = with_client();
    waiting(&ada, &client, &postgres, "cut");
    let relay = containers(&site).into_iter().find(|name| name.ends_with("-relay")).expect("a relay");
    tool("docker", &["kill", &relay]);
    postgres.sql("UPDATE gate SET n = 1");
    assert_eq!(site.wait_for_run(1), "succeeded");
    assert!(site.torno_ok(&["runs", "show", "1"]).contains("attempts     2"));
    honest(&ada, &client, "1");
}
