//! Stopping runs, repeating them, saying which goes first, and pausing projects: by command and over HTTP, and only by those
//! who may.

use std::{
    fs::{self, File},
    process::{Child, Stdio},
};

use serde_json::json;
use torno_tests::{Answer, Docker, Http, Image, NO_ENGINE, Site, layer, wait_until};

const PROJECTS: &str = "
[projects.heart]
researchers = ['ada', 'bob']
custodians = ['cora']
visibility = 'project'
logs = 'on-failure'
limits = { memory = '64MiB', cpus = 0.25, time = '5m' }
quota = { queued_runs = 6 }
[projects.liver]
researchers = ['eve']
limits = { memory = '64MiB', cpus = 0.25, time = '5m' }
";

fn site(variables: &[(&str, &str)]) -> Site {
    let mut site = Site::new(PROJECTS);
    for (variable, value) in variables {
        site = site.with(variable, value);
    }
    site.add_users(&["admin", "ada", "bob", "cora", "eve"]);
    site
}

fn field(site: &Site, run: u64, name: &str) -> String {
    let shown = site.torno_ok(&["runs", "show", &run.to_string()]);
    let line =
        shown.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {shown}"));
    line.trim_start_matches(name).trim().to_owned()
}

/// What a pull of a result says that is not there, but for how the engine is.
fn told(http: &Http, image: &str) -> String {
    let message = http.get(&format!("/v2/results/{image}")).expect_error(404, "MANIFEST_UNKNOWN");
    message.split("; the site's container engine").next().unwrap_or_default().to_owned()
}

fn prioritize(http: &Http, run: u64, body: &str) -> Answer {
    http.send("PUT", &format!("/api/runs/{run}/priority"), &[], body.as_bytes())
}

