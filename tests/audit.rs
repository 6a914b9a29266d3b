//! The record of what is done, with the real binary: everything is in it and no secret, what must be durable is, and
//! whatever is done to it shows.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use torno_tests::{
    Answer, Disk, Docker, Http, Image, NO_ENGINE, OCI_INDEX, PROJECTS, Site, index, layer, sha256, wait_until,
};

const REPOSITORY: &str = "tools/x";

const RETENTION: &str = "[[retention]]\nrepositories = ['ci/**']\nkeep_newest = 1\n";

/// A site that runs nothing.
fn site(variables: &[(&str, &str)]) -> Site {
    site_with("", variables)
}

fn site_with(extra: &str, variables: &[(&str, &str)]) -> Site {
    let mut site = Site::new(&format!("{PROJECTS}{extra}")).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    for (variable, value) in variables {
        site = site.with(variable, value);
    }
    site.add_users(&["ada", "bob", "cora"]);
    site.start();
    site
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect();
    files.sort();
    files
}

fn text(site: &Site) -> String {
    let files = files(&site.path("registry-data/audit"));
    files.iter().map(|path| fs::read_to_string(path).expect("UTF-8")).collect()
}

/// The lines, as `torno audit show` gives them.
fn show(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let text = site.torno_ok(&[&["audit", "show", "--json"], arguments].concat());
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Whether a line has all of these fields.
fn has(line: &Value, fields: &Value) -> bool {
    fields.as_object().expect("an object").iter().all(|(name, value)| line[name] == *value)
}

/// The one line that has all of these fields, once it is there.
#[track_caller]
fn line(site: &Site, fields: &Value) -> Value {
    let found = wait_until(&format!("a line with {fields}"), || {
        let found: Vec<Value> = show(site, &[]).into_iter().filter(|line| has(line, fields)).collect();
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().expect("one")
}

/// The same of a request: it has its id, its user and where it came from.
#[track_caller]
fn line_of(site: &Site, answer: &Answer, user: &str, fields: Value) -> Value {
    let found = line(site, &with(fields, "request", &answer.header("x-request-id")));
    let expected = serde_json::json!({"user": user, "by": "password", "from": "127.0.0.1"});
    assert!(has(&found, &expected), "{found}");
    found
}

fn with(mut fields: Value, name: &str, value: &str) -> Value {
    fields[name] = value.into();
    fields
}

fn event(name: &str) -> Value {
    serde_json::json!({ "event": name })
}

fn manifest_of(repository: &str, reference: &str) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

fn is_whole(site: &Site) {
    site.torno_ok(&["audit", "verify"]);
}

#[test]
fn what_people_do_is_there_with_who_and_from_where_and_in_which_request() {
    let site = site(&[]);
    let ada = site.http("ada");
    line_of(&site, ada.get("/v2/").expect(200), "ada", event("login"));

    let image = Image::new(&layer("audit"));
    let pushed = image.push(&ada, REPOSITORY, "v").expect(201).clone();
    let push = line_of(&site, &pushed, "ada", event("push"));
    let expected = serde_json::json!({
        "repository": REPOSITORY, "tags": ["v"], "digest": image.digest(), "owner": "ada",
    });
    assert!(has(&push, &expected), "{push}");
    line(&site, &with(event("blob_push"), "digest", &sha256(&image.config)));

    let pulled = ada.get(&manifest_of(REPOSITORY, "v"));
    let pull = line_of(&site, pulled.expect(200), "ada", event("pull"));
    let expected = serde_json::json!({"repository": REPOSITORY, "reference": "v", "digest": image.digest()});
    assert!(has(&pull, &expected), "{pull}");
    let blob = format!("/v2/{REPOSITORY}/blobs/{}", sha256(&image.config));
    let pull = line_of(&site, ada.get(&blob).expect(200), "ada", event("blob_pull"));
    assert_eq!(pull["digest"], sha256(&image.config));
    let mount = format!("/v2/tools/y/blobs/uploads/?mount={}&from={REPOSITORY}", sha256(&image.config));
    let mounted = line_of(&site, ada.post(&mount).expect(201), "ada", event("blob_mount"));
    assert_eq!(mounted["repository"], "tools/y");

    // Run on the data: the same request has queued it.
    let pushed = image.push(&ada, "run/heart/a", "1").expect(201).clone();
    let queued = line_of(&site, &pushed, "ada", event("run_queued"));
    let expected =
        serde_json::json!({"run": 1, "repository": "run/heart/a", "tag": "1", "digest": image.digest()});
    assert!(has(&queued, &expected), "{queued}");

    for (answer, fields) in [
        (ada.delete(&blob), serde_json::json!({"event": "blob_delete", "digest": sha256(&image.config)})),
        (ada.delete(&manifest_of(REPOSITORY, "v")), serde_json::json!({"event": "delete", "reference": "v"})),
        (
            ada.delete(&manifest_of("run/heart/a", &image.digest())),
            serde_json::json!({"event": "delete", "repository": "run/heart/a", "reference": image.digest()}),
        ),
    ] {
        line_of(&site, answer.expect(202), "ada", fields);
    }
    // What was to be done and was not.
    let missing = ada.delete(&manifest_of(REPOSITORY, "v"));
    let wanted = line_of(&site, missing.expect(404), "ada", event("delete"));
    let not_done = line_of(&site, &missing, "ada", event("not_done"));
    assert_eq!(not_done["of"], wanted["seq"]);

    // HEAD takes nothing along, and neither does who asks for what is not there.
    let heads = [ada.head(&manifest_of("run/heart/a", "1")), ada.get(&manifest_of("tools/none", "v"))];
    // A line behind theirs.
    line_of(&site, ada.get("/v2/").expect(200), "ada", event("login"));
    for head in heads {
        let id = head.header("x-request-id");
        assert!(show(&site, &[]).iter().all(|line| line["request"] != id.as_str()), "{id}");
    }
    is_whole(&site);
}

#[test]
fn who_is_refused_is_there_and_no_secret_is() {
    let site = site(&[("TORNO_QUOTAS_USER_REPOSITORIES", "1")]);
    let ada = site.http("ada");
    Image::new(&layer("one")).push(&ada, REPOSITORY, "v").expect(201);

    let wrong = "correct-horse-battery";
    let failed = site.http_with("ada", wrong).get("/v2/");
    failed.expect(401);
    let found = line(&site, &with(event("login_failed"), "request", &failed.header("x-request-id")));
    let expected = serde_json::json!({"claimed": "ada", "by": "nobody", "from": "127.0.0.1"});
    assert!(has(&found, &expected) && found["user"].is_null(), "{found}");
    // A password in the place of a name.
    let slipped = "my secret: pass phrase";
    let failed = site.http_with("my secret", "pass phrase").get("/v2/");
    let found = line(&site, &with(event("login_failed"), "request", &failed.header("x-request-id")));
    assert_eq!(found["claimed"], "(no user name)");

    let path = manifest_of(REPOSITORY, "v");
    let bob = site.http("bob");
    for (answer, method, path) in [
        (bob.get(&path).expect(404).clone(), "GET", path.as_str()),
        (bob.delete(&path).expect(404).clone(), "DELETE", &path),
        (
            bob.post("/v2/run/liver/x/blobs/uploads/").expect(403).clone(),
            "POST",
            "/v2/run/liver/x/blobs/uploads/",
        ),
        (
            bob.post("/v2/results/heart/x/blobs/uploads/").expect(403).clone(),
            "POST",
            "/v2/results/heart/x/blobs/uploads/",
        ),
    ] {
        let refused = line_of(&site, &answer, "bob", event("refused"));
        assert!(has(&refused, &serde_json::json!({"method": method, "path": path})), "{refused}");
        assert!(refused["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    }
    let bytes = b"too many";
    let location = ada.begin_upload("tools/second");
    let headers = [("content-type", "application/octet-stream")];
    let over = ada.send("PUT", &format!("{location}?digest={}", sha256(bytes)), &headers, bytes);
    line_of(&site, over.expect(403), "ada", event("refused"));

    // Whoever reads the record learns no secret from it.
    let text = text(&site);
    let basic = STANDARD.encode("ada:pw-ada");
    let database = fs::read(site.path("registry-data/htpasswd")).expect("users");
    let hash = String::from_utf8_lossy(&database).lines().next().expect("a user").to_owned();
    let hash = hash.split_once(':').expect("a hash").1;
    for secret in
        [wrong, slipped, "pass phrase", "my secret", "pw-ada", "pw-bob", &basic, hash, "Basic ", "too many"]
    {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(text.contains("\"event\":\"login_failed\""));
    is_whole(&site);
}

#[test]
fn tokens_are_there_and_what_is_done_with_them_and_never_their_secrets() {
    let site = site(&[]);
    let image = Image::new(&layer("token"));
    image.push(&site.http("ada"), REPOSITORY, "v").expect(201);
    let made =
        site.torno_ok(&["token", "create", "--user", "ada", "--scope", "pull:tools/**", "--expires", "90d"]);
    let secret = made.trim();
    let issued = line(&site, &event("token_issued"));
    let expected = serde_json::json!({"owner": "ada", "scope": "pull:tools/**", "by": "command"});
    assert!(has(&issued, &expected) && issued["expires"].is_string(), "{issued}");
    let id = issued["token"].as_str().expect("a token").to_owned();

    let with_token = site.http_with("ada", secret);
    let by = serde_json::json!({"user": "ada", "by": "token", "credential": id});
    let pulled = with_token.get(&manifest_of(REPOSITORY, "v")).expect(200).clone();
    let pull = line(&site, &with(event("pull"), "request", &pulled.header("x-request-id")));
    assert!(has(&pull, &by), "{pull}");
    let deleted = with_token.delete(&manifest_of(REPOSITORY, "v"));
    let refused = line(&site, &with(event("refused"), "request", &deleted.header("x-request-id")));
    assert!(has(&refused, &by), "{refused}");

    // As Docker logs in: for a token to work with, and one to keep.
    let given = site.http("ada").get("/token?offline_token=true&client_id=docker").expect(200).clone();
    let (bearer, kept) = (given.json()["token"].clone(), given.json()["refresh_token"].clone());
    line_of(&site, &given, "ada", event("login"));
    let issued = line_of(&site, &given, "ada", event("token_issued"));
    assert_eq!(issued["scope"], "all");
    let bearer = bearer.as_str().expect("a token");
    let header = format!("Bearer {bearer}");
    let pulled =
        site.anonymous().send("GET", &manifest_of(REPOSITORY, "v"), &[("authorization", &header)], &[]);
    let login = line(&site, &with(event("refused"), "request", &pulled.header("x-request-id")));
    assert_eq!(login["user"], "ada", "a token for nothing reads nothing");

    site.torno_ok(&["token", "revoke", &id]);
    line(&site, &serde_json::json!({"event": "token_revoked", "token": id, "owner": "ada", "by": "command"}));
    let failed = with_token.get("/v2/").expect(401).clone();
    let failed = line(&site, &with(event("login_failed"), "request", &failed.header("x-request-id")));
    assert!(has(&failed, &serde_json::json!({"why": "token", "by": "nobody"})), "{failed}");
    let text = text(&site);
    for secret in [secret, bearer, kept.as_str().expect("a token")] {
        assert!(!text.contains(secret), "{secret}");
    }
    is_whole(&site);
}

#[test]
fn what_is_done_again_and_again_is_one_line() {
    let site = site(&[]);
    let ada = site.http("ada");
    Image::new(&layer("again")).push(&ada, REPOSITORY, "v").expect(201);
    let count = |kind: &str| {
        let lines = show(&site, &["--event", kind]);
        let counted = lines.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum::<u64>();
        (lines.len(), counted)
    };
    for _ in 0..300 {
        ada.get(&manifest_of(REPOSITORY, "v")).expect(200);
    }
    let lines = wait_until("every pull is there", || {
        let (lines, pulls) = count("pull");
        (pulls == 300).then_some(lines)
    });
    assert!(lines < 150, "{lines} lines for 300 pulls");
    is_whole(&site);
}

#[test]
fn what_commands_and_the_server_itself_do_is_there() {
    let mut site = site_with(RETENTION, &[("TORNO_GC_INTERVAL", "0s")]);
    let ada = site.http("ada");
    let (old, new) = (Image::new(&layer("old")), Image::new(&layer("new")));
    old.push(&ada, "ci/x", "1").expect(201);
    new.push(&ada, "ci/x", "2").expect(201);
    for user in ["admin", "ada"] {
        let action = if user == "admin" { "passwd" } else { "add" };
        let expected = serde_json::json!({"event": "user", "action": action, "name": user, "by": "command"});
        if user == "ada" {
            line(&site, &expected);
        }
    }

    site.torno_ok(&["gc", "--grace", "0s"]);
    let expired = line(&site, &event("expired"));
    let expected = serde_json::json!({
        "repository": "ci/x", "reference": "1", "digest": old.digest(), "by": "command",
    });
    assert!(has(&expired, &expected), "{expired}");
    let rule = expired["rule"].as_str().expect("a rule");
    assert!(rule.contains("retention 1 (ci/**): not among the newest 1"), "{rule}");
    let collected = line(&site, &event("collected"));
    let digests = collected["digests"].as_array().expect("digests");
    assert!(digests.contains(&sha256(&old.layers[0]).into()), "{collected}");
    assert!(!digests.contains(&sha256(&new.layers[0]).into()), "{collected}");

    let layout = site.path("layout");
    let layout = layout.to_str().expect("UTF-8");
    site.torno_ok(&["export", "--oci-layout", layout, "ci/x:2"]);
    line(&site, &serde_json::json!({"event": "exported", "repository": "ci/x", "tag": "2", "by": "command"}));
    site.torno_ok(&["import", "--oci-layout", layout, "--owner", "bob", "taken/over:3"]);
    let imported = line(&site, &serde_json::json!({"event": "push", "repository": "taken/over"}));
    assert!(
        has(&imported, &serde_json::json!({"owner": "bob", "by": "command", "tags": ["3"]})),
        "{imported}"
    );
    assert!(imported["uid"].is_u64());
    site.torno_ok(&["user", "remove", "bob"]);
    line(&site, &serde_json::json!({"event": "user", "action": "remove", "name": "bob"}));
    assert!(!site.torno(&["user", "remove", "nobody"]).status.success());
    let tried = line(&site, &serde_json::json!({"event": "user", "action": "remove", "name": "nobody"}));
    line(&site, &serde_json::json!({"event": "not_done", "of": tried["seq"]}));

    site.signal("HUP");
    line(&site, &serde_json::json!({"event": "configuration_reloaded", "by": "torno"}));
    let path = site.path("torno.toml");
    let good = fs::read_to_string(&path).expect("read");
    site.append("nonsense = 1");
    site.signal("HUP");
    wait_until("it is refused", || text(&site).contains("configuration_refused").then_some(()));
    fs::write(&path, good).expect("write");
    line(&site, &serde_json::json!({"event": "configuration_refused", "by": "torno"}));

    line(&site, &event("started"));
    site.stop();
    line(&site, &event("stopped"));
    // Whoever keeps the log has the head.
    let (head, log) = (site.torno_ok(&["audit", "head"]), site.log());
    let hash = head.trim().rsplit_once(' ').expect("a hash").1;
    assert!(log.contains(hash), "{hash}");
    is_whole(&site);
}

/// With the real engine.
#[test]
fn a_run_is_there_from_its_push_to_the_reading_of_its_result() {
    let mut site =
        Site::new("[projects.one]\nresearchers = ['ada']\ncustodians = ['cora']\nlogs = 'always'\n");
    site.add_users(&["ada", "cora"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    ada.run("one/x:1", "echo a-line-of-its-log; echo some-data > /output/file");
    ada.run("one/bad:1", "echo another-line; exit 3");
    let image = ada.pull_result("one/x:1");
    site.wait_for_run(2);

    let started = line(&site, &serde_json::json!({"event": "run_started", "run": 1}));
    let expected = serde_json::json!({"by": "torno", "repository": "run/one/x", "tag": "1", "owner": "ada"});
    assert!(has(&started, &expected), "{started}");
    let queued = line(&site, &serde_json::json!({"event": "run_queued", "run": 1}));
    assert!(has(&queued, &serde_json::json!({"user": "ada", "digest": started["digest"]})), "{queued}");
    let ended = line(&site, &serde_json::json!({"event": "run_ended", "run": 1}));
    assert_eq!(ended["owner"], "ada");
    assert!(ended["outcome"].as_str().is_some_and(|outcome| outcome.contains("succe")), "{ended}");
    let result = ended["result"].as_str().expect("a digest").to_owned();
    let failed = line(&site, &serde_json::json!({"event": "run_ended", "run": 2}));
    assert!(failed["outcome"].as_str().is_some_and(|outcome| outcome.contains('3')), "{failed}");

    let read = wait_until("the result was read", || {
        let pulls = show(&site, &["--project", "one", "--event", "pull", "--user", "ada"]);
        pulls.into_iter().find(|line| line["repository"] == "results/one/x")
    });
    assert_eq!(read["digest"], result.as_str(), "{image}: {read}");
    let numbers = |line: &Value| line["seq"].as_u64().expect("a number");
    let order = [&queued, &started, &ended, &read].map(numbers);
    assert!(order.is_sorted(), "{order:?}");

    assert_eq!(show(&site, &["--run", "2"]).len(), 3);
    assert!(show(&site, &["--project", "two"]).is_empty());
    let text = text(&site);
    assert!(
        !text.contains("a-line-of-its-log") && !text.contains("another-line") && !text.contains("some-data")
    );
    is_whole(&site);
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    let mut site = site(&[]);
    for round in 0..5 {
        let image = Image::new(&layer(&round.to_string()));
        image.push(&site.http("ada"), REPOSITORY, "v").expect(201);
        let deleted = site.http("ada").delete(&manifest_of(REPOSITORY, "v"));
        site.kill();
        let id = deleted.expect(202).header("x-request-id");
        assert!(text(&site).contains(&id), "{id}");
        site.start();
    }
    is_whole(&site);
}

/// Somebody who hangs up when their last byte has been sent, a little later each time.
fn hang_up(http: &Http, round: u64, method: &str, path: &str, kind: &str, body: &[u8]) {
    let mut connection = http.raw();
    let head = format!("content-length: {}\r\n{kind}", body.len());
    connection.head_with(method, path, &head);
    connection.send(body);
    // What is to be met is a moment within the answering.
    let until = Instant::now() + Duration::from_micros(100 * (round % 100));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

#[test]
fn what_is_stored_is_there_though_who_pushed_it_has_gone_away() {
    const ROUNDS: u64 = 200;
    let mut site = site(&[]);
    let ada = site.http("ada");
    let image = Image::new(&layer("gone"));
    image.push(&ada, "run/heart/x", "first").expect(201);
    let mounted = ada.push_blob(REPOSITORY, b"mounted");
    let kind = format!("content-type: {}\r\n", image.media_type);
    let blob = |round: u64| format!("blob {round}").into_bytes();
    for round in 0..ROUNDS {
        let path = format!("/v2/run/heart/x/manifests/t{round}");
        hang_up(&ada, round, "PUT", &path, &kind, &image.manifest());
        let bytes = blob(round);
        let path = format!("{}?digest={}", ada.begin_upload(REPOSITORY), sha256(&bytes));
        hang_up(&ada, round, "PUT", &path, "", &bytes);
        let path = format!("/v2/tools/m{round}/blobs/uploads/?mount={mounted}&from={REPOSITORY}");
        hang_up(&ada, round, "POST", &path, "", b"");
    }
    // What is under way ends, and no more comes.
    site.stop();
    let lines = show(&site, &[]);
    site.start();
    let ada = site.http("ada");
    let count = |fields: Value| lines.iter().filter(|line| has(line, &fields)).count();
    let tags = ada.get("/v2/run/heart/x/tags/list?n=1000").expect(200).json();
    let (mut manifests, mut blobs, mut mounts) = (0, 0, 0);
    for round in 0..ROUNDS {
        let tag = format!("t{round}");
        if tags["tags"].as_array().expect("tags").iter().any(|known| *known == *tag) {
            manifests += 1;
            assert_eq!(count(serde_json::json!({"event": "push", "tags": [tag]})), 1, "{tag}");
            assert_eq!(count(serde_json::json!({"event": "run_queued", "tag": tag})), 1, "{tag}");
        }
        let digest = sha256(&blob(round));
        if ada.head(&format!("/v2/{REPOSITORY}/blobs/{digest}")).status == 200 {
            blobs += 1;
            assert_eq!(count(serde_json::json!({"event": "blob_push", "digest": digest})), 1, "{digest}");
        }
        let repository = format!("tools/m{round}");
        if ada.head(&format!("/v2/{repository}/blobs/{mounted}")).status == 200 {
            mounts += 1;
            assert_eq!(count(serde_json::json!({"event": "blob_mount", "repository": repository})), 1);
        }
    }
    assert!(manifests > 0 && blobs > 0 && mounts > 0, "{manifests}, {blobs}, {mounts}");
}

#[test]
fn several_processes_write_one_chain() {
    let site = site(&[("TORNO_AUDIT_ROTATE", "4KiB")]);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let http = site.http("ada");
            scope.spawn(move || {
                for round in 0..30 {
                    let name = format!("tools/w{worker}");
                    let bytes = index(OCI_INDEX, &[]);
                    http.push_manifest(&name, &format!("t{round}"), OCI_INDEX, &bytes).expect(201);
                    http.delete(&manifest_of(&name, &format!("t{round}"))).expect(202);
                }
            });
        }
        scope.spawn(|| {
            for round in 0..8 {
                site.torno_with_input(&["user", "add", &format!("u{round}"), "--password-stdin"], "secret");
                is_whole(&site);
            }
        });
    });
    assert_eq!(show(&site, &["--event", "delete"]).len(), 60);
    assert_eq!(show(&site, &["--event", "user"]).len(), 3 + 8);
    assert!(files(&site.path("registry-data/audit")).len() > 3);
    is_whole(&site);
}

#[test]
fn whatever_is_done_to_the_files_shows() {
    let mut site = site(&[("TORNO_AUDIT_ROTATE", "4KiB")]);
    let ada = site.http("ada");
    let deletions = |http: &Http, tags: std::ops::Range<u32>| {
        for tag in tags {
            http.push_manifest(REPOSITORY, &format!("t{tag}"), OCI_INDEX, &index(OCI_INDEX, &[])).expect(201);
            http.delete(&manifest_of(REPOSITORY, &format!("t{tag}"))).expect(202);
        }
    };
    deletions(&ada, 0..20);
    site.stop();
    let head = site.torno_ok(&["audit", "head"]);
    let head = head.trim().rsplit_once(' ').expect("a hash").1.to_owned();
    let verify = |arguments: &[&str]| {
        let verified = site.torno(&[&["audit", "verify"], arguments].concat());
        let said = String::from_utf8_lossy(&[verified.stdout, verified.stderr].concat()).into_owned();
        (verified.status.code(), said)
    };
    let (code, said) = verify(&["--head", &head]);
    assert!(code == Some(0) && said.contains("is there, and all before it is as it was"), "{said}");

    let files = files(&site.path("registry-data/audit"));
    let whole: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).expect("read")).collect();
    let restore =
        || files.iter().zip(&whole).for_each(|(path, bytes)| fs::write(path, bytes).expect("write"));

    // One letter of who did it.
    let text = String::from_utf8(whole[1].clone()).expect("UTF-8");
    fs::write(&files[1], text.replacen("\"user\":\"ada\"", "\"user\":\"eva\"", 1)).expect("write");
    let (code, said) = verify(&[]);
    assert!(code == Some(1) && said.contains("is not what was written"), "{said}");
    restore();
    // One line.
    let line = text.find('\n').expect("a line") + 1;
    fs::write(&files[1], &whole[1][line..]).expect("write");
    let (code, said) = verify(&[]);
    assert!(code == Some(1) && said.contains("is missing"), "{said}");
    restore();
    // The last file, and the last line, which only a note that is kept elsewhere shows.
    let last = files.last().expect("a file");
    fs::remove_file(last).expect("removed");
    let (code, said) = verify(&[]);
    assert!(code == Some(1) && said.contains("goes on in another, which is missing"), "{said}");
    restore();
    let bytes = whole.last().expect("a file");
    let end = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
    fs::write(last, &bytes[..end]).expect("write");
    assert_eq!(verify(&[]).0, Some(0), "a cut at the end of a line needs a note");
    let (code, said) = verify(&["--head", &head]);
    assert!(code == Some(1) && said.contains("cut off or written anew"), "{said}");
    restore();

    // Old files may be moved away, and both parts say where they meet.
    let elsewhere = site.path("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    fs::rename(&files[0], elsewhere.join(files[0].file_name().expect("a name"))).expect("moved");
    let (code, said) = verify(&["--head", &head]);
    assert!(code == Some(0) && said.contains("behind the line with hash"), "{said}");
    let (code, said) = verify(&[elsewhere.to_str().expect("UTF-8")]);
    assert!(code == Some(0) && said.contains("goes on with number"), "{said}");

    // And it goes on.
    site.start();
    deletions(&site.http("ada"), 20..22);
    site.torno_ok(&["audit", "verify", "--head", &head]);
}

#[test]
fn nothing_is_deleted_that_cannot_be_recorded_and_what_was_read_meanwhile_is_told_later() {
    let Some(disk) = Disk::new(16) else { return };
    let folder = disk.path().join("audit");
    let mut site = Site::new(PROJECTS)
        .with("TORNO_EXECUTOR_ENGINE", NO_ENGINE)
        .with("TORNO_AUDIT_FOLDER", folder.to_str().expect("UTF-8"));
    site.add_users(&["ada", "bob"]);
    site.start();
    let ada = site.http("ada");
    let image = Image::new(&layer("kept"));
    image.push(&ada, REPOSITORY, "v").expect(201);
    disk.fill();
    // Until the last block of the file is full.
    let path = manifest_of(REPOSITORY, "none");
    let refused = wait_until("the record is full", || {
        let answer = ada.delete(&path);
        (answer.status != 404).then_some(answer)
    });
    let message = refused.expect_error(507, "UNKNOWN");
    assert!(message.contains("disk is full"), "{message}");
    ada.delete(&manifest_of(REPOSITORY, "v")).expect_error(507, "UNKNOWN");
    ada.delete(&manifest_of(REPOSITORY, &image.digest())).expect_error(507, "UNKNOWN");
    ada.delete(&format!("/v2/{REPOSITORY}/blobs/{}", sha256(&image.config))).expect_error(507, "UNKNOWN");
    image.push(&ada, REPOSITORY, "w").expect_error(507, "UNKNOWN");
    // A line of another process may be short enough for what is left of the block.
    let mut number = 0;
    let unrecorded = wait_until("no line fits any more", || {
        number += 1;
        let name = format!("eve{number}");
        let added = site.torno_with_input(&["user", "add", &name, "--password-stdin"], "secret");
        (!added.status.success()).then_some(name)
    });
    assert!(site.torno_ok(&["user", "list"]).lines().all(|user| user != unrecorded), "{unrecorded}");
    // All of it is there, and pulls go on.
    let pulled = ada.get(&manifest_of(REPOSITORY, "v")).expect(200).clone();
    ada.get(&format!("/v2/{REPOSITORY}/blobs/{}", sha256(&image.config))).expect(200);
    site.torno_ok(&["audit", "verify"]);

    disk.make_room();
    image.push(&ada, REPOSITORY, "w").expect(201);
    ada.delete(&manifest_of(REPOSITORY, "w")).expect(202);
    line_of(&site, &pulled, "ada", event("pull"));
    let gap = line(&site, &event("gap"));
    assert!(gap["unrecorded"] == 0 && gap["since"].is_string(), "{gap}");
    is_whole(&site);
}

#[test]
fn a_backup_has_the_record_and_a_restored_one_goes_on() {
    let mut site = site(&[]);
    Image::new(&layer("kept")).push(&site.http("ada"), REPOSITORY, "v").expect(201);
    let head = site.torno_ok(&["audit", "head"]);
    let head = head.trim().rsplit_once(' ').expect("a hash").1;
    let backup = site.path("backup");
    site.torno_ok(&["backup", backup.to_str().expect("UTF-8")]);
    line(&site, &event("backed_up"));
    site.stop();
    fs::rename(site.path("registry-data"), site.path("lost")).expect("moved");
    site.torno_ok(&["restore", backup.to_str().expect("UTF-8")]);
    site.torno_ok(&["audit", "verify", "--head", head]);
    line(&site, &event("backed_up"));
    line(&site, &event("restored"));
    assert!(show(&site, &["--event", "stopped"]).is_empty(), "that came later");
    site.start();
    site.http("ada").delete(&manifest_of(REPOSITORY, "v")).expect(202);
    is_whole(&site);
}

#[test]
fn people_read_it_without_json() {
    let site = site(&[]);
    let ada = site.http("ada");
    Image::new(&layer("told")).push(&ada, "run/heart/a", "1").expect(201);
    line(&site, &event("run_queued"));
    let told = site.torno_ok(&["audit", "show", "--project", "heart", "--since", "1h"]);
    let queued = told.lines().find(|line| line.contains("run_queued")).expect("a line");
    assert!(
        queued.contains("ada (password) 127.0.0.1") && queued.contains("repository=run/heart/a"),
        "{queued}"
    );
    assert!(site.torno_ok(&["audit", "show", "--until", "1h"]).is_empty());
    assert!(site.torno_ok(&["audit", "show", "--user", "eve"]).is_empty());
    // A line that somebody has put there commands no terminal.
    let path = files(&site.path("registry-data/audit")).pop().expect("a file");
    let mut bytes = fs::read(&path).expect("read");
    bytes.extend_from_slice(b"\x1b[2J\n");
    fs::write(&path, bytes).expect("write");
    let shown = site.torno(&["audit", "show"]);
    assert!(!shown.stdout.contains(&0x1b) && !shown.stderr.contains(&0x1b));
    assert!(String::from_utf8_lossy(&shown.stderr).contains("1 lines are not what was written"));
}
