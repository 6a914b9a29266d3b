//! Groups, datasets and projects, good and bad, in the main file and beside it.

use std::fs;

use bytesize::ByteSize;
use torno_executor::DataPlace;

use super::*;

fn limits(limit: &str) -> String {
    project(&format!("limits = {{ {limit} }}"))
}

#[test]
fn values_of_the_wrong_kind_in_a_project() {
    let cases = [
        ("custodians = [\"@team\"]", "custodians[0]", "no group `team`; there are none yet"),
        ("custodians = [\"-\"]", "custodians[0]", "user name"),
        ("custodians = [{}]", "custodians[0]", "found a table"),
        ("datasets = [\"retina\", \"retina\"]", "datasets[1]", "already"),
        ("datasets = [\"lung\"]", "datasets[0]", "no dataset `lung`; there are: retina"),
        ("visibility = \"all\"", "visibility", "neither"),
        ("visibility = true", "visibility", "expected"),
        ("logs = \"sometimes\"", "logs", "none of"),
        ("environment = [\"A=b\"]", "environment", "expected a table"),
        ("environment = { A = 1 }", "environment.A", "expected a text in quotes"),
        ("environment = { 1A = \"\" }", "environment.1A", "does not start with a digit"),
        ("environment = { \"A=\" = \"\" }", "environment.\"A=\"", "letters, digits and `_`"),
        ("environment = { A = \"a\\u0000b\" }", "environment.A", "NUL"),
        ("environment = { TORNO_RUN = \"\" }", "environment.TORNO_RUN", "TORNO_"),
        ("environment = { LD_PRELOAD = \"\" }", "environment.LD_PRELOAD", "LD_"),
        (
            "environment = { NVIDIA_VISIBLE_DEVICES = \"all\" }",
            "environment.NVIDIA_VISIBLE_DEVICES",
            "NVIDIA_",
        ),
        ("limits = 1", "limits", "expected a table"),
        ("limits = { cpus = \"1\" }", "limits.cpus", "expected a number"),
        ("limits = { memory = 4 }", "limits.memory", "expected a size in quotes"),
        ("limits = { memory = \"0\" }", "limits.memory", "has no unit"),
        ("limits = { time = 4 }", "limits.time", "expected a length of time in quotes"),
        ("limits = { pids = \"4\" }", "limits.pids", "expected a whole number"),
    ];
    for (key, place, words) in cases {
        assert_error(&project(key), &format!("projects.p.{place}"), words);
    }
}

#[test]
fn services_and_secrets() {
    let list = |count: usize| {
        let services: Vec<String> = (1..=count).map(|port| format!("\"db:{port}\"")).collect();
        project(&format!("allow = [{}]", services.join(", ")))
    };
    let table = |count: usize| {
        let secrets: Vec<String> = (0..count).map(|n| format!("s{n} = {{ file = \"s\" }}")).collect();
        project(&format!("secrets = {{ {} }}", secrets.join(", ")))
    };
    let site = Site::new();
    let policy = |config: Config| config.projects.into_values().next().expect("a project");
    assert_eq!(policy(site.good(&list(16))).services.len(), 16);
    let secrets = policy(site.good(&table(32))).secrets;
    assert_eq!((secrets.len(), secrets.get("s0")), (32, Some(&site.path("s"))));
    assert_error(&list(17), "projects.p.allow", "these are 17, and a project may have at most 16");
    assert_error(&table(33), "projects.p.secrets", "these are 33, and a project may have at most 32");
    let cases = [
        ("allow = \"db:1\"", "allow", "expected a list"),
        ("allow = [5432]", "allow[0]", "expected a service"),
        ("allow = [\"*:5432\"]", "allow[0]", "no wildcard"),
        ("allow = [\"10.0.0.1:5432\"]", "allow[0]", "give it a name"),
        ("allow = [\"db:1\", \"db:1 = x:2\"]", "allow[1]", "already"),
        ("secrets = { s = \"/x\" }", "secrets.s", "expected a table"),
        ("secrets = { s = {} }", "secrets.s.file", "say in which file"),
        ("secrets = { S = { file = \"x\" } }", "secrets.S", "lower-case"),
        (
            "secrets = { s = { file = \"retina/s\" } }\ndatasets = [\"retina\"]",
            "secrets.s.file",
            "every run sees it",
        ),
        ("secrets = { s = { file = \"registry-data/keys/s\" } }", "secrets.s.file", "data directory"),
        ("secrets = { s = { file = \"torno.toml\" } }", "secrets.s.file", "Torno's own configuration"),
        ("runtime = \"runsc\"\nallow = [\"db:1\"]", "runtime", "reaches no service"),
        ("mount = \"/run/secrets\"", "mount", "/run is taken"),
    ];
    for (key, place, words) in cases {
        assert_error(&project(key), &format!("projects.p.{place}"), words);
    }
}

