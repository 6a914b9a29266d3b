//! The binary as people use it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A folder to run the binary in.
struct Folder(tempfile::TempDir);

/// What a run of the binary said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    /// With what `torno init` makes.
    fn initialised() -> Self {
        let folder = Self::new();
        folder.torno(&["init"], "").done();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn torno(&self, arguments: &[&str], input: &str) -> Said {
        self.torno_with(arguments, input, &[])
    }

    fn torno_with(&self, arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torno"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("TORNO_")) {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(self.0.path()).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start");
        // Who does not read their input may have ended before it was written.
        drop(child.stdin.take().expect("stdin").write_all(input.as_bytes()));
        let Output { status, stdout, stderr } = child.wait_with_output().expect("end");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Said { code: status.code(), out: text(stdout), err: text(stderr) }
    }
}

impl Said {
    #[track_caller]
    fn done(self) -> Self {
        self.ended(0)
    }

    #[track_caller]
    fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("exists").permissions().mode() & 0o777
}

/// The password that `torno init` printed.
fn password(said: &Said) -> &str {
    let line = said.out.lines().find_map(|line| line.trim_start().strip_prefix("password "));
    line.expect("password").trim()
}

/// Apache's own tool: does it take this password?
fn apache_verifies(file: &Path, user: &str, password: &str) -> bool {
    let tool = Command::new("htpasswd").arg("-vb").arg(file).args([user, password]).output();
    tool.expect("Apache's htpasswd (Debian: apache2-utils) is needed by this test").status.success()
}

#[test]
fn init_makes_what_check_config_finds_good() {
    let folder = Folder::new();
    let said = folder.torno(&["init"], "").done();
    assert_eq!(said.err, "");
    assert_eq!(mode(&folder.path("registry-data")), 0o700);
    assert_eq!(mode(&folder.path("certs")), 0o700);
    assert_eq!(mode(&folder.path("registry-data/htpasswd")), 0o600);
    // The process's umask may take more away from 0644, never add.
    assert_eq!(mode(&folder.path("torno.toml")) & !0o044, 0o600);
    let password = password(&said);
    assert!(password.len() >= 20);
    assert_eq!(said.out.matches(password).count(), 1, "shown once");
    assert!(apache_verifies(&folder.path("registry-data/htpasswd"), "admin", password));
    let checked = folder.torno(&["check-config"], "").done();
    assert_eq!(checked.out, "torno.toml is good: 0 projects, 0 datasets\n");
    assert_eq!(checked.err, "");
}

#[test]
fn init_overwrites_nothing() {
    let folder = Folder::initialised();
    let before = fs::read(folder.path("registry-data/htpasswd")).expect("users");
    let again = folder.torno(&["init"], "").ended(1);
    assert!(
        again.err.starts_with("torno: nothing was written: ./torno.toml exists already"),
        "{}",
        again.err
    );
    assert_eq!(again.out, "");
    fs::write(folder.path("torno.toml"), "# mine").expect("write");
    folder.torno(&["init", "."], "").ended(1);
    assert_eq!(fs::read_to_string(folder.path("torno.toml")).expect("read"), "# mine");
    fs::remove_file(folder.path("torno.toml")).expect("remove");
    let users = folder.torno(&["init"], "").ended(1);
    assert!(users.err.contains("registry-data/htpasswd exists already"), "{}", users.err);
    assert!(!folder.path("torno.toml").exists());
    assert_eq!(fs::read(folder.path("registry-data/htpasswd")).expect("users"), before);
}

#[test]
fn init_uses_folders_that_are_there_and_points_at_open_ones() {
    let folder = Folder::new();
    fs::create_dir(folder.path("registry-data")).expect("folder");
    fs::set_permissions(folder.path("registry-data"), fs::Permissions::from_mode(0o755)).expect("mode");
    fs::write(folder.path("registry-data/README.md"), "note").expect("write");
    let said = folder.torno(&["init"], "").done();
    assert!(said.err.contains("chmod 700 ./registry-data"), "{}", said.err);
    assert_eq!(mode(&folder.path("registry-data")), 0o755);
}

