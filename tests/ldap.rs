//! People of a directory, from outside: a real one.

use std::{fs, net::TcpListener, time::Instant};

use torno_tests::{Authority, Docker, Image, NO_ENGINE, Site, Slapd, layer, wait_until};

/// A project whose researchers and custodians are groups of the directory, beside one of the configuration.
const PROJECTS: &str = "[groups]\nlocal = [\"bob\"]\n\
    [projects.heart]\nresearchers = [\"@heart-team\", \"@local\"]\ncustodians = [\"@office\"]\n";

const GROUPS: &[(&str, &[&str])] =
    &[("Heart-Team", &["ada", "mia"]), ("office", &["cora"]), ("local", &["eve"]), ("Other Team", &["ada"])];

const PEOPLE: &[&str] = &["ada", "bob", "Mia", "cora", "eve", "admin", "ci"];

fn directory() -> Slapd {
    Slapd::start(PEOPLE, GROUPS, None)
}

/// A site that asks this directory in clear, with an admin in the password file. `more` stands in the directory's table.
fn site(directory: &Slapd, more: &str) -> Site {
    let table = format!("{}url = \"{}\"\nstarttls = false\n{more}", directory.table(), directory.url());
    let mut site = Site::new(&format!("{table}\n{PROJECTS}")).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    let file = site.path("torno.toml");
    let text = fs::read_to_string(&file).expect("torno.toml");
    fs::write(&file, text.replace("robots = []", "robots = [\"ci\"]")).expect("write");
    site.add_users(&["admin"]);
    let changed = site.torno_with_input(&["user", "passwd", "admin", "--password-stdin"], "local-secret");
    assert!(changed.status.success());
    site.start();
    site
}

#[track_caller]
fn groups(site: &Site, user: &str) -> Vec<String> {
    let named = site.http(user).get("/api/whoami").expect(200).json();
    let groups = named["groups"].as_array().expect("a list").iter();
    groups.map(|group| group.as_str().expect("a name").to_owned()).collect()
}

#[test]
fn people_of_the_directory_log_in_with_its_groups() {
    let directory = directory();
    let site = site(&directory, "");
    let image = Image::new(&layer("ldap"));
    image.push(&site.http("ada"), "run/heart/x", "v").expect(201);
    // A name with a space is no group's here.
    assert_eq!(groups(&site, "ada"), ["heart-team"]);
    site.http("cora").get("/v2/run/heart/x/manifests/v").expect(200);
    // In a group of the configuration, by name.
    site.http("bob").begin_upload("run/heart/y");
    // In a group of the directory that has the name of one of the configuration.
    assert_eq!(groups(&site, "eve"), ["local"]);
    site.http("eve").post("/v2/run/heart/z/blobs/uploads/").expect_error(403, "DENIED");
    // A bearer token knows the groups too.
    let given = site.http("cora").get("/token?scope=repository:run/heart/x:pull").expect(200).json();
    let bearer = site.bearer(given["token"].as_str().expect("a token"));
    bearer.get("/v2/run/heart/x/manifests/v").expect(200);
}