#[test]
fn a_folder_in_memory_has_a_longest_name() {
    let folder = |length: usize| format!("[executor]\nvolatile = \"/{}\"", "x".repeat(length - 1));
    assert_eq!(Site::new().good(&folder(36)).executor.volatile.as_os_str().len(), 36);
    assert_error(&folder(37), "executor.volatile", "37 bytes");
    assert_error("[executor]\nvolatile = \"shm\"", "executor.volatile", "from the root");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let error = error(&project("environment = { TOKEN = \"hunter\\u0000two\" }"));
    assert!(!error.contains("hunter"), "{error}");
}

#[test]
fn mounts() {
    for good_one in ["/input", "/data", "/opt/ml/model", "/output2", "/etcetera", "/a b"] {
        assert_eq!(policy_of(&good(&project(&format!("mount = \"{good_one}\"")))).mount, good_one);
    }
    let bad = ["", "/", "input", "/a/", "//a", "/a/../b", "/./a", "/a\\u0000", "/proc", "/sys/x", "/dev/shm"];
    for bad in bad.into_iter().chain(["/output", "/output/x", "/tmp/x", "/etc", "/etc/x"]) {
        assert_error(&project(&format!("mount = \"{bad}\"")), "projects.p.mount", "");
    }
}

#[test]
fn every_limit_at_its_bounds_and_one_past_them() {
    let sizes = [
        ("memory", "6MiB", "6291455B", "16TiB", "17592186044417B"),
        ("output", "4KiB", "4095B", "1TiB", "1099511627777B"),
        ("log", "1KiB", "1023B", "64MiB", "67108865B"),
        ("time", "1s", "999ms", "30days", "30days 1ms"),
    ];
    let mut cases: Vec<_> = sizes
        .map(|(key, low, below, high, above)| {
            let quoted = |value: &str| format!("\"{value}\"");
            (key, "", [low, high].map(quoted), [below, above].map(quoted))
        })
        .into();
    let plain = |low: &str, high: &str| [low.to_owned(), high.to_owned()];
    cases.push(("cpus", "", plain("0.01", "1024"), plain("0.0099", "1024.001")));
    cases.push(("pids", "", plain("1", "32768"), plain("0", "32769")));
    cases.push(("entries", "", plain("1", "1000000"), plain("0", "1000001")));
    cases.push((
        "tmp",
        "memory = \"16TiB\", ",
        plain("\"4KiB\"", "\"16TiB\""),
        plain("\"4095B\"", "\"17592186044417B\""),
    ));
    assert_eq!(cases.len(), 8, "every field of Limits but that of GPUs");
    for (key, with, inside, outside) in cases {
        for value in inside {
            good(&limits(&format!("{with}{key} = {value}")));
        }
        for value in outside {
            assert_error(&limits(&format!("{with}{key} = {value}")), &format!("projects.p.limits.{key}"), "");
        }
    }
    for wild in ["nan", "inf", "-1"] {
        assert_error(&limits(&format!("cpus = {wild}")), "projects.p.limits.cpus", "0.01 to 1024");
    }
    assert_error(&limits("memory = \"99999999EiB\""), "projects.p.limits.memory", "6MiB to 16TiB");
    assert_error(&limits("pids = 4294967297"), "projects.p.limits.pids", "1 to 32768");
    assert_error(&limits("pids = -1"), "projects.p.limits.pids", "1 to 32768");
}

