//! What the configuration's rules let go of, what they never touch, and that a dry run, the log and the programs that ask
//! are told the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use torno_tests::{
    Docker, Http, Image, NO_ENGINE, OCI_IMAGE, OCI_INDEX, Site, index, layer, sha256, wait_until,
};

const RULES: &str = "
[projects.heart]
researchers = ['ada']

[[retention]]
repositories = ['ci/**']
keep_newest = 2
keep_tags = ['v*', '*-final']

[[retention]]
repositories = ['used/*']
keep_pulled_within = '1h'

[[retention]]
repositories = ['bare/*', 'run/**']
delete_untagged_after = '1h'
";

/// A site whose server collects at its start, and then not for as long as a test takes.
fn site(rules: &str, engine: &str) -> Site {
    let mut site = Site::new(rules).with("TORNO_GC_INTERVAL", "1day");
    if !engine.is_empty() {
        site = site.with("TORNO_EXECUTOR_ENGINE", engine);
    }
    site.add_users(&["ada"]);
    site.start();
    site
}

/// Makes all that was pushed, pulled, untagged or run two hours older.
fn age(site: &Site) {
    let sql = "UPDATE tags SET moved_at = moved_at - 7200000, pulled_at = pulled_at - 7200000;
        UPDATE manifest_links SET pushed_at = pushed_at - 7200000, untagged_at = untagged_at - 7200000;
        UPDATE runs SET finished_at = finished_at - 7200000;";
    site.database().execute_batch(sql).expect("older");
}

fn push(http: &Http, repository: &str, tag: &str) -> Image {
    let image = Image::new(&layer(&format!("{repository}:{tag}")));
    image.push(http, repository, tag).expect(201);
    image
}

/// Pushes a manifest that speaks of another, without a tag; its digest.
fn push_signature(http: &Http, repository: &str, of: &Image) -> String {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "artifactType": "application/x-signature",
        "subject": {"mediaType": OCI_IMAGE, "digest": of.digest(), "size": of.manifest().len()},
    });
    let bytes = manifest.to_string().into_bytes();
    http.push_manifest(repository, &sha256(&bytes), OCI_INDEX, &bytes).expect(201);
    sha256(&bytes)
}

/// What `torno gc` tells of what went: each with its rule.
fn expired(site: &Site, arguments: &[&str], words: &str) -> BTreeSet<String> {
    let told = site.torno_ok(&[&["gc"], arguments].concat());
    told.lines().filter_map(|line| line.strip_prefix(words)).map(|line| line.trim().to_owned()).collect()
}

/// The same, as programs are told.
fn expired_json(site: &Site, arguments: &[&str]) -> BTreeSet<String> {
    let told = site.torno_ok(&[&["gc", "--json"], arguments].concat());
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let text = |one: &Value, key: &str| one[key].as_str().expect(key).to_owned();
    let line = |one: &Value| {
        let name = text(one, "name");
        let between = if name.contains(':') { '@' } else { ':' };
        format!("{}{between}{name}  {}", text(one, "repository"), text(one, "rule"))
    };
    told["expired"].as_array().expect("a list").iter().map(line).collect()
}

/// A collection lets go of these and of nothing else, and a dry run says so before.
fn lets_go_of(site: &Site, expected: &[String]) {
    let expected: BTreeSet<String> = expected.iter().cloned().collect();
    assert_eq!(expired(site, &["--dry-run"], "would expire"), expected);
    assert_eq!(expired_json(site, &["--dry-run"]), expected);
    assert_eq!(expired(site, &[], "expired"), expected);
    assert!(expired_json(site, &[]).is_empty(), "nothing twice");
}

fn has(http: &Http, repository: &str, reference: &str) -> bool {
    let answer = http.get(&format!("/v2/{repository}/manifests/{reference}"));
    assert!([200, 404].contains(&answer.status), "{}", answer.status);
    answer.status == 200
}

#[test]
fn a_tag_goes_that_meets_no_condition() {
    let mut site = site(RULES, NO_ENGINE);
    let ada = site.http("ada");
    for tag in ["v1", "old", "older-final", "new", "newest"] {
        push(&ada, "ci/deep/app", tag);
        push(&ada, "other/app", tag);
    }
    push(&ada, "used/app", "pulled");
    push(&ada, "used/app", "left");
    age(&site);
    push(&ada, "used/app", "pushed");
    assert!(has(&ada, "used/app", "pulled"));
    // A server notes at its end what was pulled, and before each collection of its own.
    site.stop();
    let rules = [
        "ci/deep/app:old  retention 1 (ci/**): not among the newest 2, not like v*, *-final",
        "used/app:left  retention 2 (used/*): not used for 1h",
    ];
    lets_go_of(&site, &rules.map(str::to_owned));
    site.start();
    let ada = site.http("ada");
    for tag in ["v1", "older-final", "new", "newest", "old"] {
        assert_eq!(has(&ada, "ci/deep/app", tag), tag != "old", "{tag}");
        assert!(has(&ada, "other/app", tag), "no rule speaks of {tag}");
    }
    for (tag, kept) in [("pulled", true), ("pushed", true), ("left", false)] {
        assert_eq!(has(&ada, "used/app", tag), kept, "{tag}");
    }
}