#[test]
fn a_failed_init_can_be_tried_again() {
    let folder = Folder::new();
    fs::write(folder.path("certs"), "a file where a folder belongs").expect("write");
    let failed = folder.torno(&["init"], "").ended(1);
    assert!(failed.err.contains("./certs could not be made: "), "{}", failed.err);
    assert_eq!(failed.out, "", "no password of nobody");
    fs::remove_file(folder.path("certs")).expect("remove");
    folder.torno(&["init"], "").done();
}

#[test]
fn init_in_another_folder_says_how_to_get_there() {
    let folder = Folder::new();
    let said = folder.torno(&["init", "my site/new"], "").done();
    assert!(said.out.contains("cd 'my site/new' && torno check-config"), "{}", said.out);
    folder.torno(&["check-config", "--config", "my site/new/torno.toml"], "").done();
}

#[test]
fn without_a_configuration_one_is_told_how_to_get_one() {
    let folder = Folder::new();
    let expected = "torno: no torno.toml here; make one with `torno init`, or name it with --config\n";
    for arguments in [&["check-config"][..], &["user", "list"]] {
        let said = folder.torno(arguments, "").ended(64);
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", expected));
    }
    let named = folder.torno(&["check-config", "--config", "x.toml"], "").ended(64);
    assert!(named.err.starts_with("torno: there is no x.toml; "), "{}", named.err);
}

#[test]
fn users_can_be_added_before_the_first_start() {
    let folder = Folder::new();
    std::fs::write(folder.path("torno.toml"), "").expect("write");
    folder.torno(&["user", "add", "ada", "--password-stdin"], "secret").done();
    let again = folder.torno(&["user", "add", "ada", "--password-stdin"], "secret").ended(1);
    assert!(again.err.contains("exists already"), "{}", again.err);
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(folder.path(name)).expect(name).permissions().mode() & 0o777
    };
    assert_eq!((mode("registry-data"), mode("registry-data/htpasswd")), (0o700, 0o600));
}

#[test]
fn all_errors_are_printed_one_a_line_with_their_count() {
    let folder = Folder::new();
    fs::write(folder.path("torno.toml"), "dta = 1\n[executor]\nconcurrent_runs = 0\n").expect("write");
    let said = folder.torno(&["check-config"], "").ended(64);
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines.len(), 3, "{}", said.err);
    assert!(lines[0].starts_with("executor.concurrent_runs: "), "{}", said.err);
    assert!(lines[1].starts_with("dta: unknown key; did you mean `data`?"), "{}", said.err);
    assert_eq!(lines[2], "torno.toml has 2 errors");
    assert_eq!(said.out, "");
}

#[test]
fn variables_name_the_file_and_stand_above_it() {
    let folder = Folder::initialised();
    let elsewhere = Folder::new();
    let file = folder.path("torno.toml").display().to_string();
    let named = [("TORNO_CONFIG", file.as_str())];
    elsewhere.torno_with(&["check-config"], "", &named).done();
    let wrong = [named[0], ("TORNO_RESULTS_WAIT", "1h")];
    let said = elsewhere.torno_with(&["check-config"], "", &wrong).ended(64);
    assert!(said.err.starts_with("TORNO_RESULTS_WAIT: `1h` is not within 0s to 5m\n"), "{}", said.err);
}

#[test]
fn warnings_are_no_errors() {
    let folder = Folder::new();
    fs::write(folder.path("torno.toml"), "[projects.p]\n").expect("write");
    let said = folder.torno(&["check-config"], "").done();
    assert_eq!(said.out, "torno.toml is good: 1 project, 0 datasets\n");
    assert!(said.err.starts_with("warning: projects.p: this project has no researchers"), "{}", said.err);
}

