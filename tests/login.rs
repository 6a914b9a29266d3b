//! Who someone is and what they may do, from outside.

use torno_tests::{Answer, Http, Image, NO_ENGINE, OCI_IMAGE, PROJECTS, Site, layer, sha256};

/// A site with both projects, whose runs stay queued.
fn site() -> Site {
    let mut site =
        Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE).with("TORNO_RESULTS_WAIT", "0s");
    site.add_users(&["ada", "bob", "cora", "eve", "admin", "nobody"]);
    site.start();
    site
}

/// An answer as far as two people may compare it: all but the request's id, the date and the name asked for.
fn seen(answer: &Answer, name: &str) -> (u16, Vec<(String, String)>, String) {
    let plain = |text: &str| text.replace(name, "NAME");
    let skipped = ["x-request-id", "date"];
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !skipped.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), plain(value.to_str().expect("ASCII"))))
        .collect();
    headers.sort();
    (answer.status, headers, plain(&String::from_utf8_lossy(&answer.body)))
}

#[test]
fn everything_asks_for_a_login() {
    let site = Site::start_with("", &["ada"]);
    let image = Image::new(&layer("login"));
    image.push(&site.http("ada"), "tools/x", "v").expect(201);
    let upload = site.http("ada").begin_upload("tools/x");
    let blob = format!("/v2/tools/x/blobs/{}", sha256(&image.config));
    let requests = [
        ("GET", "/v2/"),
        ("GET", "/v2"),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/tools/x/tags/list"),
        ("GET", "/v2/tools/x/manifests/v"),
        ("PUT", "/v2/tools/x/manifests/v"),
        ("DELETE", "/v2/tools/x/manifests/v"),
        ("GET", &blob),
        ("DELETE", &blob),
        ("POST", "/v2/tools/x/blobs/uploads/"),
        ("GET", &upload),
        ("PATCH", &upload),
        ("PUT", &upload),
        ("DELETE", &upload),
        ("GET", "/v2/no%20such/path"),
        ("BREW", "/v2/"),
    ];
    let refused = |who: &Http, method: &str, path: &str| {
        let answer = who.send(method, path, &[], b"");
        answer.expect_error(401, "UNAUTHORIZED");
        assert!(answer.header("www-authenticate").starts_with("Bearer realm="), "{method} {path}");
    };
    for (method, path) in requests {
        refused(&site.anonymous(), method, path);
    }
    // Each of these costs the server a bcrypt, so only a few.
    for (user, password) in [("ada", "wrong"), ("eve", "pw-ada"), ("", "")] {
        for (method, path) in [("GET", "/v2/"), ("GET", "/v2/tools/x/manifests/v"), ("PATCH", &upload)] {
            refused(&site.http_with(user, password), method, path);
        }
    }
    for odd in ["Bearer abc", "Basic", "Basic !!!", "Basic YWRh", ""] {
        let answer = site.anonymous().send("GET", "/v2/", &[("authorization", odd)], b"");
        answer.expect_error(401, "UNAUTHORIZED");
        assert!(answer.header("www-authenticate").starts_with("Bearer realm="), "{odd}");
    }
    let wrong = seen(&site.http_with("ada", "wrong").get("/v2/"), "-");
    assert_eq!(seen(&site.http_with("eve", "wrong").get("/v2/"), "-"), wrong, "who exists is not told");
    site.http("ada").get("/v2/tools/x/manifests/v").expect(200);
    site.http("ada").get(&upload).expect(204);
}

#[test]
fn users_change_without_a_restart() {
    let site = Site::start_with("", &["ada"]);
    site.http("ada").get("/v2/").expect(200);
    let changed = site.torno_with_input(&["user", "passwd", "ada", "--password-stdin"], "another");
    assert!(changed.status.success());
    site.http("ada").get("/v2/").expect(401);
    site.http_with("ada", "another").get("/v2/").expect(200);
    site.add_users(&["bob"]);
    site.http("bob").get("/v2/").expect(200);
    site.torno_ok(&["user", "remove", "ada"]);
    site.http_with("ada", "another").get("/v2/").expect(401);
}