#[test]
fn who_is_not_in_it_stays_outside() {
    let directory = directory();
    let site = site(&directory, "");
    for (user, password) in [
        ("ada", "wrong"),
        ("ada", "PW-ADA"),
        ("nobody", "pw-nobody"),
        ("nobody", ""),
        // A directory takes these for nobody in particular, and welcomes them.
        ("ada", ""),
        ("", ""),
        ("", "pw-ada"),
        // What would be another question if it were not a name.
        ("*", "pw-ada"),
        ("ad*", "pw-ada"),
        ("ada)(uid=*", "pw-ada"),
        (")(uid=*", "pw-ada"),
        ("*)(objectClass=*", "pw-ada"),
        ("ada)(|(uid=*", "pw-ada"),
        ("a\\64a", "pw-ada"),
        ("ada\0", "pw-ada"),
        ("uid=ada,ou=people,dc=example,dc=org", "pw-ada"),
        ("ada,ou=people", "pw-ada"),
        ("torno", "pw-torno"),
    ] {
        // As many wrong ones as people have tries.
        let refused = site.http_with(user, password).get("/v2/");
        refused.expect_error(401, "UNAUTHORIZED");
    }
    site.http("ada").get("/v2/").expect(200);
    let log = site.log();
    for secret in ["pw-ada", "pw-torno", "local-secret"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn the_password_file_and_the_robots_come_first() {
    let directory = directory();
    let site = site(&directory, "");
    site.http_with("admin", "local-secret").get("/v2/").expect(200);
    // The directory has an admin too, whatever the spelling, and a name that is a machine's.
    for (user, password) in [("admin", "pw-admin"), ("Admin", "pw-admin"), ("ADMIN", "pw-admin")] {
        site.http_with(user, password).get("/v2/").expect_error(401, "UNAUTHORIZED");
    }
    for user in ["ci", "CI"] {
        site.http_with(user, "pw-ci").get("/v2/").expect_error(401, "UNAUTHORIZED");
    }
    let token = site.torno(&["token", "create", "--user", "ci", "--scope", "pull:tools/**"]);
    assert!(token.status.success(), "{token:?}");
}

#[test]
fn two_spellings_are_one_person() {
    let directory = directory();
    let site = site(&directory, "");
    let image = Image::new(&layer("spelling"));
    image.push(&site.http_with("mia", "pw-Mia"), "run/heart/x", "v").expect(201);
    for spelling in ["Mia", "MIA", "mia"] {
        let http = site.http_with(spelling, "pw-Mia");
        http.get("/v2/run/heart/x/manifests/v").expect(200);
        assert_eq!(http.get("/api/whoami").expect(200).json()["name"], "Mia");
    }
    // A token is for the one name.
    assert!(!site.torno(&["token", "create", "--user", "mia"]).status.success());
    let made = site.torno_ok(&["token", "create", "--user", "Mia"]);
    site.http_with("Mia", made.trim()).get("/v2/run/heart/x/manifests/v").expect(200);
}

#[test]
fn tokens_end_with_their_user_and_follow_their_groups() {
    let directory = directory();
    let site = site(&directory, "");
    Image::new(&layer("leaving")).push(&site.http("ada"), "run/heart/x", "v").expect(201);
    let personal = site.torno_ok(&["token", "create", "--user", "ada"]);
    let personal = site.http_with("ada", personal.trim());
    let query = "/token?offline_token=true&scope=repository:run/heart/x:pull,push";
    let kept = site.http("ada").get(query).expect(200).json();
    let refresh = kept["refresh_token"].as_str().expect("a token to keep").to_owned();
    let bearers = [
        site.bearer(kept["token"].as_str().expect("a token")),
        site.bearer(site.http("ada").get("/token").expect(200).json()["token"].as_str().expect("a token")),
    ];
    let push = "/v2/run/heart/x/blobs/uploads/";
    personal.post(push).expect(202);
    bearers[0].post(push).expect(202);

    directory.leave("ada", "Heart-Team");
    wait_until("the token has lost the group", || (personal.post(push).status == 403).then_some(()));
    wait_until("the bearer token has too", || (bearers[0].post(push).status == 403).then_some(()));
    personal.get("/v2/").expect(200);

    directory.remove("ada");
    wait_until("the token is good for nothing", || (personal.get("/v2/").status == 401).then_some(()));
    for bearer in &bearers {
        wait_until("nor is a bearer token", || (bearer.get("/v2/").status == 401).then_some(()));
    }
    let form = format!("grant_type=refresh_token&refresh_token={refresh}");
    let again = site.anonymous().send("POST", "/token", &[], form.as_bytes());
    again.expect_error(401, "UNAUTHORIZED");
    wait_until("nor the password", || (site.http("ada").get("/v2/").status == 401).then_some(()));
    let refused = site.torno(&["token", "create", "--user", "ada"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no user `ada`"), "{refused:?}");

    // Whoever is in the password file afterwards is somebody else.
    directory.add("ada");
    let old = site.torno_ok(&["token", "create", "--user", "ada"]);
    site.add_users(&["ada"]);
    site.http_with("ada", old.trim()).get("/v2/").expect_error(401, "UNAUTHORIZED");
}

#[test]
fn a_directory_that_is_down_is_waited_for_by_its_own_people_only() {
    let mut directory = directory();
    let site = site(&directory, "");
    let admin = || site.http_with("admin", "local-secret").get("/v2/").status;
    let made = site.torno_ok(&["token", "create", "--user", "bob"]);
    let bob = site.http_with("bob", made.trim());
    bob.get("/v2/").expect(200);
    directory.stop();
    let message = site.http("eve").get("/v2/").expect_error(503, "UNKNOWN");
    assert!(message.contains("the directory of users cannot be asked"), "{message}");
    for secret in ["dc=example", "127.0.0.1", "pw-"] {
        assert!(!message.contains(secret), "{message}");
    }
    assert_eq!(admin(), 200);
    // The last answer does for a while.
    bob.get("/v2/").expect(200);
    let refused = site.torno(&["token", "create", "--user", "eve"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot be reached"), "{refused:?}");
    directory.resume();
    wait_until("it is asked again", || (site.http("eve").get("/v2/").status == 200).then_some(()));

    // One that hangs is waited for, and the admin is not kept waiting meanwhile.
    directory.freeze();
    let (waited, admin_waited) = std::thread::scope(|scope| {
        let since = Instant::now();
        let waiting: Vec<_> = (0..6).map(|_| scope.spawn(|| site.http("ada").get("/v2/").status)).collect();
        wait_until("the directory is being asked", || {
            waiting.iter().all(|thread| !thread.is_finished()).then_some(())
        });
        let admin_since = Instant::now();
        site.http_with("admin", "wrong").get("/v2/").expect(401);
        let admin_waited = admin_since.elapsed();
        for thread in waiting {
            assert_eq!(thread.join().expect("an answer"), 503);
        }
        (since.elapsed(), admin_waited)
    });
    directory.thaw();
    assert!(admin_waited < waited, "{admin_waited:?} of {waited:?}");
    wait_until("it is asked again", || (site.http("ada").get("/v2/").status == 200).then_some(()));
}

#[test]
fn over_tls_with_its_own_authority_only() {
    let authority = Authority::new();
    let directory = Slapd::start(PEOPLE, GROUPS, Some(&authority.issue("directory")));
    let ca = |authority: &Authority| format!("ca = \"{}\"\n", authority.certificate().display());
    let start = |url: &str, ca: &str| {
        let table = format!("{}url = \"{url}\"\n{ca}", directory.table());
        Site::start_with(&format!("{table}\n{PROJECTS}"), &["admin"])
    };
    for url in [directory.url(), directory.tls_url()] {
        let trusting = start(&url, &ca(&authority));
        trusting.http("ada").get("/v2/").expect(200);
        trusting.http_with("ada", "wrong").get("/v2/").expect_error(401, "UNAUTHORIZED");
        // Nobody that this machine trusts, nor another authority, has signed for it.
        let other = Authority::new();
        for ca in [String::new(), ca(&other)] {
            let doubting = start(&url, &ca);
            doubting.http("ada").get("/v2/").expect_error(503, "UNKNOWN");
            doubting.http("admin").get("/v2/").expect(200);
        }
    }
}

#[test]
fn only_groups_of_the_list_count_and_referrals_are_not_followed() {
    let directory = directory();
    let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
    directory.refer(&format!("ldap://{}", trap.local_addr().expect("an address")));
    let names = "[auth.ldap.groups]\n\"cn=Heart-Team,ou=groups,dc=example,dc=org\" = \"team\"\n\"Other Team\" = \"others\"";
    let site = site(&directory, names);
    assert_eq!(groups(&site, "ada"), ["others", "team"]);
    assert!(groups(&site, "cora").is_empty(), "its group is not in the list");
    site.http("nobody").get("/v2/").expect_error(401, "UNAUTHORIZED");
    trap.set_nonblocking(true).expect("a socket");
    assert!(trap.accept().is_err(), "somebody came");
}

#[test]
fn docker_logs_in_with_a_name_of_the_directory() {
    let directory = directory();
    let site = site(&directory, "");
    let docker = Docker::login(&site, "ada");
    let name = docker.build("tools/hello:1", "echo hello", "");
    docker.ok(&["push", "--quiet", &name]);
    directory.remove("ada");
    wait_until("the login has ended", || {
        let pulled = docker.docker(&["pull", "--quiet", &name]);
        (!pulled.status.success()).then_some(())
    });
}
