//! Attacks that once worked.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};
use torno_tests::{Image, NO_ENGINE, OCI_IMAGE, PROJECTS, Site, layer, sha256};

fn site() -> Site {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada"]);
    site.start();
    site
}

/// An engine written in Go reads `volumes` as `Volumes`; whoever looks for `Volumes` alone has checked nothing: the
/// run would have a volume of the host's disk without a limit, and `LD_PRELOAD`.
#[test]
fn an_image_cannot_hide_its_wishes_behind_capitals() {
    let site = site();
    let ada = site.http("ada");
    let config = json!({
        "Cmd": ["/bin/sh"],
        "volumes": {"/data": {}}, "env": ["LD_PRELOAD=/x"], "workingdir": "/proc/self/fd",
    });
    let hidden = Image::with_config(&layer("hidden"), &config);
    let message = hidden.push(&ada, "run/heart/hidden", "1").expect_error(400, "MANIFEST_INVALID");
    assert!(message.contains("spelled almost like"), "{message}");

    // The same with a second configuration, which is one of the image's own layers.
    let mut plain = Image::new(&layer("plain"));
    plain.layers.push(hidden.config.clone());
    plain.push(&ada, "run/heart/plain", "1").expect(201);
    let mut manifest: Value = serde_json::from_slice(&plain.manifest()).expect("JSON");
    manifest["Config"] = json!({
        "mediaType": manifest["config"]["mediaType"], "digest": sha256(&hidden.config), "size": hidden.config.len(),
    });
    let bytes = manifest.to_string().into_bytes();
    ada.push_manifest("run/heart/plain", "2", OCI_IMAGE, &bytes).expect_error(400, "MANIFEST_INVALID");
    assert_eq!(site.runs(), 1);
}

/// Some engines fetch a layer from the addresses its descriptor names, whoever may be there.
#[test]
fn an_image_cannot_send_the_engine_elsewhere() {
    let site = site();
    let ada = site.http("ada");
    let image = Image::new(&layer("elsewhere"));
    image.push(&ada, "run/heart/x", &image.digest()).expect(201);
    for path in ["/config", "/layers/0"] {
        let mut manifest: Value = serde_json::from_slice(&image.manifest()).expect("JSON");
        manifest.pointer_mut(path).expect("descriptor")["urls"] = json!(["http://127.0.0.1/"]);
        let bytes = manifest.to_string().into_bytes();
        let message =
            ada.push_manifest("run/heart/x", "1", OCI_IMAGE, &bytes).expect_error(400, "MANIFEST_INVALID");
        assert!(message.contains("urls"), "{message}");
    }
    assert_eq!(site.runs(), 0);
}

/// There is room for so many connections; those that say nothing must not take it from others. None of these has
/// logged in.
#[test]
fn silent_connections_are_closed() {
    let mut site = Site::new("").with("TORNO_LISTEN_HEADER_TIMEOUT", "2s");
    site.start();
    let connect = |said: &[u8]| {
        let mut stream = TcpStream::connect(site.host()).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_mins(1))).expect("a timeout");
        stream.write_all(said).expect("the server reads");
        stream
    };
    // Nothing at all; half a head; a whole request and nothing behind it; the beginning of HTTP/2.
    let said: [&[u8]; 4] = [
        b"",
        b"GET /v2/ HTTP/1.1\r\nhost: x\r\n",
        b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ];
    for mut silent in said.map(connect) {
        // To its end: it comes within the minute, or this fails.
        silent.read_to_end(&mut Vec::new()).expect("closed by the server");
    }
}

/// Sessions that were begun and left must not use up the descriptors of the process.
#[test]
fn resting_uploads_hold_no_descriptors() {
    let site = site();
    let ada = site.http("ada");
    let open = || fs::read_dir(format!("/proc/{}/fd", site.pid())).expect("a process").count();
    ada.get("/v2/").expect(200);
    let before = open();
    for _ in 0..50 {
        let location = ada.begin_upload("run/heart/x");
        ada.send("PATCH", &location, &[], b"x").expect(202);
    }
    assert!(open() < before + 25, "{before} descriptors before, {} after", open());
}

/// A page of referrers is made from what their manifests say of themselves; many large ones must not all be in memory
/// at once.
#[test]
fn many_large_referrers_come_in_pages() {
    const MANY: usize = 4;
    let site = site();
    let ada = site.http("ada");
    let image = Image::new(&layer("subject"));
    image.push(&ada, "run/heart/x", &image.digest()).expect(201);
    let mut manifest: Value = serde_json::from_slice(&image.manifest()).expect("JSON");
    let subject = image.digest();
    manifest["subject"] = json!({"mediaType": OCI_IMAGE, "digest": subject, "size": image.manifest().len()});
    for number in 0..MANY {
        manifest["annotations"] = json!({"number": number.to_string(), "text": "x".repeat(3 << 20)});
        let bytes = manifest.to_string().into_bytes();
        ada.push_manifest("run/heart/x", &sha256(&bytes), OCI_IMAGE, &bytes).expect(201);
    }
    let kind =
        manifest["config"]["mediaType"].as_str().expect("a type").replace('+', "%2B").replace('/', "%2F");
    let path = |filter: &str| format!("/v2/run/heart/x/referrers/{subject}{filter}");
    let none = ada.get(&path("?artifactType=no%20such%20%26"));
    assert_eq!(none.expect(200).json()["manifests"], json!([]));
    assert!(!none.headers.contains_key("link"), "there is nothing to go on to");
    for filter in [format!("?artifactType={kind}"), String::new()] {
        let mut path = path(&filter);
        let (mut pages, mut found) = (0, 0);
        loop {
            let answer = ada.get(&path);
            found += answer.expect(200).json()["manifests"].as_array().expect("a list").len();
            pages += 1;
            assert!(answer.body.len() < 5 << 20, "{} bytes", answer.body.len());
            let Some(link) = answer.headers.get("link") else { break };
            let link = link.to_str().expect("ASCII");
            assert_eq!(link.contains("artifactType"), !filter.is_empty());
            assert!(link.contains(filter.trim_start_matches('?')), "{link}");
            path = link.split(['<', '>']).nth(1).expect("a link").to_owned();
        }
        assert_eq!((pages, found), (MANY, MANY), "{filter}");
    }
}
