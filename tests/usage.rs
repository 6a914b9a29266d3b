//! `torno df`: how much there is and whose it is.

use serde_json::{Value, json};
use torno_tests::{Image, NO_ENGINE, PROJECTS, Site, layer};

fn df(site: &Site) -> Value {
    serde_json::from_str(&site.torno_ok(&["df", "--json"])).expect("JSON")
}

/// The row of a table whose `key` is `name`.
#[track_caller]
fn row<'a>(usage: &'a Value, table: &str, key: &str, name: &str) -> &'a Value {
    let rows = usage[table].as_array().expect("a table");
    rows.iter().find(|row| row[key] == name).unwrap_or_else(|| panic!("no {name} in {usage}"))
}

#[test]
fn what_is_there_is_told_by_whose_it_is() {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada", "eve"]);
    site.start();
    assert_eq!(df(&site)["all"]["logical"], 0, "nothing yet");

    // A large layer, which goes to its file, that all have, and a small one for each.
    let base: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let image = |own: &str| {
        let mut image = Image::new(&base);
        image.layers.push(layer(own));
        image
    };
    let pushed = [("ada", "run/heart/x", "a"), ("eve", "run/liver/x", "bb"), ("eve", "tools/x", "ccc")];
    let images = pushed.map(|(user, repository, own)| {
        let image = image(own);
        image.push(&site.http(user), repository, "v").expect(201);
        (image, own)
    });
    let measured = |(image, own): &(Image, &str)| {
        let small = image.config.len() + image.manifest().len() + own.len() * 100;
        (base.len() + small, small)
    };
    // The config is alike for all.
    let config = images[0].0.config.len();
    let sizes: Vec<(usize, usize)> = images.iter().map(measured).collect();
    let logical: usize = sizes.iter().map(|(whole, _)| whole).sum();
    let stored = logical - 2 * (base.len() + config);

    let usage = df(&site);
    let all = &usage["all"];
    assert_eq!((&all["logical"], &all["onDisk"]), (&json!(logical), &json!(stored)));
    assert_eq!(all["saved"], logical - stored);
    assert_eq!(usage["onDisk"], stored);
    let run = row(&usage, "namespaces", "namespace", "run");
    assert_eq!(run["repositories"], 2);
    assert_eq!(run["saved"], base.len() + config);
    let heart = row(&usage, "projects", "project", "heart");
    assert_eq!((&heart["logical"], &heart["unshared"]), (&json!(sizes[0].0), &json!(sizes[0].1 - config)));
    let eve = row(&usage, "users", "user", "eve");
    assert_eq!(eve["logical"], sizes[1].0 + sizes[2].0);
    assert_eq!(eve["onDisk"], sizes[1].0 + sizes[2].1 - config);
    assert_eq!(row(&usage, "repositories", "repository", "tools/x")["logical"], sizes[2].0);
    assert_eq!(usage["garbage"], json!({"blobs": 0, "bytes": 0}));

    let eve = site.http("eve");
    eve.delete(&format!("/v2/tools/x/manifests/{}", images[2].0.digest())).expect(202);
    assert_eq!(df(&site)["garbage"], json!({"blobs": 1, "bytes": 300}), "the others need the rest");
    site.torno_ok(&["gc"]);
    let usage = df(&site);
    assert_eq!(usage["garbage"], json!({"blobs": 0, "bytes": 0}));
    assert_eq!(usage["onDisk"], stored - (sizes[2].1 - config));

    let location = eve.begin_upload("tools/y");
    assert_eq!(df(&site)["uploads"], json!({"sessions": 0, "bytes": 0}), "not a byte has come");
    eve.send("PATCH", &location, &[("content-type", "application/octet-stream")], &[7; 5000]).expect(202);
    assert_eq!(df(&site)["uploads"], json!({"sessions": 1, "bytes": 5000}));
}

#[test]
fn people_read_tables() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    for number in 0..3 {
        Image::new(&layer("layer")).push(&ada, &format!("tools/x{number}"), "v").expect(201);
    }
    let text = site.torno_ok(&["df", "--limit", "2"]);
    let line = |start: &str| {
        let found = text.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in {text}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("3 repositories hold")[..2], ["3", "repositories"]);
    assert_eq!(line("tools ")[1], "3");
    assert_eq!(line("ada ")[1], "3");
    assert!(text.contains("tools/x1 ") && !text.contains("tools/x2"), "{text}");
    assert!(text.contains("and 1 more"), "{text}");
    assert!(!text.contains("PROJECT"), "there is none: {text}");
}