#[test]
fn users_come_change_and_go() {
    let folder = Folder::initialised();
    let file = folder.path("registry-data/htpasswd");
    let added = folder.torno(&["user", "add", "ada", "--password-stdin"], "first pass:word\n").done();
    assert!(added.err.contains("in no project yet"), "{}", added.err);
    assert!(apache_verifies(&file, "ada", "first pass:word"));
    assert!(!apache_verifies(&file, "ada", "first"));

    let twice = folder.torno(&["user", "add", "ada", "--password-stdin"], "x").ended(1);
    assert_eq!(
        twice.err,
        "torno: `ada` was not added: user `ada` exists already; change the password with `torno user passwd ada`\n"
    );
    folder.torno(&["user", "passwd", "ada", "--password-stdin"], "second").done();
    assert!(apache_verifies(&file, "ada", "second"));
    assert!(!apache_verifies(&file, "ada", "first pass:word"));

    let listed = folder.torno(&["user", "list"], "").done();
    assert_eq!(listed.out, "admin\nada\n");
    assert_eq!(listed.err, "admin: `admin` is an admin\n");

    folder.torno(&["user", "remove", "ada"], "").done();
    assert_eq!(folder.torno(&["user", "list"], "").done().out, "admin\n");
    let missing = folder.torno(&["user", "remove", "ada"], "").ended(1);
    assert!(
        missing.err.starts_with("torno: `ada` was not removed: there is no user `ada`"),
        "{}",
        missing.err
    );
    folder.torno(&["user", "passwd", "ada", "--password-stdin"], "x").ended(1);
    let admin = folder.torno(&["user", "remove", "admin"], "").done();
    assert!(admin.err.contains("still stands in the configuration"), "{}", admin.err);
    assert!(folder.torno(&["user", "list"], "").done().err.contains("cannot log in yet"));
}

#[test]
fn users_that_apache_made_are_listed_and_weak_ones_named() {
    let folder = Folder::initialised();
    let file = folder.path("registry-data/htpasswd");
    for (scheme, user) in [("-B", "bob"), ("-m", "mia")] {
        let tool = Command::new("htpasswd").args(["-b", scheme]).arg(&file).args([user, "secret"]).output();
        assert!(tool.expect("Apache's htpasswd is needed by this test").status.success());
    }
    let listed = folder.torno(&["user", "list"], "").done();
    assert_eq!(listed.out, "admin\nbob\n");
    assert!(listed.err.contains("line 3: the password of `mia` is stored as Apache MD5"), "{}", listed.err);
    folder.torno(&["user", "passwd", "mia", "--password-stdin"], "secret").done();
    assert_eq!(folder.torno(&["user", "list"], "").done().out, "admin\nbob\nmia\n");
}

#[test]
fn a_password_that_cannot_be_had_adds_nobody() {
    let folder = Folder::initialised();
    let long = "x".repeat(73);
    for (arguments, input, words) in [
        (&["user", "add", "ada"][..], "secret\n", "--password-stdin"),
        (&["user", "add", "ada", "--password-stdin"], "", "1 to 72 bytes"),
        (&["user", "add", "ada", "--password-stdin"], "\n", "1 to 72 bytes"),
        (&["user", "add", "ada", "--password-stdin"], "a\nb\n", "no control characters"),
        (&["user", "add", "ada", "--password-stdin"], &long, "more than 72 bytes"),
    ] {
        let said = folder.torno(arguments, input).ended(1);
        assert!(said.err.starts_with("torno: ") && said.err.contains(words), "{}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    }
    assert_eq!(folder.torno(&["user", "list"], "").done().out, "admin\n");
}

#[test]
fn wrong_usage_ends_with_2() {
    let folder = Folder::initialised();
    for arguments in [
        &[][..],
        &["serf"],
        &["user"],
        &["user", "add"],
        &["user", "add", "a:b"],
        &["user", "add", "ada", "pw"],
    ] {
        folder.torno(arguments, "").ended(2);
    }
    let name = folder.torno(&["user", "add", "a:b"], "").ended(2);
    assert!(name.err.contains("a user name has 1 to 64 letters"), "{}", name.err);
}

#[test]
fn help_has_examples() {
    let folder = Folder::new();
    for arguments in [&["--help"][..], &["init", "--help"], &["check-config", "--help"], &["user", "--help"]]
    {
        let said = folder.torno(arguments, "").done();
        assert!(said.out.contains("torno init") || said.out.contains("Examples:"), "{}", said.out);
    }
}
