//! Starting, reloading, stopping.

use std::{fs, net::TcpStream, process::Command};

use torno_tests::{Image, NO_ENGINE, PROJECTS, Site, layer, sha256, wait_until};

const MIB: usize = 1024 * 1024;

/// Writes a project with these researchers beside the configuration.
fn write_project(site: &Site, researchers: &str) {
    fs::create_dir_all(site.path("projects.d")).expect("a folder");
    let text = format!("[projects.heart]\nresearchers = {researchers}\n");
    fs::write(site.path("projects.d/heart.toml"), text).expect("write");
}

/// Waits until the log, from `from` on, holds some words.
fn wait_for_log(site: &Site, from: usize, words: &str) -> String {
    wait_until(words, || {
        let log = site.log();
        let new = log.get(from..)?;
        new.lines().find(|line| line.contains(words)).map(str::to_owned)
    })
}

#[test]
fn a_body_under_way_arrives_before_the_end() {
    let mut site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let bytes = layer("a body under way").repeat(3000);
    let digest = sha256(&bytes);
    let location = ada.begin_upload("tools/x");
    let mut connection = ada.raw();
    connection.head("PUT", &format!("{location}?digest={digest}"), bytes.len());
    connection.send(&bytes[..2 * MIB]);
    wait_until("the body is under way", || (site.upload_bytes() >= MIB as u64).then_some(()));
    site.signal("TERM");
    wait_until("nobody new is let in", || TcpStream::connect(site.host()).is_err().then_some(()));
    connection.send(&bytes[2 * MIB..]);
    let (status, text) = connection.answer();
    assert_eq!(status, 201, "{text}");
    site.wait_for_end();
    site.start();
    assert!(ada.get(&format!("/v2/tools/x/blobs/{digest}")).expect(200).body == bytes);
}

#[test]
fn a_body_that_never_ends_does_not_keep_the_server() {
    let mut site = Site::new("").with("TORNO_LISTEN_DRAIN", "1s");
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    let location = ada.begin_upload("tools/x");
    let mut connection = ada.raw();
    connection.head("PATCH", &location, 3 * MIB);
    connection.send(&vec![b'x'; 2 * MIB]);
    wait_until("the body is under way", || (site.upload_bytes() >= MIB as u64).then_some(()));
    site.stop();
    assert!(site.log().contains("were cut off"));
    site.start();
    let status = ada.get(&location);
    status.expect(204);
    assert_ne!(status.header("range"), "0-0", "what came before is kept");
}

#[test]
fn idle_connections_and_waiting_pulls_do_not_keep_the_server() {
    let mut site =
        Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE).with("TORNO_RESULTS_WAIT", "5m");
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    Image::new(&layer("waits")).push(&ada, "run/heart/x", "v").expect(201);
    let silent = TcpStream::connect(site.host()).expect("a connection");
    let mut idle = ada.raw();
    idle.head("GET", "/v2/", 0);
    assert_eq!(idle.answer().0, 200);
    let mut waiting = ada.raw();
    waiting.head("GET", "/v2/results/heart/x/manifests/v", 0);
    // It was sent before; this one tells that the server has come that far.
    ada.get("/v2/").expect(200);
    site.stop();
    assert!(!site.log().contains("were cut off"));
    let (status, text) = waiting.answer();
    assert_eq!(status, 404);
    assert!(text.contains("run 1 is queued"), "{text}");
    drop(silent);
}

#[test]
fn projects_are_read_again_with_no_connection_dropped() {
    let mut site = Site::new("").with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada", "bob"]);
    write_project(&site, "[\"bob\"]");
    site.start();
    let (ada, bob) = (site.http("ada"), site.http("bob"));
    let may = |name: &str| ada.post(&format!("/v2/run/heart/{name}/blobs/uploads/")).status == 202;
    assert!(!may("x"));
    let location = bob.begin_upload("run/heart/bob");
    let mut connection = bob.raw();
    connection.head("PUT", &format!("{location}?digest={}", sha256(b"0123456789")), 10);
    connection.send(b"01234");

    write_project(&site, "[\"ada\", \"bob\"]");
    site.signal("HUP");
    wait_until("ada may push", || may("x").then_some(()));

    for (bad, place) in [
        ("[\"ada\"]\ncolour = \"red\"", "projects.heart.colour"),
        ("\"ada\"", "projects.heart.researchers"),
        ("[", "projects.d/heart.toml"),
    ] {
        let from = site.log().len();
        write_project(&site, bad);
        site.signal("HUP");
        wait_for_log(&site, from, "the configuration was not changed");
        assert!(site.log()[from..].contains(place), "{}", &site.log()[from..]);
        assert!(may("x"), "the old settings stand");
    }

    let from = site.log().len();
    write_project(&site, "[\"bob\"]");
    site.signal("HUP");
    wait_for_log(&site, from, "the configuration was read again");
    assert!(!may("x"));

    connection.send(b"56789");
    assert_eq!(connection.answer().0, 201);
    connection.head("GET", "/v2/", 0);
    assert_eq!(connection.answer().0, 200, "the same connection serves on");
}