#[test]
fn no_run_gets_more_than_all_runs_together() {
    let with = |limits: &str| format!("{}\n[executor]\ncpus = 0.5\nmemory = \"1GiB\"", project(limits));
    let exactly = good(&with("limits = { cpus = 0.5, memory = \"1GiB\" }"));
    let total = exactly.executor.total;
    assert_eq!(policy_of(&exactly).limits.resources(), total);
    assert_eq!(total, torno_registry::Resources { nano_cpus: 500_000_000, memory: 1 << 30, gpus: 0 });
    // What nobody has written is made to fit.
    assert_eq!(policy_of(&good(&with(""))).limits.resources(), total);
    assert_error(
        &with("limits = { cpus = 0.51 }"),
        "projects.p.limits.cpus",
        "more processors than all runs",
    );
    assert_error(
        &with("limits = { memory = \"1025MiB\" }"),
        "projects.p.limits.memory",
        "executor.memory is 1GiB",
    );
    let unbounded = good(&project("")).executor.total;
    assert_eq!(unbounded, torno_registry::Resources::UNBOUNDED);
}

#[test]
fn gpus_up_to_what_the_host_has_for_runs() {
    let with = |gpus: &str, limits: &str| format!("{}\n[executor]\ngpus = {gpus}", project(limits));
    let config = good(&with("64", "limits = { gpus = 64 }"));
    assert_eq!((config.executor.total.gpus, policy_of(&config).limits.gpus), (64, 64));
    let config = good(&with("0", "limits = { gpus = 0 }"));
    assert_eq!((config.executor.total.gpus, policy_of(&config).limits.gpus), (0, 0));
    assert_eq!(policy_of(&good(&with("2", ""))).limits.gpus, 0, "none unless somebody says so");
    let path = "projects.p.limits.gpus";
    assert_error(
        &with("1", "limits = { gpus = 2 }"),
        path,
        "2 GPUs, and this host has 1 for runs (executor.gpus)",
    );
    assert_error(&project("limits = { gpus = 1 }"), path, "this host has 0 for runs (executor.gpus)");
    assert_error(&with("65", ""), "executor.gpus", "0 to 64");
    assert_error(&with("64", "limits = { gpus = 65 }"), path, "0 to 64");
    assert_error(&with("1", "limits = { gpus = -1 }"), path, "0 to 64");
    assert_error(&with("1", "runtime = \"runsc\"\nlimits = { gpus = 1 }"), path, "under gVisor");
    good(&with("1", "runtime = \"runsc\"\nlimits = { gpus = 0 }"));
}

#[test]
fn whether_what_has_not_changed_runs_again() {
    let rerun = |key: &str| good(&project(key)).policy.projects.get("p").expect("project").rerun;
    assert_eq!(rerun(""), torno_auth::Rerun::Always);
    assert_eq!(rerun("rerun = \"always\""), torno_auth::Rerun::Always);
    assert_eq!(rerun("rerun = \"changed\""), torno_auth::Rerun::Changed);
    assert_error(&project("rerun = \"never\""), "projects.p.rerun", "neither \"always\"");
}

#[test]
fn what_runs_the_containers_of_a_project() {
    let runtime = |key: &str| good(&project(key)).projects.values().next().expect("project").runtime;
    assert_eq!(runtime(""), None);
    assert_eq!(runtime("runtime = \"runsc\""), Some(torno_executor::Runtime::Runsc));
    assert_eq!(runtime("runtime = \"runc\""), Some(torno_executor::Runtime::Runc));
    assert_error(&project("runtime = \"kata\""), "projects.p.runtime", "a runtime is \"runc\" or \"runsc\"");
}

