//! Whole configurations, good and bad.

mod ldap;
mod oidc;
mod project;
mod tls;

use std::fs;

use bytesize::ByteSize;
use torno_auth::{Members, Others, UserName, Visibility};
use torno_executor::{Cpus, Limits, LogPolicy};

use super::*;

/// A folder with a configuration and a dataset's folder `retina`.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(tempfile::tempdir().expect("folder"));
        fs::create_dir(site.path("retina")).expect("folder");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().expect("folder").join(name)
    }

    /// Adds a file under `projects.d`.
    fn beside(self, name: &str, text: &str) -> Self {
        fs::create_dir_all(self.path("projects.d")).expect("folder");
        fs::write(self.path("projects.d").join(name), text).expect("write");
        self
    }

    fn load(&self, text: &str, environment: &Environment) -> Result<Config, ConfigErrors> {
        let path = self.path("torno.toml");
        fs::write(&path, text).expect("write");
        Config::load(&path, environment, Within::Serve)
    }

    fn good(&self, text: &str) -> Config {
        self.load(text, &Environment::default()).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
    }

    /// The errors, one each, without the count.
    fn errors(&self, text: &str, environment: &Environment) -> Vec<String> {
        let errors = self.load(text, environment).expect_err(text).to_string();
        let mut lines: Vec<_> = errors.lines().map(str::to_owned).collect();
        let count = lines.pop().expect("count");
        let plural = if lines.len() == 1 { "" } else { "s" };
        assert!(count.ends_with(&format!("torno.toml has {} error{plural}", lines.len())), "{errors}");
        lines
    }
}

fn good(text: &str) -> Config {
    Site::new().good(text)
}