#[test]
fn membership_decides() {
    let site = site();
    let image = Image::new(&layer("membership"));
    image.push(&site.http("ada"), "run/heart/x", "v").expect(201);

    // Pushing to a repository of ada's, to new ones of heart, and to one outside the projects.
    for (who, theirs, new, outside) in [
        ("ada", 202, 202, 202),
        ("bob", 403, 202, 202),
        ("cora", 403, 403, 202),
        ("eve", 403, 403, 202),
        ("admin", 403, 403, 202),
        ("nobody", 403, 403, 202),
    ] {
        let http = site.http(who);
        let begin = |name: String| http.post(&format!("/v2/{name}/blobs/uploads/"));
        for (name, status) in [
            ("run/heart/x".into(), theirs),
            (format!("run/heart/{who}"), new),
            (format!("try/heart/{who}"), new),
            (format!("{who}/x"), outside),
        ] {
            let answer = begin(name);
            assert_eq!(answer.status, status, "{who}: {}", String::from_utf8_lossy(&answer.body));
            if status == 403 {
                answer.expect_error(403, "DENIED");
            }
        }
        for name in ["results/heart/x", "results/heart/new", "run/heart", "samples/heart"] {
            begin(name.into()).expect_error(403, "DENIED");
            http.push_manifest(name, "v", OCI_IMAGE, &image.manifest()).expect_error(403, "DENIED");
        }
    }
    assert_eq!(site.runs(), 1);

    // Pulling ada's image and the result that is not there yet.
    for (who, image_status, result_code) in [
        ("ada", 200, "MANIFEST_UNKNOWN"),
        ("bob", 404, "NAME_UNKNOWN"),
        ("cora", 200, "MANIFEST_UNKNOWN"),
        ("eve", 404, "NAME_UNKNOWN"),
        ("admin", 404, "NAME_UNKNOWN"),
        ("nobody", 404, "NAME_UNKNOWN"),
    ] {
        let http = site.http(who);
        assert_eq!(http.get("/v2/run/heart/x/manifests/v").status, image_status, "{who}");
        assert_eq!(http.get("/v2/run/heart/x/tags/list").status, image_status, "{who}");
        let blob = format!("/v2/run/heart/x/blobs/{}", sha256(&image.config));
        assert_eq!(http.get(&blob).status, image_status, "{who}");
        http.get("/v2/results/heart/x/manifests/v").expect_error(404, result_code);
    }
}

#[test]
fn researchers_may_share_if_their_project_says_so() {
    let projects = PROJECTS.replacen("custodians", "visibility = \"project\"\ncustodians", 1);
    let mut site = Site::new(&projects).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada", "bob", "eve"]);
    site.start();
    Image::new(&layer("shared")).push(&site.http("ada"), "run/heart/x", "v").expect(201);
    site.http("bob").get("/v2/run/heart/x/manifests/v").expect(200);
    site.http("bob").post("/v2/run/heart/x/blobs/uploads/").expect_error(403, "DENIED");
    site.http("eve").get("/v2/run/heart/x/manifests/v").expect_error(404, "NAME_UNKNOWN");
}

#[test]
fn unknown_and_forbidden_look_alike() {
    let site = site();
    let image = Image::new(&layer("alike"));
    let (config, manifest) = (sha256(&image.config), image.digest());
    let upload = {
        let ada = site.http("ada");
        image.push(&ada, "run/heart/aaaa", "v").expect(201);
        image.push(&ada, "tool/aaaa", "v").expect(201);
        ada.begin_upload("tool/aaaa").rsplit('/').next().expect("an id").to_owned()
    };
    for (known, unknown) in [
        ("run/heart/aaaa", "run/heart/bbbb"),
        ("results/heart/aaaa", "results/heart/bbbb"),
        ("tool/aaaa", "tool/bbbb"),
    ] {
        for who in ["bob", "eve", "nobody"] {
            let http = site.http(who);
            for (method, rest) in [
                ("GET", "manifests/v".to_owned()),
                ("HEAD", "manifests/v".to_owned()),
                ("GET", format!("manifests/{manifest}")),
                ("GET", format!("blobs/{config}")),
                ("HEAD", format!("blobs/{config}")),
                ("GET", "tags/list".to_owned()),
                ("GET", format!("referrers/{manifest}")),
                ("DELETE", "manifests/v".to_owned()),
                ("DELETE", format!("manifests/{manifest}")),
                ("DELETE", format!("blobs/{config}")),
            ] {
                let ask =
                    |name: &str| seen(&http.send(method, &format!("/v2/{name}/{rest}"), &[], b""), name);
                let (forbidden, not_there) = (ask(known), ask(unknown));
                assert_eq!(forbidden, not_there, "{who}: {method} {known}/{rest}");
                // The specification allows no 404 for referrers; the list is empty.
                let status = if rest.starts_with("referrers/") { 200 } else { 404 };
                assert_eq!(forbidden.0, status, "{who}: {method} {known}/{rest}");
            }
        }
    }
    // A project one is not in and a project there is none of.
    let eve = site.http("eve");
    let ask = |project: &str| seen(&eve.post(&format!("/v2/run/{project}/x/blobs/uploads/")), project);
    assert_eq!(ask("heart"), ask("stone"));
    // What is left is as it was.
    site.http("ada").get("/v2/tool/aaaa/manifests/v").expect(200);
    site.http("ada").get(&format!("/v2/tool/aaaa/blobs/uploads/{upload}")).expect(204);
}