#[test]
fn quotas_at_their_bounds_and_one_past_them() {
    let config = good("");
    assert_eq!(config.policy.quota, Quota::default(), "none unless somebody says so");
    let config = good(
        "[quotas]\nuser_bytes = \"1MiB\"\nuser_repositories = 1000000\nuser_queued_runs = 1\nuser_daily_runs = 1000000",
    );
    let all = Quota {
        bytes: Some(1024 * 1024),
        repositories: Some(1_000_000),
        queued_runs: Some(1),
        daily_runs: Some(1_000_000),
    };
    assert_eq!(config.policy.quota, all);
    let config = good(&project("quota = { bytes = \"1PiB\" }"));
    let members = config.policy.projects.get("p").expect("project");
    assert_eq!(members.quota, Quota { bytes: Some(1 << 50), ..Quota::default() });
    for (quota, place) in [
        ("bytes = \"1023KiB\"", "bytes"),
        ("bytes = \"1025TiB\"", "bytes"),
        ("repositories = 0", "repositories"),
        ("repositories = 1000001", "repositories"),
        ("queued_runs = 0", "queued_runs"),
        ("queued_runs = 1000001", "queued_runs"),
        ("daily_runs = 0", "daily_runs"),
        ("daily_runs = 1000001", "daily_runs"),
        ("tags = 1", "tags"),
    ] {
        let place = format!("projects.p.quota.{place}");
        assert_error(&project(&format!("quota = {{ {quota} }}")), &place, "");
    }
    assert_error("[quotas]\nuser_bytes = \"1MB\"", "quotas.user_bytes", "is not within");
    assert_error("[quotas]\nuser_repositories = \"4\"", "quotas.user_repositories", "whole number");
}

#[test]
fn tmp_is_part_of_memory() {
    let small = good(&limits("memory = \"64MiB\""));
    assert_eq!(policy_of(&small).limits.tmp, ByteSize::mib(64), "the default shrinks");
    good(&limits("memory = \"64MiB\", tmp = \"64MiB\""));
    let words = "more than `memory`, which is 64MiB";
    assert_error(&limits("memory = \"64MiB\", tmp = \"65MiB\""), "projects.p.limits.tmp", words);
}

#[test]
fn a_dataset_never_shows_the_registry_to_runs() {
    let site = Site::new();
    fs::create_dir_all(site.path("registry-data/inside")).expect("folder");
    fs::create_dir_all(site.path("users/deeper")).expect("folder");
    fs::create_dir_all(site.path("engine")).expect("folder");
    fs::create_dir_all(site.path("projects.d")).expect("folder");
    fs::write(site.path("file"), "").expect("write");
    std::os::unix::fs::symlink("registry-data/inside", site.path("link")).expect("link");
    let cases = [
        ("/", "the whole machine"),
        ("missing", "there is no folder"),
        ("file", "is not a folder"),
        ("registry-data", "inside the data directory"),
        ("registry-data/inside", "inside the data directory"),
        ("link", "inside the data directory"),
        ("retina/../registry-data", "inside the data directory"),
        (".", "data directory"),
        ("users", "password file"),
        ("projects.d", "folder of projects"),
        ("engine", "engine socket"),
    ];
    for (path, words) in cases {
        let text = format!(
            "[auth]\nhtpasswd = \"users/deeper/htpasswd\"\n[executor]\nengine = \"unix://{}\"\n\
             [datasets.a]\npath = \"{path}\"\n",
            site.path("engine/docker.sock").display()
        );
        let errors = site.errors(&text, &Environment::default());
        assert_eq!(errors.len(), 1, "{errors:#?}");
        assert!(errors[0].starts_with("datasets.a.path: ") && errors[0].contains(words), "{errors:#?}");
    }
    let text =
        "data = \"/nowhere/data\"\n[auth]\nhtpasswd = \"/nowhere/users\"\n[datasets.a]\npath = \".\"\n";
    assert!(site.errors(text, &Environment::default())[0].contains("configuration"));
    // A data directory that does not exist yet would be made inside the dataset, and a link may lead to it.
    let through = "data = \"link2/new/data\"\n[datasets.a]\npath = \"retina\"\n";
    std::os::unix::fs::symlink("retina", site.path("link2")).expect("link");
    assert!(site.errors(through, &Environment::default())[0].contains("data directory"));
    // A name that merely begins alike is another folder.
    fs::create_dir(site.path("registry-data-2")).expect("folder");
    site.good("[datasets.a]\npath = \"registry-data-2\"");
}

