//! Quotas: what people and projects may keep.

use std::{fs, thread};

use torno_tests::{Answer, Http, Image, NO_ENGINE, Site, layer, sha256, wait_until};

const PROJECTS: &str =
    "[projects.heart]\nresearchers = [\"ada\", \"bob\"]\nquota = { bytes = \"2MiB\", repositories = 2 }\n";

fn site() -> Site {
    let mut site = Site::new(PROJECTS)
        .with("TORNO_EXECUTOR_ENGINE", NO_ENGINE)
        .with("TORNO_QUOTAS_USER_BYTES", "3MiB")
        .with("TORNO_QUOTAS_USER_REPOSITORIES", "3");
    site.add_users(&["ada", "bob", "admin"]);
    site.start();
    site
}

/// Most of a mebibyte.
fn large(seed: &str) -> Vec<u8> {
    seed.bytes().cycle().take(1_000_000).collect()
}

/// Pushes a blob; the answer.
fn push(http: &Http, repository: &str, bytes: &[u8]) -> Answer {
    let location = http.begin_upload(repository);
    let headers = [("content-type", "application/octet-stream")];
    http.send("PUT", &format!("{location}?digest={}", sha256(bytes)), &headers, bytes)
}

#[test]
fn whoever_has_no_room_is_told_how_much_there_is() {
    let site = site();
    let (ada, bob) = (site.http("ada"), site.http("bob"));
    for seed in ["a", "b", "c"] {
        push(&ada, "tools/x", &large(seed)).expect(201);
    }
    let message = push(&ada, "tools/x", &large("d")).expect_error(403, "DENIED");
    assert!(message.contains("ada has used 2.9 MiB of the 3.0 MiB allowed"), "{message}");
    assert!(message.contains("needs 976.6 KiB more"), "{message}");
    assert_eq!(site.upload_bytes(), 0, "what was refused takes no room");
    ada.get(&format!("/v2/tools/x/blobs/{}", sha256(&large("d")))).expect(404);

    // What is there already costs nothing, in whatever repository of theirs.
    push(&ada, "tools/x", &large("a")).expect(201);
    push(&ada, "tools/y", &large("b")).expect(201);
    let mount = format!("/v2/tools/y/blobs/uploads/?mount={}&from=tools/x", sha256(&large("c")));
    ada.post(&mount).expect(201);
    // A little fits still.
    let image = Image::new(&layer("small"));
    image.push(&ada, "tools/x", "v").expect(201);
    image.push(&ada, "tools/x", "w").expect(201);
    // Others have a quota of their own, and admins none.
    push(&bob, "tools/z", &large("d")).expect(201);
    for seed in ["a", "b", "c", "d"] {
        push(&site.http("admin"), "tools/all", &large(seed)).expect(201);
    }

    // Room is back once none of their repositories has it.
    for repository in ["tools/x", "tools/y"] {
        ada.delete(&format!("/v2/{repository}/blobs/{}", sha256(&large("b"))));
    }
    push(&ada, "tools/x", &large("d")).expect(201);
    push(&ada, "tools/x", &large("b")).expect_error(403, "DENIED");
}

#[test]
fn repositories_are_counted_too() {
    let site = site();
    let ada = site.http("ada");
    for number in 0..3 {
        push(&ada, &format!("tools/x{number}"), b"small").expect(201);
    }
    let message = push(&ada, "tools/x3", b"small").expect_error(403, "DENIED");
    assert!(message.contains("ada has 3 of the 3 repositories allowed"), "{message}");
    push(&ada, "tools/x1", b"another").expect(201);
}

