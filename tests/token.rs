//! Bearer tokens, tokens that are kept, and robots, from outside.

use std::fs;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use torno_tests::{
    Answer, Docker, Http, Image, NO_ENGINE, OCI_IMAGE, PROJECTS, Site, layer, sha256, wait_until,
};

/// A site with both projects and a robot in heart, whose runs stay queued.
fn site(users: &[&str]) -> Site {
    let projects = PROJECTS.replacen("custodians", "robots = [\"ci\"]\ncustodians", 1);
    let mut site = Site::new(&projects).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(users);
    site.start();
    site
}

/// A form, sent as clients send it.
fn post(http: &Http, form: &str) -> Answer {
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    http.send("POST", "/token", &kind, form.as_bytes())
}

/// The token of an answer that has one.
#[track_caller]
fn token(answer: &Answer) -> String {
    answer.expect(200).json()["token"].as_str().expect("a token").to_owned()
}

/// What stands in a bearer token.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("Base64")).expect("JSON")
}

/// Makes a token with the command; its secret and its name.
#[track_caller]
fn make(site: &Site, arguments: &[&str]) -> (String, String) {
    let made = site.torno(&[&["token", "create"][..], arguments].concat());
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{said}");
    let secret = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    assert!(secret.starts_with("torno_") && !said.contains(&secret), "{said}");
    let id = secret.split('_').nth(1).expect("a name").to_owned();
    assert!(said.contains(&id), "{said}");
    (secret, id)
}