#[test]
fn a_sample_holds_nothing_confidential() {
    let site = Site::new();
    for folder in ["retina/sample", "given", "lung", "outer/brain"] {
        fs::create_dir_all(site.path(folder)).expect("folder");
    }
    std::os::unix::fs::symlink("retina", site.path("link")).expect("link");
    let text = |sample: &str| {
        format!(
            "[datasets]\nretina = {{ path = \"retina\", sample = {sample} }}\nlung.path = \"lung\"\n\
             brain.path = \"outer/brain\"\n[projects.p]\nresearchers = [\"ada\"]\ndatasets = [\"retina\"]\n"
        )
    };
    for (sample, given) in [("given", "given"), ("retina/sample", "retina/sample")] {
        let config = site.good(&text(&format!("\"{sample}\"")));
        assert_eq!(policy_of(&config).datasets[0].sample, Some(site.path(given)));
        let members = config.policy.projects.get("p").expect("project");
        assert_eq!(members.datasets.get("retina"), Some(&torno_auth::Sample::Given));
    }
    for (sample, words) in [
        ("\"retina\"", "holds the data of dataset `retina`"),
        ("\"link\"", "holds the data of dataset `retina`"),
        ("\"lung\"", "holds the data of dataset `lung`"),
        ("\"outer\"", "holds the data of dataset `brain`"),
        ("\"missing\"", "there is no folder"),
        ("\".\"", "Torno's own"),
        ("3", "a path in quotes"),
    ] {
        let errors = site.errors(&text(sample), &Environment::default());
        assert_eq!(errors.len(), 1, "{errors:#?}");
        assert!(
            errors[0].starts_with("datasets.retina.sample: ") && errors[0].contains(words),
            "{errors:#?}"
        );
    }
    assert_error("[datasets.a_]\npath = \"retina\"", "datasets.a_", "between them");
}

fn folder(site: &Site, path: &str) -> DataPlace {
    DataPlace::Folder(site.path(path))
}

#[test]
fn a_dataset_may_be_a_volume_but_not_a_part_of_one() {
    let site = Site::new();
    let text = |seen: &str| {
        format!(
            "[datasets]\nears = {{ volume = \"hospital-ears\", sample = \"retina\" }}\n\
             [projects.p]\nresearchers = [\"ada\"]\ndatasets = [{seen:?}]\n"
        )
    };
    let config = site.good(&text("ears"));
    let [ears] = policy_of(&config).datasets.as_slice() else { panic!("one") };
    assert_eq!(ears.place.to_string(), "volume hospital-ears");
    assert_eq!(ears.sample, Some(site.path("retina")));
    assert_error(&text("ears/left"), "projects.p.datasets[0]", "all of it or nothing");
}

