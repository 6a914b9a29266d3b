//! The queue: who may add to it, and what of it runs.

use torno_tests::{Docker, Image, NO_ENGINE, Site, layer, wait_until};

const LIMITED: &str = "[projects.heart]\nresearchers = [\"ada\", \"bob\"]\nquota = { daily_runs = 4 }\n\
    [projects.liver]\nresearchers = [\"ada\", \"eve\"]\nrerun = \"changed\"\n";

fn idle(extra: &str, variables: &[(&str, &str)], users: &[&str]) -> Site {
    let mut site = Site::new(extra).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE).with("TORNO_RESULTS_WAIT", "0s");
    for (variable, value) in variables {
        site = site.with(variable, value);
    }
    site.add_users(users);
    site.start();
    site
}

#[test]
fn whoever_has_too_many_runs_is_told_at_the_push_and_nothing_changes() {
    let site = idle(LIMITED, &[("TORNO_QUOTAS_USER_QUEUED_RUNS", "3")], &["ada", "bob", "eve"]);
    let (ada, bob) = (site.http("ada"), site.http("bob"));
    let image = Image::new(&layer("one"));
    for tag in ["1", "2", "3"] {
        image.push(&ada, "run/heart/x", tag).expect(201);
    }
    let refused = Image::new(&layer("two")).push(&ada, "run/heart/x", "1");
    let message = refused.expect_error(429, "TOOMANYREQUESTS");
    assert!(message.starts_with("ada has 3 of at most 3 runs in the queue; push again when"), "{message}");
    assert!(!refused.headers.contains_key("retry-after"), "time alone makes no room");
    assert_eq!(ada.get("/v2/run/heart/x/manifests/1").expect(200).body, image.manifest(), "the tag stays");
    // In another project it is the same person.
    image.push(&ada, "run/liver/x", "1").expect_error(429, "TOOMANYREQUESTS");
    assert_eq!(site.runs(), 3);
    // What is only stored is no run.
    image.push(&ada, "tools/x", "1").expect(201);

    let other = Image::new(&layer("bob's"));
    other.push(&bob, "run/heart/y", "1").expect(201);
    let refused = other.push(&bob, "run/heart/y", "2");
    let message = refused.expect_error(429, "TOOMANYREQUESTS");
    assert!(message.starts_with("project `heart` has 4 of at most 4 runs within 24 hours"), "{message}");
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((86_000..=86_400).contains(&wait), "{wait}");
    assert_eq!(site.runs(), 4);
    wait_until("a refusal is recorded", || {
        site.torno_ok(&["audit", "show"]).contains("runs within 24 hours").then_some(())
    });
}

#[test]
fn what_has_not_changed_does_not_run_again_where_the_project_says_so() {
    let site = idle(LIMITED, &[], &["ada", "bob", "eve"]);
    let eve = site.http("eve");
    let image = Image::new(&layer("the same"));
    image.push(&eve, "run/liver/x", "1").expect(201);
    let again = image.push(&eve, "run/liver/x", "1");
    let warning = again.expect(201).header("warning");
    assert!(warning.contains("not changed since run 1"), "{warning}");
    assert_eq!(site.runs(), 1);
    image.push(&eve, "run/liver/x", "2").expect(201);
    Image::new(&layer("another")).push(&eve, "run/liver/x", "1").expect(201);
    assert_eq!(site.runs(), 3);
    let bob = site.http("bob");
    for runs in [4, 5] {
        image.push(&bob, "run/heart/x", "1").expect(201);
        assert_eq!(site.runs(), runs, "elsewhere every push runs");
    }
}

#[test]
fn runs_take_no_more_than_there_is_together() {
    const PROJECTS: &str = "[projects.small]\nresearchers = [\"ada\"]\nlimits = { cpus = 0.5, memory = \"64MiB\" }\n\
        [projects.large]\nresearchers = [\"bob\"]\nlimits = { cpus = 1, memory = \"64MiB\" }\n";
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_CONCURRENT_RUNS", "3");
    site = site.with("TORNO_EXECUTOR_CPUS", "1").with("TORNO_EXECUTOR_MEMORY", "1GiB");
    site.add_users(&["ada", "bob"]);
    site.start();
    let (ada, bob) = (Docker::login(&site, "ada"), Docker::login(&site, "bob"));
    let state = |run: u64| {
        let shown = site.torno_ok(&["runs", "show", &run.to_string()]);
        let line = shown.lines().find(|line| line.starts_with("state")).expect("a state");
        line.trim_start_matches("state").trim().to_owned()
    };
    let started = |run: u64| wait_until("it starts", || (state(run) == "running").then_some(()));
    ada.run("small/x:1", "sleep 4; echo 1 > /output/x");
    started(1);
    bob.run("large/x:1", "sleep 1; echo 2 > /output/x");
    ada.run("small/x:2", "echo 3 > /output/x");
    // There is room for the third beside the first, and it does not pass the second, which has none.
    wait_until("all are over", || {
        let states = [state(1), state(2), state(3)];
        if states[0] == "running" {
            assert_eq!([&*states[1], &*states[2]], ["queued", "queued"]);
        }
        (states == ["succeeded", "succeeded", "succeeded"]).then_some(())
    });
    let listed = site.torno_ok(&["runs", "list"]);
    assert_eq!(listed.matches("succeeded").count(), 3, "{listed}");
}