#[test]
fn a_challenge_leads_to_a_token_and_that_to_the_image() {
    let site = site(&["ada", "eve"]);
    let image = Image::new(&layer("tokens"));
    image.push(&site.http("ada"), "run/heart/x", "v").expect(201);

    let asked = site.anonymous().get("/v2/run/heart/x/manifests/v");
    asked.expect_error(401, "UNAUTHORIZED");
    let expected = format!(
        "Bearer realm=\"http://{host}/token\",service=\"{host}\",scope=\"repository:run/heart/x:pull\"",
        host = site.host()
    );
    asked.expect_header("www-authenticate", &expected);

    let query = format!("/token?service={}&scope=repository:run/heart/x:pull", site.host());
    let given = site.http("ada").get(&query);
    let bearer = token(&given);
    given.expect_header("cache-control", "no-store");
    let body = given.json();
    assert_eq!(body["access_token"], body["token"]);
    assert_eq!(body["expires_in"], 300);
    assert_eq!(body["scope"], "repository:run/heart/x:pull");
    assert!(body.get("refresh_token").is_none(), "nobody asked for one");
    assert_eq!(claims(&bearer)["sub"], "ada");

    let with = site.bearer(&bearer);
    with.get("/v2/").expect(200);
    with.get("/v2/run/heart/x/manifests/v").expect(200);
    with.get(&format!("/v2/run/heart/x/blobs/{}", sha256(&image.config))).expect(200);
    // What the token was not asked to be good for, with where to get one that is.
    for (method, path, scope) in [
        ("PUT", "/v2/run/heart/x/manifests/w", "repository:run/heart/x:pull,push"),
        ("DELETE", "/v2/run/heart/x/manifests/v", "repository:run/heart/x:delete"),
        ("POST", "/v2/run/heart/y/blobs/uploads/", "repository:run/heart/y:pull,push"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        let refused = with.send(method, path, &[], b"");
        refused.expect_error(401, "UNAUTHORIZED");
        let challenge = refused.header("www-authenticate");
        let insufficient = challenge.ends_with("error=\"insufficient_scope\"");
        assert!(insufficient && challenge.contains(&format!("scope=\"{scope}\"")), "{challenge}");
    }
    let listing = token(&site.http("ada").get("/token?scope=registry:catalog:*"));
    let catalog = site.bearer(&listing).get("/v2/_catalog").expect(200).json();
    assert_eq!(catalog["repositories"], serde_json::json!(["run/heart/x"]));
    // A name that is nobody's, and one that is somebody else's.
    for name in ["run/heart/x", "run/heart/nothing", "run/nowhere/x"] {
        let eve = token(&site.http("eve").get(&format!("/token?scope=repository:{name}:pull")));
        site.bearer(&eve).get(&format!("/v2/{name}/manifests/v")).expect_error(404, "NAME_UNKNOWN");
    }
}

#[test]
fn a_token_is_good_for_no_more_than_its_user() {
    let site = site(&["ada", "bob"]);
    Image::new(&layer("scope")).push(&site.http("ada"), "run/heart/x", "v").expect(201);
    let query = "/token?scope=repository:run/heart/x:pull,push,delete&scope=repository:run/heart/y:pull,push%20\
        repository:results/heart/x:pull,push";
    let access = |who: &str| {
        let claims = claims(&token(&site.http(who).get(query)));
        let access = claims["access"].as_array().expect("a list").clone();
        let line = |one: &Value| format!("{} {}", one["name"], one["actions"]).replace('"', "");
        access.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        access("ada"),
        ["results/heart/x [pull]", "run/heart/x [pull,push,delete]", "run/heart/y [pull,push]"]
    );
    assert_eq!(access("bob"), ["results/heart/x []", "run/heart/x []", "run/heart/y [pull,push]"]);
    // And who changes what the user may do changes the token.
    let bearer = site.bearer(&token(&site.http("ada").get(query)));
    bearer.get("/v2/run/heart/x/manifests/v").expect(200);
    let file = site.path("torno.toml");
    let text = fs::read_to_string(&file).expect("torno.toml").replace("[\"ada\", \"bob\"]", "[\"bob\"]");
    fs::write(&file, text).expect("written");
    site.signal("HUP");
    wait_until("ada is no researcher any more", || {
        (bearer.get("/v2/run/heart/x/manifests/v").status == 404).then_some(())
    });
}

#[test]
fn wrong_logins_get_no_token() {
    let site = site(&["ada"]);
    let refused = site.http_with("ada", "wrong").get("/token");
    refused.expect_error(401, "UNAUTHORIZED");
    assert!(refused.header("www-authenticate").starts_with("Basic "));
    site.anonymous().get("/token").expect_error(401, "UNAUTHORIZED");
    let form = "grant_type=password&service=x&client_id=t&username=ada&password=wrong";
    post(&site.anonymous(), form).expect_error(401, "UNAUTHORIZED");
    for form in [
        "",
        "grant_type=fly",
        "grant_type=password&username=ada",
        "grant_type=refresh_token",
        "grant_type=password&username=ada&password=pw-ada&service=elsewhere",
    ] {
        post(&site.anonymous(), form).expect_error(400, "UNSUPPORTED");
    }
    for bad in ["torno_0123456789ab_00", "abc", ""] {
        let form = format!("grant_type=refresh_token&refresh_token={bad}");
        post(&site.anonymous(), &form).expect_error(401, "UNAUTHORIZED");
    }
    post(&site.anonymous(), &"x".repeat(64 * 1024 + 1)).expect(413);
    site.http("ada").send("DELETE", "/token", &[], b"").expect_error(405, "UNSUPPORTED");
    for bad in ["x", "a.b.c", &"x".repeat(20_000)] {
        let refused = site.bearer(bad).get("/v2/");
        refused.expect_error(401, "UNAUTHORIZED");
    }
}

#[test]
fn a_login_that_is_kept_ends_with_the_password() {
    let site = site(&["ada"]);
    let host = site.host();
    let form = format!(
        "grant_type=password&username=ada&password=pw-ada&service={host}&client_id=a+client&access_type=offline\
         &scope=repository:tools/x:pull,push"
    );
    let given = post(&site.anonymous(), &form);
    let first = token(&given);
    let kept = given.json()["refresh_token"].as_str().expect("a token to keep").to_owned();
    let refresh = format!("grant_type=refresh_token&refresh_token={kept}&scope=repository:tools/x:push");
    let again = post(&site.anonymous(), &refresh);
    let second = token(&again);
    assert_eq!(again.json()["refresh_token"], kept.as_str(), "the same one");
    assert_eq!(again.json()["scope"], "repository:tools/x:push");
    for bearer in [&first, &second] {
        site.bearer(bearer).begin_upload("tools/x");
    }
    let listed = site.torno_ok(&["token", "list", "--user", "ada"]);
    assert!(listed.contains("login of") && !listed.contains(&kept), "{listed}");
    let changed = site.torno_with_input(&["user", "passwd", "ada", "--password-stdin"], "another");
    assert!(changed.status.success());
    for bearer in [&first, &second] {
        let refused = site.bearer(bearer).get("/v2/");
        refused.expect_error(401, "UNAUTHORIZED");
        assert!(refused.header("www-authenticate").contains("invalid_token"));
    }
    post(&site.anonymous(), &refresh).expect_error(401, "UNAUTHORIZED");
}

#[test]
fn a_token_of_ones_own_is_shown_once_limited_and_revoked_at_once() {
    let site = site(&["ada", "eve"]);
    let ada = site.http("ada");
    Image::new(&layer("personal")).push(&ada, "run/heart/x", "v").expect(201);
    Image::new(&layer("personal")).push(&ada, "tools/x", "v").expect(201);
    let (secret, id) = make(&site, &["--user", "ada", "--scope", "pull:run/heart/**", "--expires", "90d"]);
    let with = site.http_with("ada", &secret);
    with.get("/v2/run/heart/x/manifests/v").expect(200);
    // Denied before anything is said of what is there.
    for name in ["tools/x", "tools/nothing", "run/liver/x"] {
        let message = with.get(&format!("/v2/{name}/manifests/v")).expect_error(403, "DENIED");
        assert!(message.contains("pull:run/heart/**"), "{message}");
    }
    with.post("/v2/run/heart/x/blobs/uploads/").expect_error(403, "DENIED");
    let catalog = with.get("/v2/_catalog").expect(200).json();
    assert_eq!(catalog["repositories"], serde_json::json!(["run/heart/x"]));
    site.http_with("eve", &secret).get("/v2/").expect_error(401, "UNAUTHORIZED");

    let query =
        "/token?offline_token=true&scope=repository:run/heart/x:pull,push&scope=repository:tools/x:pull";
    let given = with.get(query);
    assert_eq!(given.json()["scope"], "repository:run/heart/x:pull repository:tools/x:");
    assert_eq!(given.json()["refresh_token"], secret.as_str(), "it is one that is kept already");
    let bearer = site.bearer(&token(&given));
    bearer.get("/v2/run/heart/x/manifests/v").expect(200);

    let listed = site.torno_ok(&["token", "list"]);
    assert!(listed.contains(&id) && listed.contains("pull:run/heart/**"), "{listed}");
    let secret_part = secret.rsplit('_').next().expect("the secret");
    assert!(!listed.contains(secret_part) && !site.log().contains(secret_part));
    for file in ["registry-data/torno.db", "registry-data/torno.db-wal"] {
        let bytes = fs::read(site.path(file)).unwrap_or_default();
        assert!(!bytes.windows(secret_part.len()).any(|window| window == secret_part.as_bytes()), "{file}");
    }

    // A request that has begun goes on to its end.
    let (push, push_id) = make(&site, &["--user", "ada"]);
    let long = site.http_with("ada", &push);
    let location = long.begin_upload("tools/x");
    let mut raw = long.raw();
    raw.head("PATCH", &location, 10);
    raw.send(b"01234");
    for id in [&id, &push_id] {
        site.torno_ok(&["token", "revoke", id]);
    }
    with.get("/v2/").expect_error(401, "UNAUTHORIZED");
    bearer.get("/v2/").expect_error(401, "UNAUTHORIZED");
    long.get("/v2/").expect_error(401, "UNAUTHORIZED");
    raw.send(b"56789");
    assert_eq!(raw.answer().0, 202);
    let again = site.torno(&["token", "revoke", &id]);
    assert!(!again.status.success(), "once is enough");
}

#[test]
fn a_token_goes_with_its_user_and_with_its_time() {
    let site = site(&["ada", "bob"]);
    let (secret, _) = make(&site, &["--user", "bob"]);
    site.http_with("bob", &secret).get("/v2/").expect(200);
    site.torno_ok(&["user", "remove", "bob"]);
    site.http_with("bob", &secret).get("/v2/").expect_error(401, "UNAUTHORIZED");
    let (short, _) = make(&site, &["--user", "ada", "--expires", "1s"]);
    wait_until("it has expired", || (site.http_with("ada", &short).get("/v2/").status == 401).then_some(()));
    for arguments in [
        &["--user", "nobody"][..],
        &["--user", "ada", "--scope", "fly:x"],
        &["--user", "ada", "--expires", "0s"],
        &["--user", "ada", "--description", "two\nlines"],
    ] {
        let refused = site.torno(&[&["token", "create"][..], arguments].concat());
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_robot_has_a_token_and_no_password() {
    let site = site(&["ada"]);
    let added = site.torno_with_input(&["user", "add", "ci", "--password-stdin"], "pw-ci");
    assert!(String::from_utf8_lossy(&added.stderr).contains("is a robot"), "{added:?}");
    // Whoever writes the file by hand opens nothing either.
    let hash = fs::read_to_string(site.path("registry-data/htpasswd")).expect("users");
    let hash = hash.lines().find_map(|line| line.strip_prefix("ada:")).expect("ada").to_owned();
    let file = site.path("registry-data/htpasswd");
    fs::write(&file, format!("{}ci:{hash}\n", fs::read_to_string(&file).expect("users"))).expect("written");
    site.http("ada").get("/v2/").expect(200);
    site.http_with("ci", "pw-ada").get("/v2/").expect_error(401, "UNAUTHORIZED");

    let whole = site.torno(&["token", "create", "--user", "ci"]);
    assert!(String::from_utf8_lossy(&whole.stderr).contains("add --scope"), "{whole:?}");
    let (secret, _) = make(&site, &["--user", "ci", "--scope", "pull,push:run/heart/*"]);
    let robot = site.http_with("ci", &secret);
    let image = Image::new(&layer("robot"));
    image.push(&robot, "run/heart/nightly", "v").expect(201);
    robot.get("/v2/run/heart/nightly/manifests/v").expect(200);
    robot.post("/v2/run/liver/x/blobs/uploads/").expect_error(403, "DENIED");
    site.http("ada").get("/v2/run/heart/nightly/manifests/v").expect_error(404, "NAME_UNKNOWN");
    assert_eq!(site.runs(), 1);
    let named = robot.get("/api/whoami").expect(200).json();
    assert_eq!((&named["name"], &named["robot"]), (&"ci".into(), &true.into()));
    assert_eq!(named["may_push_to"], serde_json::json!(["run/heart/<name>:<tag>", "try/heart/<name>:<tag>"]));
    assert_eq!(named["token_good_for"], "pull,push:run/heart/*");
    site.anonymous().get("/api/whoami").expect_error(401, "UNAUTHORIZED");
}

#[test]
fn tokens_outlive_a_restart() {
    let mut site = site(&["ada"]);
    let bearer = token(&site.http("ada").get("/token?scope=repository:tools/x:push"));
    site.stop();
    site.start();
    site.bearer(&bearer).begin_upload("tools/x");
    site.stop();
    for entry in fs::read_dir(site.path("registry-data/keys/token")).expect("keys") {
        fs::remove_file(entry.expect("a key").path()).expect("removed");
    }
    site.start();
    site.bearer(&bearer).get("/v2/").expect_error(401, "UNAUTHORIZED");
}

#[test]
fn docker_keeps_a_token_and_not_the_password() {
    let site = site(&["ada"]);
    let docker = Docker::login(&site, "ada");
    let config: Value = serde_json::from_slice(&fs::read(docker.auth_file()).expect("config")).expect("JSON");
    let login = &config["auths"][site.host()];
    assert!(login["identitytoken"].as_str().is_some_and(|token| token.starts_with("torno_")), "{config}");
    assert!(!config.to_string().contains(&base64::engine::general_purpose::STANDARD.encode("ada:pw-ada")));
    let name = docker.build("tools/hello:1", "echo hello", "");
    docker.ok(&["push", "--quiet", &name]);
    let listed = site.torno_ok(&["token", "list", "--user", "ada"]);
    let id = listed.lines().nth(1).and_then(|line| line.split(' ').next()).expect("a token").to_owned();
    site.torno_ok(&["token", "revoke", &id]);
    let refused = docker.fails(&["pull", "--quiet", &name]);
    assert!(refused.contains("log in again"), "{refused}");
    // A token stands for a password here too.
    let (secret, _) = make(&site, &["--user", "ada"]);
    docker.ok(&["login", "--username", "ada", "--password", &secret, site.host()]);
    docker.ok(&["pull", "--quiet", &name]);
    site.http_with("ada", &secret).push_manifest("x/y", "v", OCI_IMAGE, b"{}").expect(400);
}

/// Whoever is given a token can use it; what could not be used is not given out.
#[test]
fn no_token_is_longer_than_a_request_can_bring() {
    let site = site(&["ada"]);
    let name = |number: usize, length: usize| format!("run/heart/{number:03}{}", "x".repeat(length));
    let query = |length: usize| {
        let names =
            (0..40).map(|number| name(number, 200)).chain((40..50).map(|number| name(number, length)));
        let scopes: Vec<String> = names.map(|name| format!("repository:{name}:pull,push")).collect();
        format!("/token?offline_token=true&service={}&scope={}", site.host(), scopes.join("%20"))
    };
    // The longest that is given out, found by halving.
    let (mut given, mut refused) = (1, 220);
    let (mut longest, mut answered) = (String::new(), 0);
    while refused - given > 1 {
        let middle = usize::midpoint(given, refused);
        let answer = site.http("ada").get(&query(middle));
        if answer.status == 200 {
            (given, longest) = (middle, token(&answer));
            answered += 1;
        } else {
            let message = answer.expect_error(400, "UNSUPPORTED");
            assert!(message.contains("ask for fewer scopes at once"), "{message}");
            refused = middle;
        }
    }
    assert!(longest.len() > 16 * 1024 - 16, "{} bytes: the limit is elsewhere", longest.len());
    site.bearer(&longest).get("/v2/").expect(200);
    // Those that were refused left no login behind.
    let logins = site.torno_ok(&["token", "list"]);
    let kept = logins.lines().filter(|line| line.contains("login") && !line.contains("revoked"));
    assert_eq!(kept.count(), answered, "{logins}");
}

/// What a person was given would otherwise go on as a machine that has the name now.
#[test]
fn a_person_whose_name_becomes_a_robots_is_out() {
    let mut site = Site::new("[projects.heart]\nresearchers = [\"bob\"]\nrobots = []\n");
    site.add_users(&["ada"]);
    site.start();
    let with_a_login = site.http("ada").get("/token?offline_token=true").expect(200).json();
    let kept = with_a_login["refresh_token"].as_str().expect("a login").to_owned();
    let of_the_login = with_a_login["token"].as_str().expect("a token").to_owned();
    let of_the_password = token(&site.http("ada").get("/token"));
    let (made, _) = make(&site, &["--user", "ada"]);
    let asks = || {
        let form = format!("grant_type=refresh_token&refresh_token={kept}");
        [
            site.bearer(&of_the_login).get("/v2/").status,
            site.bearer(&of_the_password).get("/v2/").status,
            post(&site.anonymous(), &form).status,
            site.http_with("ada", &kept).get("/v2/").status,
            site.http_with("ada", &made).get("/v2/").status,
        ]
    };
    assert_eq!(asks(), [200; 5]);
    let config = fs::read_to_string(site.path("torno.toml")).expect("configuration");
    // In [auth], and in the project.
    for (at, none) in config.match_indices("\nrobots = []").take(2) {
        let robots = format!("{}\nrobots = [\"ada\"]{}", &config[..at], &config[at + none.len()..]);
        fs::write(site.path("torno.toml"), &robots).expect("written");
        site.signal("HUP");
        let reloaded = || (site.http("ada").get("/v2/").status != 200).then_some(());
        wait_until("ada is a robot, whose password lets nobody in", reloaded);
        assert_eq!(asks(), [401; 5], "{robots}");
        fs::write(site.path("torno.toml"), &config).expect("written");
        site.signal("HUP");
        wait_until("they are the person's again", || (asks() == [200; 5]).then_some(()));
    }
    assert_eq!(config.matches("\nrobots = []").count(), 2);
}