#[test]
fn a_project_may_see_a_part_of_a_dataset() {
    let site = Site::new();
    for folder in ["retina/train/a b", "given/train/a b", "given/only"] {
        fs::create_dir_all(site.path(folder)).expect("folder");
    }
    fs::write(site.path("retina/file"), "").expect("file");
    std::os::unix::fs::symlink("/etc", site.path("retina/out")).expect("link");
    std::os::unix::fs::symlink("train", site.path("retina/in")).expect("link");
    fs::create_dir(site.path("retina/unsampled")).expect("folder");
    let text = |part: &str| {
        format!(
            "[datasets]\nretina = {{ path = \"retina\", sample = \"given\" }}\n\
             [projects.p]\nresearchers = [\"ada\"]\ndatasets = [{part}]\n"
        )
    };
    let config = site.good(&text("\"retina/train/a b\""));
    let dataset = &policy_of(&config).datasets[0];
    assert_eq!((dataset.name.as_str(), dataset.seen()), ("retina", folder(&site, "retina/train/a b")));
    for (part, words) in [
        ("\"retina/../given\"", "without `.` or `..`"),
        ("\"retina/train/..\"", "without `.` or `..`"),
        ("\"retina/./train\"", "without `.` or `..`"),
        ("\"retina/\"", "without `.` or `..`"),
        ("\"retina//etc\"", "without `.` or `..`"),
        ("\"retina/a\\u0000\"", "without `.` or `..`"),
        ("\"retina/out\"", "or a link"),
        ("\"retina/in\"", "or a link"),
        ("\"retina/in/a b\"", "or a link"),
        ("\"retina/file\"", "is no folder"),
        ("\"retina/none\"", "has no folder"),
        ("\"retina/unsampled\"", "the sample of dataset `retina` has no folder"),
        ("\"/retina\"", "no dataset"),
        ("\"retina\", \"retina/train\"", "already"),
    ] {
        let errors = site.errors(&text(part), &Environment::default());
        assert_eq!(errors.len(), 1, "{part}: {errors:#?}");
        assert!(errors[0].contains(words), "{part}: {errors:#?}");
    }
}

#[test]
fn projects_may_stand_in_files_of_their_own() {
    let site = Site::new()
        .beside("a.toml", "[groups]\nteam = [\"ada\"]\n[datasets.retina]\npath = \"retina\"")
        .beside("b.toml", "[projects.p]\nresearchers = [\"@team\"]\ndatasets = [\"retina\"]")
        .beside(".#b.toml", "not = toml = at all")
        .beside("b.toml~", "neither = is = this");
    let config = site.good("[projects.q]\nresearchers = [\"@team\"]\ndatasets = [\"retina\"]");
    assert_eq!(config.projects.len(), 2);
    assert_eq!(policy_of(&config).datasets[0].place, folder(&site, "retina"), "relative to the main file");
}

#[test]
fn errors_in_other_files_name_the_file() {
    let site = Site::new()
        .beside("a.toml", "data = \"x\"\n[listen]\naddress = \"127.0.0.1:1\"\n[projects.p]\nlogs = 1")
        .beside("b.toml", "[projects.p]\n[groups]\ng = []\n[projects.q]\nresearchers = [\"ada\"]");
    let errors = site.errors("[groups]\ng = []", &Environment::default());
    let starts = [
        "projects.d/a.toml: data: only groups, datasets and projects may stand in projects.d; move this to torno.toml",
        "projects.d/a.toml: listen: only groups",
        "projects.d/b.toml: groups.g: this name is defined in torno.toml already",
        "projects.d/b.toml: projects.p: this name is defined in projects.d/a.toml already",
        "projects.d/a.toml: projects.p.logs: expected",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}\n{start}");
    }
}

#[test]
fn data_that_another_process_finds_need_not_be_found() {
    let site = Site::new();
    let text = "[datasets.far]\npath = '/nonexistent/far'\n[executor]\nwithin = 'execute'";
    let path = site.path("torno.toml");
    std::fs::write(&path, text).expect("write");
    let config = Config::load(&path, &Environment::default(), Within::Serve).expect("good for a server");
    let far = DataPlace::Folder("/nonexistent/far".into());
    assert_eq!((config.within, &config.datasets[0].place), (Within::Execute, &far));
    let errors = Config::load(&path, &Environment::default(), Within::Execute).expect_err("nothing to mount");
    assert!(errors.to_string().contains("there is no folder /nonexistent/far"), "{errors}");
    let alone = site.errors("[datasets.far]\npath = '/nonexistent/far'", &Environment::default());
    assert!(alone[0].contains("there is no folder"), "{alone:?}");
    let neither = site.errors("[executor]\nwithin = 'both'", &Environment::default());
    assert!(neither[0].contains("within \"serve\""), "{neither:?}");
}