#[test]
fn a_project_is_charged_for_all_its_people_and_may_get_more() {
    let site = site();
    let (ada, bob) = (site.http("ada"), site.http("bob"));
    push(&ada, "run/heart/x", &large("a")).expect(201);
    push(&bob, "run/heart/y", &large("b")).expect(201);
    // Shared, so counted once.
    push(&bob, "run/heart/y", &large("a")).expect(201);
    let message = push(&bob, "run/heart/y", &large("c")).expect_error(403, "DENIED");
    assert!(message.contains("project `heart` has used 1.9 MiB of the 2.0 MiB allowed"), "{message}");
    let message = push(&bob, "run/heart/z", b"small").expect_error(403, "DENIED");
    assert!(message.contains("project `heart` has 2 of the 2 repositories"), "{message}");
    push(&bob, "tools/z", &large("c")).expect(201);
    let file = site.path("torno.toml");
    let text = fs::read_to_string(&file).expect("read");
    fs::write(&file, text.replace("bytes = \"2MiB\"", "bytes = \"1GiB\"")).expect("write");
    site.signal("HUP");
    wait_until("there is room", || (push(&bob, "run/heart/y", &large("c")).status == 201).then_some(()));
}

/// Sends bytes to a session, which go on where it is.
fn send(http: &Http, location: &str, bytes: &[u8]) -> Answer {
    http.send("PATCH", location, &[("content-type", "application/octet-stream")], bytes)
}

#[test]
fn uploads_under_way_count_until_they_end() {
    let mut site = site();
    let (ada, bob) = (site.http("ada"), site.http("bob"));
    push(&ada, "tools/x", &large("kept")).expect(201);
    let sessions: Vec<String> = (0..3).map(|_| ada.begin_upload("tools/x")).collect();
    for session in &sessions[..2] {
        send(&ada, session, &large("u")).expect(202);
    }
    let message = send(&ada, &sessions[2], &large("u")).expect_error(403, "DENIED");
    assert!(message.contains("ada has used 2.9 MiB of the 3.0 MiB allowed"), "{message}");
    assert!(message.contains("needs 976.6 KiB more"), "{message}");
    ada.get(&sessions[2]).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(site.upload_bytes(), 2_000_000, "what was refused takes no room");
    push(&ada, "tools/x", &large("new")).expect_error(403, "DENIED");
    // What is kept already is sent again beside all that.
    push(&ada, "tools/x", &large("kept")).expect(201);
    push(&bob, "tools/z", &large("new")).expect(201);

    // One that is cancelled gives its room back, and so does one that becomes what it was for.
    ada.delete(&sessions[0]).expect(204);
    send(&ada, &ada.begin_upload("tools/x"), &large("u")).expect(202);
    let end = format!("{}?digest={}", sessions[1], sha256(&large("u")));
    ada.send("PUT", &end, &[], &[]).expect(201);
    push(&ada, "tools/x", &large("new")).expect_error(403, "DENIED");

    // A server that starts knows of an upload again when its next bytes come.
    site.stop();
    site.start();
    let ada = site.http("ada");
    let session = ada.begin_upload("tools/x");
    send(&ada, &session, &large("u")).expect(202);
    site.kill();
    site.start();
    let ada = site.http("ada");
    send(&ada, &session, &large("v")).expect_error(403, "DENIED");
}

#[test]
fn pushes_at_the_same_time_find_no_more_room_than_one() {
    let site = site();
    let ada = site.http("ada");
    let together = |push: &(dyn Fn(usize) -> u16 + Sync)| {
        let statuses: Vec<u16> = thread::scope(|scope| {
            let pushes: Vec<_> = (0..8).map(|number| scope.spawn(move || push(number))).collect();
            pushes.into_iter().map(|push| push.join().expect("an answer")).collect()
        });
        assert!(statuses.iter().all(|status| [201, 403].contains(status)), "{statuses:?}");
        (0..8).filter(|number| statuses[*number] == 201).collect::<Vec<_>>()
    };
    let opened = together(&|number| push(&ada, &format!("tools/x{number}"), b"small").status);
    assert_eq!(opened.len(), 3, "of three repositories");
    let name = format!("tools/x{}", opened[0]);
    let stored = together(&|number| push(&ada, &name, &large(&number.to_string())).status);
    assert!((1..=3).contains(&stored.len()), "{stored:?} of three mebibytes");
    assert!(site.blob_bytes() <= 3 << 20, "{} bytes", site.blob_bytes());
}