#[test]
fn everything_is_there_after_a_restart() {
    let mut site =
        Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE).with("TORNO_RESULTS_WAIT", "0s");
    site.add_users(&["ada", "bob"]);
    site.start();
    let ada = site.http("ada");
    let image = Image::new(&layer("kept"));
    image.push(&ada, "tools/x", "v").expect(201);
    image.push(&ada, "run/heart/x", "v").expect(201);
    let location = ada.begin_upload("tools/x");
    ada.send("PATCH", &location, &[], b"01234").expect(202);
    for kill in [false, true] {
        if kill {
            site.kill();
        } else {
            site.stop();
        }
        site.start();
        let manifest = ada.get("/v2/tools/x/manifests/v");
        assert_eq!(manifest.expect(200).body, image.manifest());
        let blob = ada.get(&format!("/v2/tools/x/blobs/{}", sha256(&image.layers[0])));
        assert_eq!(blob.expect(200).body, image.layers[0]);
        ada.get(&location).expect(204).expect_header("range", "0-4");
        ada.get("/v2/results/heart/x/manifests/v").expect_error(404, "MANIFEST_UNKNOWN");
        site.http("bob").get("/v2/tools/x/manifests/v").expect_error(404, "NAME_UNKNOWN");
        assert_eq!(site.runs(), 1);
    }
}

#[test]
fn a_wrong_configuration_stops_the_start_with_every_key() {
    let site = Site::new(
        "[projects.heart]\nresearchers = [\"Not A Name\"]\ndatasets = [\"missing\"]\n[projects.liver]\ncolour = 1\n",
    );
    for command in ["check-config", "serve", "gc"] {
        let output = site.torno(&[command]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{command}: {text}");
        for key in ["projects.heart.researchers", "projects.heart.datasets", "projects.liver.colour"] {
            assert!(text.lines().any(|line| line.starts_with(key)), "{command}: {text}");
        }
    }
    assert!(!site.path("registry-data/torno.db").exists(), "nothing was started");
}

#[test]
fn variables_are_checked_like_the_file() {
    let site = Site::new("").with("TORNO_LISTEN_ADDRESS", "nowhere");
    let output = site.torno(&["check-config"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("TORNO_LISTEN_ADDRESS") || text.contains("listen.address"), "{text}");
}

#[test]
fn a_missing_configuration_says_how_to_make_one() {
    let site = Site::new("");
    fs::remove_file(site.path("torno.toml")).expect("remove");
    for command in ["serve", "check-config"] {
        let named = site.torno(&[command]);
        let text = String::from_utf8_lossy(&named.stderr);
        assert_eq!(named.status.code(), Some(64), "{text}");
        assert!(text.contains(site.path("torno.toml").to_str().expect("UTF-8")), "{text}");
        let torno = site.command(&[]).get_program().to_owned();
        let unnamed = Command::new(torno).arg(command).current_dir(site.path("")).output().expect("torno");
        let text = String::from_utf8_lossy(&unnamed.stderr);
        assert_eq!(unnamed.status.code(), Some(64), "{text}");
        assert!(text.contains("make one with `torno init`"), "{text}");
    }
}

#[test]
fn commands_before_the_first_start_say_what_to_do() {
    let site = Site::new("");
    for command in [&["gc"][..], &["gc", "--dry-run"], &["runs", "list"], &["runs", "show", "1"]] {
        let output = site.torno(command);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {text}");
        assert!(text.contains("`torno serve` makes it"), "{command:?}: {text}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let site = Site::start_with("", &[]);
    let second = Site::new("").with("TORNO_LISTEN_ADDRESS", site.host());
    let output = second.torno(&["serve"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(site.host()), "{text}");
}

#[test]
fn what_is_kept_is_for_its_owner_though_the_folder_is_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut site = Site::new("").with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada"]);
    fs::set_permissions(site.path("registry-data"), fs::Permissions::from_mode(0o755)).expect("chmod");
    site.start();
    let ada = site.http("ada");
    let digest = ada.push_blob("tools/x", b"confidential");
    let blob = format!("blobs/sha256/{}/{}", &digest[7..9], &digest[7..]);
    for name in ["torno.db", "blobs", "uploads", &blob] {
        let found = fs::metadata(site.path("registry-data").join(name)).expect(name);
        assert_eq!(found.permissions().mode() & 0o077, 0, "{name}");
    }
    assert!(site.log().contains("chmod 700"));
}
