use crate::Limits;

use super::{
    samples::{config, datasets, plan, reviewed},
    *,
};

#[test]
fn every_setting_of_every_kind_of_run() {
    for (name, plan) in samples::all() {
        reviewed(&format!("plan-{name}"), &format!("{plan:#?}"));
    }
}

#[test]
fn what_an_image_sets_is_taken_away_where_it_is_not_its_to_set() {
    let policy = ProjectPolicy {
        environment: BTreeMap::from([
            ("FOLDS".into(), "5".into()),
            ("HOME".into(), "/output".into()),
            ("TORNO_RUN".into(), "99".into()),
        ]),
        ..ProjectPolicy::default()
    };
    let names = ["LD_PRELOAD", "NVIDIA_VISIBLE_DEVICES", "TORNO_RUN", "TORNO_X", "HOME", "LDX", "FOLDS"];
    let made = plan(&config(&names, &[]), &policy).expect("plan");
    let set = [
        ("FOLDS", "5"),
        ("HOME", "/output"),
        ("NVIDIA_VISIBLE_DEVICES", "void"),
        ("TORNO_INPUT", "/input"),
        ("TORNO_OUTPUT", "/output"),
        ("TORNO_PROJECT", "retina"),
        ("TORNO_RUN", "12"),
    ];
    assert_eq!(made.environment, set.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(made.taken_away, ["LD_PRELOAD", "TORNO_X"].map(str::to_owned).into());
    // Which GPUs it has is the engine's to say then.
    let made = samples::with_gpus(&config(&names, &[]), &policy, &[0]).expect("plan");
    assert!(!made.environment.contains_key("NVIDIA_VISIBLE_DEVICES"));
    assert_eq!(
        made.taken_away,
        ["LD_PRELOAD", "NVIDIA_VISIBLE_DEVICES", "TORNO_X"].map(str::to_owned).into()
    );
}

#[test]
fn several_datasets_stand_side_by_side() {
    let policy = ProjectPolicy {
        datasets: datasets(&["a", "b"]),
        mount: "/opt//ml/model/".into(),
        ..ProjectPolicy::default()
    };
    let made = plan(&config(&[], &["/opt", "/opt/ml/model/a"]), &policy).expect("plan");
    let targets: Vec<_> = made.data.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(targets, ["/opt/ml/model/a", "/opt/ml/model/b"]);
    assert_eq!(made.tmpfs.keys().collect::<Vec<_>>(), ["/opt", "/tmp"]);
}

#[test]
fn volumes_are_kept_in_memory_and_never_hide_a_mount() {
    let policy = ProjectPolicy { datasets: datasets(&["a"]), ..ProjectPolicy::default() };
    let volumes = ["/data/", "/tmp", "/tmp/inner", "/output", "//input", "/outputs"];
    let made = plan(&config(&[], &volumes), &policy).expect("plan");
    assert_eq!(made.tmpfs.keys().collect::<Vec<_>>(), ["/data", "/outputs", "/tmp", "/tmp/inner"]);
    for (volume, mount) in [("/output/x", "/output"), ("/input//x/y", "/input")] {
        let refused = plan(&config(&[], &[volume]), &policy).expect_err("refused");
        assert_eq!(refused, Unplannable::Volume { volume: normal(volume), mount: mount.into() });
    }
}

#[test]
fn volumes_never_hide_the_secrets() {
    let secrets = BTreeMap::from([("s".to_owned(), "/etc/s".into())]);
    let policy = ProjectPolicy { secrets, ..ProjectPolicy::default() };
    let made = plan(&config(&[], &["/run/secrets/", "/run"]), &policy).expect("plan");
    assert_eq!(made.tmpfs.keys().collect::<Vec<_>>(), ["/run", "/tmp"]);
    plan(&config(&[], &["/run/secrets/s"]), &policy).expect_err("refused");
    let made = plan(&config(&[], &["/run/secrets/s"]), &ProjectPolicy::default()).expect("no secrets");
    assert_eq!(made.tmpfs.keys().collect::<Vec<_>>(), ["/run/secrets/s", "/tmp"]);
}

#[test]
fn the_log_file_has_a_floor() {
    let limits = Limits { log: ByteSize::b(1), ..Limits::default() };
    let made = plan(&config(&[], &[]), &ProjectPolicy { limits, ..ProjectPolicy::default() });
    assert_eq!(made.expect("plan").resources.log_file, 64 << 10);
}

#[test]
fn an_image_gets_no_more_than_the_project_gives() {
    let wishes = torno_oci::Wishes {
        time: Some(Duration::from_hours(2)),
        nano_cpus: Some(2_000_000_000),
        memory: Some(4 << 30),
        ..torno_oci::Wishes::default()
    };
    let plain = plan(&config(&[], &[]), &ProjectPolicy::default()).expect("plan");
    let made = plan(&RunConfig { wishes, ..config(&[], &[]) }, &ProjectPolicy::default()).expect("plan");
    assert_eq!(made, plain, "the project's limits may have been lowered since the push");
}

#[test]
fn a_run_starts_in_a_folder_of_the_image() {
    for (said, expected) in [("", "/"), ("/", "/"), ("//app//x/", "/app/x")] {
        let config = RunConfig { working_directory: said.into(), ..config(&[], &[]) };
        let made = plan(&config, &ProjectPolicy::default()).expect("plan");
        assert_eq!(made.working_directory, expected);
    }
}