/// The one error of a configuration.
#[track_caller]
fn error(text: &str) -> String {
    let mut errors = Site::new().errors(text, &Environment::default());
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

#[track_caller]
fn assert_error(text: &str, place: &str, words: &str) {
    let error = error(text);
    assert!(error.starts_with(&format!("{place}: ")) && error.contains(words), "{text}\n{error}");
}

fn project(key: &str) -> String {
    format!("[datasets]\nretina.path = \"retina\"\n[projects.p]\nresearchers = [\"ada\"]\n{key}\n")
}

fn policy_of(config: &Config) -> &ProjectPolicy {
    config.projects.get("p").expect("project")
}

#[test]
fn nothing_is_required() {
    let site = Site::new();
    let config = site.good("");
    assert_eq!(config.data, site.path("registry-data"));
    assert_eq!(config.auth.htpasswd, site.path("registry-data/htpasswd"));
    assert_eq!(config.address.to_string(), "127.0.0.1:5000");
    assert_eq!(config.hostname, None);
    assert_eq!(config.limits, torno_server::Limits::default());
    assert_eq!(config.proxies, Proxies::default());
    assert_eq!(config.executor.engine, Path::new("/var/run/docker.sock"));
    assert_eq!(config.executor.concurrent_runs, 1);
    assert_eq!(config.executor.volatile, Path::new("/dev/shm"));
    assert_eq!(config.result_wait, Duration::from_secs(30));
    assert_eq!(config.registry, torno_registry::Settings::default());
    assert_eq!(config.chunk_min_length, None);
    assert_eq!(config.policy, Policy::default());
    assert!(config.projects.is_empty() && config.datasets.is_empty() && config.warnings.is_empty());
}

#[test]
fn everything_can_be_said() {
    let site = Site::new();
    let config = site.good(
        r#"
        data = "/nowhere/data"
        [listen]
        address = "0.0.0.0:443"
        hostname = "registry.example.org"
        connections = 100
        connections_per_address = 7
        handshake_timeout = "1s"
        header_timeout = "2s"
        body_timeout = "3s"
        proxies = ["127.0.0.1", "10.0.0.0/8"]
        [tls]
        mode = "off"
        i_know_passwords_travel_in_clear = true
        [auth]
        htpasswd = "users"
        admins = ["root"]
        robots = ["ci"]
        token_lifetime = "2m"
        login_lifetime = "1day"
        [[access]]
        repositories = ["tools/**"]
        pull = ["@users"]
        push = ["@team", "ci"]
        [[access]]
        repositories = ["public/**"]
        pull = ["eve", "@anyone", "@users"]
        [groups]
        team = ["ada", "bob"]
        [executor]
        engine = "unix:///run/podman.sock"
        concurrent_runs = 3
        gpus = 2
        keep_free = "2GiB"
        keep_cache = "3GiB"
        reconcile = "5m"
        patience = "1h"
        attempts = 5
        [registry]
        sparse_indexes = true
        sparse_images = true
        upload_lifetime = "2h"
        chunk_min_length = "1MiB"
        [storage]
        check = "digest"
        [scrub]
        interval = "7days"
        rate = "2MiB"
        [results]
        wait = "1m"
        [gc]
        interval = "0s"
        grace = "5m"
        [[retention]]
        repositories = ["ci/**", "tools/*"]
        keep_newest = 2
        keep_tags = ["v*"]
        keep_pulled_within = "30days"
        delete_untagged_after = "0s"
        [datasets.retina]
        path = "retina"
        [projects.p]
        researchers = ["@team", "eve"]
        custodians = ["cora"]
        robots = ["p-ci"]
        datasets = ["retina"]
        visibility = "project"
        logs = "never"
        keep_images = "2h"
        mount = "/opt/ml/model"
        environment = { SEED = "42", _a1 = "" }
        limits = { cpus = 0.5, memory = "4GiB", pids = 7, time = "2h", output = "2GiB", entries = 9, depth = 5, tmp = "1MiB", log = "2KiB", gpus = 2 }
        "#,
    );
    assert_eq!(config.data, Path::new("/nowhere/data"));
    assert_eq!(config.address.to_string(), "0.0.0.0:443");
    assert_eq!(config.hostname.as_ref().map(ToString::to_string).as_deref(), Some("registry.example.org"));
    let granted = torno_server::Limits {
        connections: 100,
        connections_per_address: 7,
        handshake: Duration::from_secs(1),
        header: Duration::from_secs(2),
        body: Duration::from_secs(3),
    };
    assert_eq!(config.limits, granted);
    let ranges = ["127.0.0.1", "10.0.0.0/8"].map(|text| text.parse().expect("a range"));
    assert_eq!(config.proxies, ranges.into_iter().collect());
    assert_eq!(config.auth.htpasswd, site.path("users"));
    assert_eq!(config.executor.engine, Path::new("/run/podman.sock"));
    assert_eq!(config.executor.concurrent_runs, 3);
    assert_eq!(config.executor.keep_free, ByteSize::gib(2));
    assert_eq!(config.executor.keep_cache, ByteSize::gib(3));
    let living = (config.executor.reconcile, config.executor.patience, config.executor.attempts);
    assert_eq!(living, (Duration::from_mins(5), Duration::from_hours(1), 5));
    assert_eq!(config.result_wait, Duration::from_mins(1));
    assert_eq!(config.gc, Gc { interval: Duration::ZERO, grace: Duration::from_mins(5) });
    let [rule] = &config.retention.rules[..] else { panic!("one rule") };
    assert_eq!(rule.repositories.to_string(), "ci/**, tools/*");
    assert_eq!((rule.newest, rule.tags.as_ref().map(ToString::to_string)), (Some(2), Some("v*".into())));
    let (pulled, untagged) = (rule.pulled_within, rule.untagged_after);
    assert_eq!((pulled, untagged), (Some(Duration::from_hours(30 * 24)), Some(Duration::ZERO)));
    assert_eq!(
        config.retention.images.get("p"),
        Some(&torno_registry::KeepImages::For(Duration::from_hours(2)))
    );
    let (sparse, upload_lifetime) = (Presence::Optional, Duration::from_hours(2));
    let expected = torno_registry::Settings {
        children: sparse,
        blobs: sparse,
        upload_lifetime,
        check: torno_registry::Check::Digest,
    };
    assert_eq!(config.registry, expected);
    assert_eq!(config.chunk_min_length, Some(ByteSize::mib(1)));
    let scrub = Scrub { interval: Duration::from_hours(7 * 24), rate: ByteSize::mib(2) };
    assert_eq!(config.scrub, scrub);
    let user = |name: &str| name.parse::<UserName>().expect("name");
    assert_eq!(config.policy.admins, [user("root")].into());
    assert_eq!(config.policy.robots, ["ci", "p-ci"].map(user).into());
    assert_eq!(config.auth.token_lifetime, Duration::from_mins(2));
    assert_eq!(config.auth.login_lifetime, Duration::from_hours(24));
    let [tools, public] = &config.policy.access[..] else { panic!("two rules") };
    assert_eq!(tools.repositories.to_string(), "tools/**");
    assert_eq!(tools.pull, Members { others: Others::Users, ..Members::default() });
    assert_eq!(tools.push, ["ada", "bob", "ci"].map(user).into());
    assert_eq!(tools.delete, Members::default());
    assert_eq!(public.pull, Members { others: Others::Anyone, ..[user("eve")].into() });
    let members = config.policy.projects.get("p").expect("project");
    assert_eq!(members.researchers, ["ada", "bob", "eve"].map(user).into());
    assert_eq!(members.custodians, [user("cora")].into());
    assert_eq!(members.robots, [user("p-ci")].into());
    assert_eq!(members.visibility, Visibility::Project);
    let policy = policy_of(&config);
    assert_eq!(policy.datasets, [Dataset::folder("retina", site.path("retina"))]);
    assert_eq!(config.datasets, policy.datasets);
    assert_eq!(policy.mount, "/opt/ml/model");
    assert_eq!(policy.logs, LogPolicy::Never);
    assert_eq!(policy.environment, [("SEED".into(), "42".into()), ("_a1".into(), String::new())].into());
    let expected = Limits {
        cpus: Cpus::new(0.5).expect("half"),
        memory: ByteSize::gib(4),
        pids: 7,
        time: Duration::from_hours(2),
        output: ByteSize::gib(2),
        entries: 9,
        depth: 5,
        tmp: ByteSize::mib(1),
        log: ByteSize::kib(2),
        gpus: 2,
    };
    assert_eq!(policy.limits, expected);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn people_groups_and_robots_have_their_places() {
    let site = Site::new();
    for (text, key, words) in [
        ("[auth]\nadmins = ['ci']\nrobots = ['ci']", "auth.admins[0]", "is a robot"),
        ("[projects.p]\nrobots = ['ci']\nresearchers = ['ci']", "projects.p.researchers[0]", "is a robot"),
        ("[projects.p]\nresearchers = ['@users']", "projects.p.researchers[0]", "[[access]] only"),
        ("[groups]\nanyone = ['ada']", "groups.anyone", "meaning of its own"),
        ("[[access]]\nrepositories = ['a']", "access[0].pull", "nobody in but admins"),
        ("[[access]]\npull = ['ada']", "access[0].repositories", "say which"),
        ("[[access]]\nrepositories = ['a']\npush = ['@anyone']", "access[0].push", "can only pull"),
        ("[[access]]\nrepositories = ['[']\npull = ['ada']", "access[0].repositories[0]", "no pattern"),
        ("[[access]]\nrepositories = ['a']\npull = ['@b']", "access[0].pull[0]", "there is no group `b`"),
        ("[auth]\ntoken_lifetime = '59s'", "auth.token_lifetime", "not within 1m to 1h"),
        ("[auth]\nlogin_lifetime = '366days'", "auth.login_lifetime", "not within"),
    ] {
        let errors = site.errors(text, &Environment::default());
        let expected = format!("{key}: ");
        let found = errors.iter().any(|line| line.contains(&expected) && line.contains(words));
        assert!(found, "{text}: {errors:?}");
    }
}

#[test]
fn every_error_is_reported_at_once_with_its_path() {
    let text = r#"
        dta = "x"
        [listen]
        adress = "127.0.0.1:5000"
        [executor]
        concurrent_runs = "two"
        [datasets.lung]
        path = "no/such/folder"
        [projects.retina]
        researchers = ["@nobody", "a b", 7]
        datasets = ["lung", "liver"]
        [projects.retina.limits]
        memory = "4"
        pids = 0
        colour = "red"
    "#;
    let errors = Site::new().errors(text, &Environment::default());
    let places: Vec<_> = errors.iter().map(|error| error.split_once(": ").expect("place").0).collect();
    let expected = [
        "listen.adress",
        "executor.concurrent_runs",
        "dta",
        "datasets.lung.path",
        "projects.retina.researchers[0]",
        "projects.retina.researchers[1]",
        "projects.retina.researchers[2]",
        "projects.retina.datasets[1]",
        "projects.retina.limits.memory",
        "projects.retina.limits.pids",
        "projects.retina.limits.colour",
    ];
    assert_eq!(places, expected, "{errors:#?}");
}

#[test]
fn unknown_keys_are_refused_everywhere() {
    let cases = [
        ("dtaa = \"x\"", "dtaa", "did you mean `data`?"),
        ("[listen]\nport = 1", "listen.port", "unknown key; known here: address, body_timeout, connections"),
        ("[tls]\nmod = \"off\"", "tls.mod", "did you mean `mode`?"),
        ("[auth]\nadmin = []", "auth.admin", "did you mean `admins`?"),
        ("[registry]\nsparse_index = true", "registry.sparse_index", "did you mean `sparse_indexes`?"),
        ("[executor]\nengin = 1", "executor.engin", "did you mean `engine`?"),
        ("[storage]\nchek = 1", "storage.chek", "did you mean `check`?"),
        ("[scrub]\nrates = 1", "scrub.rates", "did you mean `rate`?"),
        ("[results]\nwaits = 1", "results.waits", "did you mean `wait`?"),
        ("[datasets.a]\npath = \"retina\"\nfolder = 1", "datasets.a.folder", "known here: path"),
        ("[projects.p]\nreserchers = []", "projects.p.reserchers", "did you mean `researchers`?"),
        ("[projects.p.limits]\nmemry = 1", "projects.p.limits.memry", "did you mean `memory`?"),
        ("[project.p]", "project", "did you mean `projects`?"),
    ];
    for (text, place, words) in cases {
        assert_error(text, place, words);
    }
}

#[test]
fn values_of_the_wrong_kind() {
    let cases = [
        ("data = 1", "data", "expected a path in quotes, found a whole number"),
        ("data = \"\"", "data", "not a path"),
        ("data = \"torno.toml\"", "data", "is not a folder"),
        ("listen = 1", "listen", "expected a table"),
        ("[listen]\naddress = 5000", "listen.address", "expected an address"),
        ("[listen]\naddress = \"localhost:5000\"", "listen.address", "127.0.0.1:5000"),
        ("[listen]\nhostname = \"https://a.b\"", "listen.hostname", "scheme"),
        ("[listen]\nproxies = \"127.0.0.1\"", "listen.proxies", "expected a list"),
        ("[listen]\nproxies = [1]", "listen.proxies[0]", "expected an address or a range"),
        ("[listen]\nproxies = [\"localhost\"]", "listen.proxies[0]", "10.0.0.0/8"),
        ("[listen]\nproxies = [\"0.0.0.0/0\"]", "listen.proxies[0]", "anybody could claim"),
        ("[tls]\nmode = false", "tls.mode", "expected \"off\", \"files\" or \"acme\""),
        ("[tls]\ncertificate = 1", "tls.certificate", "expected a path in quotes"),
        ("[tls]\nkey = \"\"", "tls.key", "not a path"),
        (
            "[tls]\ni_know_passwords_travel_in_clear = \"yes\"",
            "tls.i_know_passwords_travel_in_clear",
            "true or false",
        ),
        ("[auth]\nadmins = \"root\"", "auth.admins", "expected a list"),
        ("[auth]\nadmins = [\"@team\"]", "auth.admins[0]", "no group `team`"),
        ("[groups]\na = [\"@b\"]", "groups.a[0]", "user name"),
        ("[groups]\nA = []", "groups.A", "lower-case"),
        ("[groups]\n\"\" = []", "groups.\"\"", "a name has"),
        ("[executor]\nengine = \"tcp://127.0.0.1:2375\"", "executor.engine", "unix://"),
        ("[executor]\naccept = \"memory\"", "executor.accept", "a list of lines"),
        ("[executor]\naccept = [\"memory\", \"memry\"]", "executor.accept[1]", "no line of this name"),
        ("[executor]\nconcurrent_runs = 1.5", "executor.concurrent_runs", "expected a whole number"),
        ("[registry]\nsparse_indexes = 1", "registry.sparse_indexes", "true or false"),
        ("[registry]\nupload_lifetime = \"24\"", "registry.upload_lifetime", "has no unit"),
        ("[registry]\nchunk_min_length = 5", "registry.chunk_min_length", "expected a size"),
        ("[storage]\ncheck = \"no\"", "storage.check", "neither"),
        ("[storage]\ncheck = true", "storage.check", "expected \"length\" or \"digest\""),
        ("[scrub]\nrate = \"10\"", "scrub.rate", "has no unit"),
        ("[[retention]]\nkeep_newest = 1", "retention[0].repositories", "say which repositories"),
        ("[[retention]]\nrepositories = [\"a\"]", "retention[0].keep_newest", "lets go of nothing"),
        (
            "[[retention]]\nkeep_newest = 1\nrepositories = [\"a[\"]",
            "retention[0].repositories[0]",
            "is no pattern",
        ),
        ("retention = 1", "retention", "[[retention]]"),
        ("[projects.p]\nkeep_images = \"some\"", "projects.p.keep_images", "neither \"none\" nor \"last\""),
        ("[results]\nwait = 30", "results.wait", "expected a length of time in quotes"),
        ("[results]\nwait = \"30\"", "results.wait", "has no unit"),
        ("datasets = []", "datasets", "expected a table"),
        ("[datasets]\na = \"retina\"", "datasets.a", "expected a table"),
        ("[datasets.a]", "datasets.a.path", "in which folder"),
        ("[datasets.a]\nvolume = \"/srv/data\"", "datasets.a.volume", "no name of a volume"),
        ("[datasets.a]\nvolume = \"torno-0-run-1\"", "datasets.a.volume", "Torno's own"),
        ("[datasets.a]\nvolume = \"v\"\npath = \"retina\"", "datasets.a.path", "keep one of"),
        ("[datasets.A]\npath = \"retina\"", "datasets.A", "lower-case"),
        ("[projects.P]\nresearchers = []", "projects.P", "project name"),
        ("[projects]\np = 1", "projects.p", "expected a table"),
    ];
    for (text, place, words) in cases {
        assert_error(text, place, words);
    }
}

#[test]
fn settings_at_their_bounds_and_one_past_them() {
    for (key, inside, outside) in [
        ("[listen]\nconnections", ["1", "262144"], ["0", "262145"]),
        ("[listen]\nconnections_per_address", ["1", "262144"], ["0", "262145"]),
        ("[listen]\nhandshake_timeout", ["\"1s\"", "\"1m\""], ["\"999ms\"", "\"1m 1ms\""]),
        ("[listen]\nheader_timeout", ["\"1s\"", "\"15m\""], ["\"999ms\"", "\"15m 1ms\""]),
        ("[listen]\nbody_timeout", ["\"1s\"", "\"1h\""], ["\"999ms\"", "\"1h 1ms\""]),
        ("[executor]\nconcurrent_runs", ["1", "64"], ["0", "65"]),
        ("[executor]\nkeep_free", ["\"0B\"", "\"1PiB\""], ["\"-1B\"", "\"1025TiB\""]),
        ("[executor]\nkeep_cache", ["\"0B\"", "\"1PiB\""], ["\"-1B\"", "\"1025TiB\""]),
        ("[executor]\nreconcile", ["\"1s\"", "\"1h\""], ["\"999ms\"", "\"1h 1ms\""]),
        ("[executor]\npatience", ["\"10s\"", "\"24h\""], ["\"9999ms\"", "\"24h 1ms\""]),
        ("[executor]\nattempts", ["1", "10"], ["0", "11"]),
        ("[registry]\nupload_lifetime", ["\"1s\"", "\"30days\""], ["\"999ms\"", "\"30days 1ms\""]),
        ("[registry]\nchunk_min_length", ["\"1B\"", "\"1GiB\""], ["\"0B\"", "\"1073741825B\""]),
        ("[scrub]\ninterval", ["\"0s\"", "\"365days\""], ["\"-1s\"", "\"365days 1s\""]),
        ("[scrub]\nrate", ["\"1KiB\"", "\"10GiB\""], ["\"1023B\"", "\"10241MiB\""]),
        ("[gc]\ninterval", ["\"0s\"", "\"30days\""], ["\"-1s\"", "\"30days 1ms\""]),
        ("[gc]\ngrace", ["\"0s\"", "\"30days\""], ["\"-1s\"", "\"30days 1ms\""]),
        ("[results]\nwait", ["\"0s\"", "\"5m\""], ["\"-1s\"", "\"5m 1ms\""]),
    ] {
        for value in inside {
            good(&format!("{key} = {value}"));
        }
        for value in outside {
            assert!(!error(&format!("{key} = {value}")).is_empty());
        }
    }
}

#[test]
fn variables_stand_above_the_file() {
    let environment = Environment::from([
        ("TORNO_DATA", "other"),
        ("TORNO_LISTEN_ADDRESS", "0.0.0.0:1"),
        ("TORNO_LISTEN_HOSTNAME", "a.b"),
        ("TORNO_TLS_MODE", "off"),
        ("TORNO_TLS_I_KNOW_PASSWORDS_TRAVEL_IN_CLEAR", "true"),
        ("TORNO_AUTH_HTPASSWD", "users"),
        ("TORNO_EXECUTOR_ENGINE", "unix:///x"),
        ("TORNO_EXECUTOR_CONCURRENT_RUNS", "2"),
        ("TORNO_RESULTS_WAIT", "1s"),
        ("TORNO_REGISTRY_SPARSE_INDEXES", "true"),
        ("TORNO_REGISTRY_SPARSE_IMAGES", "true"),
        ("TORNO_REGISTRY_UPLOAD_LIFETIME", "3h"),
        ("TORNO_REGISTRY_CHUNK_MIN_LENGTH", "4KiB"),
        ("TORNO_STORAGE_CHECK", "digest"),
        ("TORNO_SCRUB_INTERVAL", "0s"),
        ("TORNO_SCRUB_RATE", "1KiB"),
    ]);
    let site = Site::new();
    let written = "data = \"d\"\n[listen]\naddress = \"127.0.0.1:9\"\n[tls]\nmode = \"off\"\n[executor]\nconcurrent_runs = 9";
    for text in ["", written] {
        let config = site.load(text, &environment).expect("good");
        assert_eq!(config.data, site.path("other"));
        assert_eq!(config.address.to_string(), "0.0.0.0:1");
        assert_eq!(config.hostname.map(|name| name.to_string()).as_deref(), Some("a.b"));
        assert_eq!(config.auth.htpasswd, site.path("users"));
        assert_eq!(config.executor.engine, Path::new("/x"));
        assert_eq!(config.executor.concurrent_runs, 2);
        assert_eq!(config.result_wait, Duration::from_secs(1));
        let (sparse, upload_lifetime) = (Presence::Optional, Duration::from_hours(3));
        let expected = torno_registry::Settings {
            children: sparse,
            blobs: sparse,
            upload_lifetime,
            check: torno_registry::Check::Digest,
        };
        assert_eq!(config.registry, expected);
        assert_eq!(config.chunk_min_length, Some(ByteSize::kib(4)));
        assert_eq!(config.scrub, Scrub { interval: Duration::ZERO, rate: ByteSize::kib(1) });
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}

#[test]
fn errors_in_variables_name_the_variable() {
    let cases = [
        ("TORNO_DATA", ""),
        ("TORNO_LISTEN_ADDRESS", "0.0.0.0:1"),
        ("TORNO_LISTEN_HOSTNAME", "registry"),
        ("TORNO_TLS_MODE", "on"),
        ("TORNO_TLS_CLIENT_LOGIN", "maybe"),
        ("TORNO_LISTEN_HTTP", "80"),
        ("TORNO_TLS_I_KNOW_PASSWORDS_TRAVEL_IN_CLEAR", "yes"),
        ("TORNO_EXECUTOR_ENGINE", "tcp://a"),
        ("TORNO_EXECUTOR_CONCURRENT_RUNS", "0"),
        ("TORNO_EXECUTOR_CONCURRENT_RUNS", "two"),
        ("TORNO_RESULTS_WAIT", "30"),
        ("TORNO_REGISTRY_SPARSE_INDEXES", "yes"),
        ("TORNO_REGISTRY_UPLOAD_LIFETIME", "0s"),
        ("TORNO_REGISTRY_CHUNK_MIN_LENGTH", "1"),
    ];
    for (name, value) in cases {
        let errors = Site::new().errors("", &Environment::from([(name, value)]));
        assert_eq!(errors.len(), 1, "{errors:#?}");
        assert!(errors[0].starts_with(&format!("{name}: ")), "{errors:#?}");
    }
}

#[test]
fn variables_that_set_nothing_are_pointed_at() {
    let warnings = |name| {
        let environment = Environment::from([(name, "x")]);
        Site::new().load("", &environment).expect("good").warnings
    };
    assert!(warnings("TORNO_LISTEN_ADRESS")[0].contains("did you mean TORNO_LISTEN_ADDRESS?"));
    assert!(warnings("TORNO_AUTH_ADMINS")[0].contains("only single values"));
    for not_ours in ["TORNO_CONFIG", "TORNO_SERVICE_HOST", "TORNO_PORT_5000_TCP"] {
        assert!(warnings(not_ours).is_empty(), "{not_ours}");
    }
}

#[test]
fn files_that_cannot_be_read_are_all_named_and_nothing_else_is_said() {
    let site = Site::new().beside("a.toml", "[").beside("b.toml", "x = ");
    fs::create_dir(site.path("projects.d/c.toml")).expect("folder");
    let errors = site.errors("unknown = 1\ny == 1", &Environment::default());
    let starts = [
        "torno.toml: line 2, column 4: ",
        "projects.d/a.toml: line 1, ",
        "projects.d/b.toml: line 1, ",
        "projects.d/c.toml: it cannot be read: ",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}\n{start}");
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let site = Site::new();
    let errors =
        Config::load(&site.path("none.toml"), &Environment::default(), Within::Serve).expect_err("missing");
    assert!(errors.to_string().starts_with("none.toml: it cannot be read: No such file"), "{errors}");
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let empty = good("[groups]\ng = []\n[projects.p]\n[projects.q]\nresearchers = [\"@g\"]");
    assert_eq!(empty.warnings.len(), 2);
    assert!(empty.warnings[0].starts_with("projects.p: this project has no researchers"));
    let careless = good("[executor]\naccept = [\"memory\"]\n[projects.p]\nresearchers = [\"ada\"]");
    assert_eq!(careless.executor.accept.iter().map(|attack| attack.name).collect::<Vec<_>>(), ["memory"]);
    assert!(careless.warnings[0].starts_with("executor.accept[0]: runs are started although"));
    let nameless = good("[listen]\naddress = \"0.0.0.0:1\"\n[tls]\ni_know_passwords_travel_in_clear = true");
    assert!(nameless.warnings[0].starts_with("listen.hostname: "), "{:?}", nameless.warnings);
}

#[test]
fn the_documented_example_is_good_and_every_key_is_documented() {
    let text = include_str!("../../../../docs/CONFIGURATION.md");
    let example = text.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("example");
    let site = Site::new();
    let config = site.good(&example.replace("/srv/data/retina", &site.path("retina").display().to_string()));
    assert_eq!((config.projects.len(), config.warnings.len()), (1, 0));

    let unknown = "[listen]\nx = 1\n[tls]\nx = 1\n[auth]\nx = 1\n[executor]\nx = 1\n[results]\nx = 1\n[gc]\nx = 1\n\
         [storage]\nx = 1\n[scrub]\nx = 1\n[audit]\nx = 1\n";
    let more = "[datasets.d]\npath = \"retina\"\nx = 1\n[projects.p]\nx = 1\n[projects.p.limits]\nx = 1\n[[retention]]\nrepositories = [\"a\"]\nkeep_newest = 1\nx = 1\n";
    let errors = site.errors(&format!("x = 1\n{unknown}{more}"), &Environment::default());
    assert_eq!(errors.len(), 14, "{errors:#?}");
    for error in &errors {
        assert_documented(error);
    }
}

/// Fails unless every key is documented that the error of an unknown one names.
#[track_caller]
fn assert_documented(error: &str) {
    let text = include_str!("../../../../docs/CONFIGURATION.md");
    let known = error.split_once("known here: ").expect("known keys").1;
    for key in known.split(", ") {
        assert!(["`", "`[", "`[["].iter().any(|open| text.contains(&format!("{open}{key}"))), "{key}");
    }
}