fn refused(site: &Site, arguments: &[&str]) -> String {
    let output = site.torno(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Run 1 is ada's, who is in project heart with bob.
fn nothing_is_told_to_others(site: &Site) {
    let [ada, bob, eve] = ["ada", "bob", "eve"].map(|user| site.http(user));
    // Of others' runs there is nothing to learn, not even for who may pull what comes of them.
    let same = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        for name in ["x-request-id", "date"] {
            headers.remove(name);
        }
        let text =
            String::from_utf8_lossy(&answer.body).replace("run 99 ", "run 1 ").replace("`none`", "`heart`");
        (answer.status, format!("{headers:?}"), text)
    };
    for other in [&bob, &eve] {
        for verb in ["cancel", "retry"] {
            let of = |run: u64| other.post(&format!("/api/runs/{run}/{verb}"));
            let refused = of(1);
            let message = refused.expect_error(404, "NAME_UNKNOWN");
            assert_eq!(message, "run 1 is not known here, or not to you");
            let (mine, none) = (same(&refused), same(&of(99)));
            assert_eq!(mine.0, none.0);
            assert_eq!(mine.2, none.2);
            assert_eq!(
                mine.1.replace(|c: char| c.is_ascii_digit(), ""),
                none.1.replace(|c: char| c.is_ascii_digit(), "")
            );
        }
        let of = |run: u64| same(&prioritize(other, run, r#"{"priority":"high"}"#)).2;
        assert_eq!(of(1), of(99));
    }
    let of = |project: &str| eve.post(&format!("/api/projects/{project}/pause"));
    of("heart").expect_error(404, "NAME_UNKNOWN");
    assert_eq!(same(&of("heart")).2, same(&of("none")).2);
    let words = ada.post("/api/projects/heart/pause").expect_error(403, "DENIED");
    assert!(words.contains("only a custodian"), "{words}");
    site.anonymous().post("/api/runs/1/cancel").expect(401);
    site.anonymous().post("/api/runs/99/cancel").expect(401);
    // A page that a browser shows elsewhere has it send a password along; there are no cookies.
    for (name, value) in [("origin", "https://evil.example.org"), ("sec-fetch-site", "cross-site")] {
        ada.send("POST", "/api/runs/1/cancel", &[(name, value)], &[]).expect_error(403, "DENIED");
    }
    ada.send("POST", "/api/runs/nonsense/cancel", &[], &[]).expect(404);
    ada.get("/api/runs/1/cancel").expect(405).expect_header("allow", "POST");
    assert_eq!(field(site, 1, "state"), "queued", "nothing of it has done anything");
}

#[test]
fn what_waits_is_controlled_by_those_who_may_and_unknown_to_others() {
    let mut site = site(&[("TORNO_EXECUTOR_ENGINE", NO_ENGINE), ("TORNO_RESULTS_WAIT", "0s")]);
    site.start();
    let [ada, bob, cora, admin] = ["ada", "bob", "cora", "admin"].map(|user| site.http(user));
    let image = Image::new(&layer("waits"));
    for tag in ["1", "2", "3", "4", "5"] {
        image.push(&ada, "run/heart/x", tag).expect(201);
    }

    nothing_is_told_to_others(&site);

    // Who has cancelled it is told by name to who knows the name anyway.
    assert_eq!(ada.post("/api/runs/1/cancel").expect(200).json(), json!({"run": 1, "state": "cancelled"}));
    cora.post("/api/runs/2/cancel").expect(200);
    admin.post("/api/runs/3/cancel").expect(200);
    assert_eq!(site.torno_ok(&["runs", "cancel", "4"]), "run 4 is cancelled; it had not begun\n");
    for (reader, run, by) in [
        (&ada, 1, "ada"),
        (&bob, 1, "ada"),
        (&ada, 2, "a custodian of its project"),
        (&ada, 3, "an admin of this site"),
        (&ada, 4, "an admin of this site"),
    ] {
        assert_eq!(
            told(reader, &format!("heart/x/manifests/{run}")),
            format!("run {run} was cancelled by {by}")
        );
    }
    assert!(field(&site, 2, "cancelled").starts_with("cora, a custodian, at 2"), "the admin may know");
    assert!(field(&site, 4, "cancelled").starts_with("a command on this machine at 2"));
    let words = cora.post("/api/runs/1/cancel").expect_error(409, "UNSUPPORTED");
    assert_eq!(words, "run 1 is over: cancelled by its owner");
    let words = refused(&site, &["runs", "cancel", "1", "99", "5"]);
    assert!(words.contains("run 1 is over") && words.contains("there is no run 99"), "{words}");
    assert!(words.contains("2 of 3 runs were left as they are"), "{words}");
    assert_eq!(field(&site, 5, "state"), "cancelled by an admin of this site");

    // A new run of the same image, which counts like a push.
    let again = ada.post("/api/runs/1/retry").expect(201).json();
    assert_eq!(again, json!({"run": 6, "state": "queued", "retry_of": 1, "result": "results/heart/x:1"}));
    assert_eq!((field(&site, 6, "repeats"), field(&site, 6, "owner")), ("run 1".into(), "ada".into()));
    assert_eq!(told(&ada, "heart/x/manifests/1"), "run 6 is queued, next of its project");
    let words = ada.post("/api/runs/6/retry").expect_error(409, "UNSUPPORTED");
    assert!(words.contains("not over") && words.contains("cancel it first"), "{words}");
    for run in [7, 8, 9, 10, 11] {
        assert_eq!(
            site.torno_ok(&["runs", "retry", "2"]),
            format!("run {run} is queued: it repeats run 2 (run/heart/x:2)\n")
        );
    }
    let words = cora.post("/api/runs/2/retry").expect_error(429, "TOOMANYREQUESTS");
    assert!(words.contains("project `heart` has 6 of at most 6 runs in the queue"), "{words}");
    Image::new(&layer("another")).push(&ada, "run/heart/x", "3").expect_error(429, "TOOMANYREQUESTS");
    site.torno_ok(&["runs", "cancel", "7", "8", "9", "10", "11"]);
    Image::new(&layer("another")).push(&ada, "run/heart/x", "3").expect(201);
    let words = ada.post("/api/runs/3/retry").expect_error(409, "UNSUPPORTED");
    assert!(words.contains("another image has been pushed") && words.contains("as run 12"), "{words}");
    ada.delete(&format!("/v2/run/heart/x/manifests/{}", image.digest())).expect(202);
    let words = refused(&site, &["runs", "retry", "2"]);
    assert!(
        words.contains("the image of run 2 is not here any more") && words.contains("push it again"),
        "{words}"
    );

    // What goes first is for those who answer for the project.
    let words = prioritize(&ada, 12, r#"{"priority":"high"}"#).expect_error(403, "DENIED");
    assert!(words.contains("only a custodian"), "{words}");
    let answer = prioritize(&cora, 12, r#"{"priority":"high"}"#);
    assert_eq!(answer.expect(200).json(), json!({"run": 12, "priority": "high"}));
    assert_eq!(field(&site, 12, "priority"), "high");
    assert_eq!(told(&ada, "heart/x/manifests/1"), "run 6 is queued, 1 run before it in its project");
    assert_eq!(site.torno_ok(&["runs", "priority", "12", "--set", "low"]), "run 12 has priority low\n");
    assert_eq!(told(&ada, "heart/x/manifests/1"), "run 6 is queued, next of its project");
    for body in ["", "high", r#"{"priority":"highest"}"#, r#"{"priority":"high","run":1}"#, &" ".repeat(257)]
    {
        prioritize(&cora, 12, body).expect_error(400, "UNSUPPORTED");
    }
    let words = prioritize(&cora, 1, r#"{"priority":"low"}"#).expect_error(409, "UNSUPPORTED");
    assert!(words.contains("run 1 is over"), "{words}");

    // Each of them is recorded, with who, as what, and which run.
    let recorded = |run: &str| site.torno_ok(&["audit", "show", "--run", run, "--json"]);
    wait_until("it is recorded", || {
        let (first, last) = (recorded("1"), recorded("12"));
        let all = [
            (&first, r#""event":"run_cancelled""#),
            (&first, r#""as":"owner""#),
            (&first, r#""user":"ada""#),
            (&first, r#""event":"run_ended""#),
            (&first, r#""event":"run_retried""#),
            (&last, r#""event":"run_prioritized""#),
            (&last, r#""as":"custodian""#),
            (&last, r#""as":"admin""#),
        ];
        all.iter().all(|(text, words)| text.contains(words)).then_some(())
    });
    let refusals = wait_until("refusals are recorded", || {
        let refusals = site.torno_ok(&["audit", "show", "--event", "refused"]);
        refusals.contains("/api/runs/1/cancel").then_some(refusals)
    });
    assert!(!refusals.contains("/api/runs/99/"), "of what is not there nothing is: {refusals}");
}

#[test]
fn tokens_control_what_they_are_for() {
    let mut site = site(&[("TORNO_EXECUTOR_ENGINE", NO_ENGINE), ("TORNO_RESULTS_WAIT", "0s")]);
    site.start();
    let ada = site.http("ada");
    let image = Image::new(&layer("tokens"));
    for tag in ["1", "2", "3"] {
        image.push(&ada, "run/heart/x", tag).expect(201);
    }
    let made = |user: &str, scope: &str| {
        let scopes = scope.split(' ').flat_map(|scope| ["--scope", scope]);
        let words: Vec<&str> = ["token", "create", "--user", user].into_iter().chain(scopes).collect();
        let made = site.torno_ok(&words);
        site.http_with(user, made.trim())
    };
    let useless = made("ada", "pull,push,delete:**");
    for run in [1, 99] {
        let words = useless.post(&format!("/api/runs/{run}/cancel")).expect_error(403, "DENIED");
        assert!(words.contains("this token is good for"), "{words}");
    }
    made("ada", "control:run/heart/y").post("/api/runs/1/cancel").expect_error(404, "NAME_UNKNOWN");
    made("ada", "control:run/heart/*").post("/api/runs/1/cancel").expect(200);
    made("cora", "control:run/heart/**").post("/api/projects/heart/pause").expect_error(404, "NAME_UNKNOWN");
    let whole = made("cora", "control:run/heart/** control:try/heart/**");
    let paused = whole.post("/api/projects/heart/pause").expect(200).json();
    assert_eq!(paused, json!({"project": "heart", "paused": true, "was_paused": false}));

    // A bearer token is told what to come back with.
    let bearer = |http: &Http, scope: &str| {
        let token = http.get(&format!("/token?scope={scope}")).expect(200).json();
        site.bearer(token["token"].as_str().expect("a token"))
    };
    let cora = site.http("cora");
    let refused = bearer(&ada, "repository:run/heart/x:pull,push").post("/api/runs/2/cancel");
    refused.expect(401);
    let challenge = refused.header("www-authenticate");
    assert!(challenge.contains("scope=\"repository:run/heart/x:control\""), "{challenge}");
    assert!(challenge.contains("insufficient_scope"), "{challenge}");
    bearer(&ada, "repository:run/heart/x:control").post("/api/runs/2/cancel").expect(200);
    let refused = bearer(&cora, "repository:run/heart/x:pull").post("/api/projects/heart/resume");
    refused.expect(401);
    let challenge = refused.header("www-authenticate");
    let scope = challenge.split("scope=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a scope");
    let resumed = bearer(&cora, scope).post("/api/projects/heart/resume").expect(200).json();
    assert_eq!(resumed, json!({"project": "heart", "paused": false, "was_paused": true}));
    assert_eq!(field(&site, 3, "state"), "queued");
}

/// An executor beside the server, in a process of its own.
struct Executor(Child);

impl Executor {
    fn start(site: &Site) -> Self {
        let path = site.path("execute.log");
        let log = File::create(&path).expect("log");
        let mut command = site.command(&["execute"]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("torno execute");
        let this = Self(child);
        wait_until("the executor has started", || {
            fs::read_to_string(&path)
                .unwrap_or_default()
                .contains("carrying out what is pushed")
                .then_some(())
        });
        this
    }

    fn kill(mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Best effort, after the test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_runs_is_stopped_whatever_it_thinks_of_that() {
    const DEAF: &str = "trap '' TERM; echo begun; echo all > /output/data; while :; do sleep 0.2; done";
    const POLITE: &str =
        "trap 'echo asked; exit 0' TERM; echo all > /output/data; while :; do sleep 0.2; done";
    let mut site = site(&[
        ("TORNO_EXECUTOR_WITHIN", "execute"),
        ("TORNO_EXECUTOR_CONCURRENT_RUNS", "3"),
        ("TORNO_RESULTS_WAIT", "0s"),
    ]);
    site.start();
    let executor = Executor::start(&site);
    let (ada, docker) = (site.http("ada"), Docker::login(&site, "ada"));
    docker.run("heart/deaf:1", DEAF);
    docker.run("heart/polite:2", POLITE);
    docker.run("heart/deaf:3", DEAF);
    for run in [1, 2, 3] {
        wait_until("it runs", || (field(&site, run, "state") == "running").then_some(()));
    }
    // Both from other processes than the one that carries out runs.
    let answer = ada.post("/api/runs/1/cancel");
    assert_eq!(answer.expect(202).json(), json!({"run": 1, "state": "stopping"}));
    ada.post("/api/runs/1/cancel").expect(202);
    let said = site.torno_ok(&["runs", "cancel", "2"]);
    assert!(said.starts_with("run 2 is being stopped"), "{said}");
    assert_eq!(
        site.wait_for_run(2),
        "cancelled by an admin of this site",
        "though its program says that all is well"
    );
    assert_eq!(site.wait_for_run(1), "cancelled by its owner");
    let words = told(&ada, "heart/deaf/manifests/1");
    assert!(words.starts_with("run 1 was cancelled by ada; ") && words.contains("its log: "), "{words}");
    ada.get("/v2/results/heart/deaf/manifests/1.log").expect(200);
    for result in ["deaf/manifests/run-1", "polite/manifests/2", "polite/manifests/run-2"] {
        ada.get(&format!("/v2/results/heart/{result}")).expect(404);
    }
    assert!(site.torno_ok(&["runs", "logs", "1"]).contains("begun"));
    assert!(site.torno_ok(&["runs", "logs", "2"]).contains("asked"));

    // Its executor is killed between the wish and the end.
    ada.post("/api/runs/3/cancel").expect(202);
    executor.kill();
    assert_eq!(field(&site, 3, "state"), "running, to be cancelled");
    let _executor = Executor::start(&site);
    assert_eq!(site.wait_for_run(3), "cancelled by its owner");

    // The next honest run goes well.
    docker.run("heart/honest:1", "echo well > /output/data");
    assert_eq!(site.wait_for_run(4), "succeeded");
    docker.pull_result("heart/honest:1");
    wait_until("nothing is left", || {
        torno_tests::leftovers(&site.instance().expect("an id")).is_empty().then_some(())
    });
    let ended = site.torno_ok(&["audit", "show", "--event", "run_ended", "--json"]);
    assert_eq!(ended.lines().filter(|line| line.contains("cancelled by")).count(), 3, "{ended}");
}

#[test]
fn a_paused_project_waits_over_a_restart_and_goes_on_in_order() {
    let mut site = site(&[("TORNO_EXECUTOR_CONCURRENT_RUNS", "1"), ("TORNO_RESULTS_WAIT", "0s")]);
    site.start();
    let (ada, cora, docker) = (site.http("ada"), site.http("cora"), Docker::login(&site, "ada"));
    cora.post("/api/projects/heart/pause").expect(200);
    docker.run("heart/first:1", "echo first > /output/data");
    docker.run("heart/second:1", "echo second > /output/data");
    docker.run("heart/third:1", "echo third > /output/data");
    let paused = "run 1 is queued, and its project is paused by a custodian of its project";
    assert_eq!(told(&ada, "heart/first/manifests/1"), paused);
    site.stop();
    site.start();
    let eve = Docker::login(&site, "eve");
    eve.run("liver/x:1", "echo other > /output/data");
    assert_eq!(site.wait_for_run(4), "succeeded", "others go on");
    assert_eq!(field(&site, 1, "state"), "queued, paused");
    assert_eq!(told(&ada, "heart/first/manifests/1"), paused);
    let before = site.torno_ok(&["runs", "pause", "heart"]);
    assert!(before.contains("had been paused before: by cora, a custodian"), "{before}");
    assert!(refused(&site, &["runs", "pause", "none"]).contains("there is no project `none`"));
    site.torno_ok(&["runs", "pause"]);
    let words = told(&ada, "heart/first/manifests/1");
    assert!(words.contains("no runs are started here for now (paused by an admin of this site)"), "{words}");

    site.torno_ok(&["runs", "cancel", "2"]);
    site.torno_ok(&["runs", "priority", "3", "--set", "high"]);
    let said = site.torno_ok(&["runs", "resume", "heart"]);
    assert!(said.contains("goes on") && said.contains("but the whole site is paused"), "{said}");
    site.torno_ok(&["runs", "resume"]);
    assert_eq!(site.torno_ok(&["runs", "resume"]), "the site was not paused\n");
    for run in [1, 3] {
        assert_eq!(site.wait_for_run(run), "succeeded");
    }
    let started = |run: u64| {
        let events =
            site.torno_ok(&["audit", "show", "--event", "run_started", "--run", &run.to_string(), "--json"]);
        let line = events.lines().next().expect("a line").to_owned();
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        value["seq"].as_u64().expect("a number")
    };
    assert!(started(3) < started(1), "the later one was moved up");
    // What was cancelled before it began gives its result when it is repeated.
    ada.post("/api/runs/2/retry").expect(201);
    assert_eq!(site.wait_for_run(5), "succeeded");
    docker.pull_result("heart/second:1");
}