#[test]
fn a_denied_push_names_the_projects_one_has() {
    let site = site();
    for project in ["liver", "nowhere"] {
        let denied = site.http("ada").post(&format!("/v2/run/{project}/x/blobs/uploads/"));
        let message = denied.expect_error(403, "DENIED");
        assert!(message.contains("run/heart/<name>:<tag>"), "{message}");
        assert!(!message.contains("run/liver/<name>"), "{message}");
    }
    let message = site.http("nobody").post("/v2/run/heart/x/blobs/uploads/").expect_error(403, "DENIED");
    assert!(!message.contains("liver") && message.contains("no project"), "{message}");
}

#[test]
fn an_upload_belongs_to_who_began_it() {
    let site = site();
    // Both may push to it: it is bob's, and the admin may push anywhere outside the projects.
    site.http("bob").push_blob("shared/x", b"so that it is bob's");
    let location = site.http("bob").begin_upload("shared/x");
    let elsewhere = location.replace("shared/x", "shared/y");
    site.http("bob").push_blob("shared/y", b"so that this is bob's too");
    let digest = sha256(b"01234");
    let try_all = |who: &Http, location: &str| {
        for (method, path) in [
            ("GET", location.to_owned()),
            ("PATCH", location.to_owned()),
            ("PUT", format!("{location}?digest={digest}")),
            ("DELETE", location.to_owned()),
        ] {
            who.send(method, &path, &[], b"").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
        }
    };
    try_all(&site.http("admin"), &location);
    try_all(&site.http("bob"), &elsewhere);
    site.http("bob").send("PUT", &format!("{location}?digest={digest}"), &[], b"01234").expect(201);
}

#[test]
fn knowing_a_digest_grants_nothing() {
    let site = site();
    let (ada, eve) = (site.http("ada"), site.http("eve"));
    let image = Image::new(&layer("ada's own"));
    image.push(&ada, "run/heart/x", "v").expect(201);
    image.push(&ada, "ada/x", "v").expect(201);
    let layer = sha256(&image.layers[0]);

    for name in ["run/heart/x", "ada/x"] {
        eve.get(&format!("/v2/{name}/blobs/{layer}")).expect_error(404, "NAME_UNKNOWN");
        eve.delete(&format!("/v2/{name}/blobs/{layer}")).expect_error(404, "NAME_UNKNOWN");
        eve.post(&format!("/v2/eve/x/blobs/uploads/?mount={layer}&from={name}")).expect(202);
    }
    eve.push_blob("eve/x", &image.config);
    eve.get(&format!("/v2/eve/x/blobs/{layer}")).expect_error(404, "BLOB_UNKNOWN");
    let named = eve.push_manifest("eve/x", "v", OCI_IMAGE, &image.manifest());
    named.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    let list = torno_tests::index(torno_tests::OCI_INDEX, &[(&image.manifest(), Image::HERE)]);
    let named = eve.push_manifest("eve/x", "all", torno_tests::OCI_INDEX, &list);
    named.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    for name in ["run/heart/x", "ada/x"] {
        ada.get(&format!("/v2/{name}/blobs/{layer}")).expect(200);
    }
}