#[test]
fn a_manifest_without_a_tag_goes_unless_something_needs_it() {
    let site = site(RULES, NO_ENGINE);
    let ada = site.http("ada");
    let moved = push(&ada, "bare/app", "latest");
    let other = push(&ada, "elsewhere/app", "latest");
    for (repository, seed) in [("bare/app", "a newer one"), ("elsewhere/app", "a newer one")] {
        Image::new(&layer(seed)).push(&ada, repository, "latest").expect(201);
    }
    let child = Image::new(&layer("a child"));
    child.push(&ada, "bare/app", &child.digest()).expect(201);
    let all = index(OCI_INDEX, &[(&child.manifest(), Image::HERE)]);
    ada.push_manifest("bare/app", "all", OCI_INDEX, &all).expect(201);
    let signature = push_signature(&ada, "bare/app", &child);
    // Only what speaks of it has a name.
    let subject = Image::new(&layer("a subject"));
    subject.push(&ada, "bare/app", &subject.digest()).expect(201);
    let speaks = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [],
        "subject": {"mediaType": OCI_IMAGE, "digest": subject.digest(), "size": subject.manifest().len()},
    });
    ada.push_manifest("bare/app", "speaks", OCI_INDEX, speaks.to_string().as_bytes()).expect(201);
    // Its run waits for an engine.
    let running = push(&ada, "run/heart/x", "v");
    Image::new(&layer("another")).push(&ada, "run/heart/x", "v").expect(201);

    lets_go_of(&site, &[]);
    age(&site);
    let rule = "retention 3 (bare/*, run/**): no tag for 1h";
    lets_go_of(&site, &[format!("bare/app@{}  {rule}", moved.digest())]);
    for digest in [child.digest(), signature, subject.digest(), sha256(&all)] {
        assert!(has(&ada, "bare/app", &digest), "{digest}");
    }
    assert!(has(&ada, "elsewhere/app", &other.digest()));
    assert!(has(&ada, "run/heart/x", &running.digest()));

    let ended = site.database().execute(
        "UPDATE runs SET state = 'done', outcome = '{\"kind\":\"succeeded\"}', finished_at = 0 WHERE image = ?1",
        [running.digest()],
    );
    assert_eq!(ended.expect("ended"), 1);
    lets_go_of(&site, &[format!("run/heart/x@{}  {rule}", running.digest())]);
}

#[test]
fn the_server_s_own_collection_logs_each_rule() {
    let mut site = site(RULES, NO_ENGINE);
    let ada = site.http("ada");
    for tag in ["one", "two", "three"] {
        push(&ada, "ci/app", tag);
    }
    let before = site.log().len();
    site.stop();
    site.start();
    let line = wait_until("the collection at the start", || {
        let log = site.log();
        log.get(before..)?.lines().find(|line| line.contains("expired repository=")).map(str::to_owned)
    });
    for part in
        ["repository=ci/app", "what=one", "rule=retention 1 (ci/**): not among the newest 2, not like v*"]
    {
        assert!(line.contains(part), "{line}");
    }
    assert!(!has(&site.http("ada"), "ci/app", "one"));
}

#[test]
fn images_go_after_their_runs_as_their_project_says() {
    let projects = ["none", "last", "1h"].map(|keep| {
        format!("[projects.keep-{keep}]\nresearchers = ['ada']\nlimits = {{ memory = '64MiB', time = '1m' }}\nkeep_images = '{keep}'\n")
    });
    let site = site(&projects.concat(), "");
    let (ada, docker) = (site.http("ada"), Docker::login(&site, "ada"));
    for keep in ["none", "last", "1h"] {
        for tag in ["1", "2"] {
            docker.run(&format!("keep-{keep}/x:{tag}"), &format!("echo {keep} {tag} > /output/said"));
            docker.pull_result(&format!("keep-{keep}/x:{tag}"));
        }
    }
    let gone = |keep: &str, tag: &str| {
        format!("run/keep-{keep}/x:{tag}  projects.keep-{keep}.keep_images = \"{keep}\"")
    };
    lets_go_of(&site, &[gone("none", "1"), gone("none", "2"), gone("last", "1")]);
    age(&site);
    lets_go_of(&site, &[gone("1h", "1"), gone("1h", "2")]);
    for keep in ["none", "last", "1h"] {
        for tag in ["1", "2"] {
            assert_eq!(
                has(&ada, &format!("run/keep-{keep}/x"), tag),
                (keep, tag) == ("last", "2"),
                "{keep} {tag}"
            );
            assert!(has(&ada, &format!("results/keep-{keep}/x"), tag), "results are kept");
        }
    }
}
