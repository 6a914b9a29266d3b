//! Plans of every kind, for tests that look at all there is in them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use torno_oci::Wishes;

use crate::{DataPlace, Dataset, ProjectPolicy, Runtime, instance::Instance};

use super::{Gpu, Plan, RunConfig, RunId, Subject, Unplannable};

/// Every kind of plan, by name.
pub(crate) fn all() -> Vec<(&'static str, Plan)> {
    let with = |names: &[&str]| ProjectPolicy { datasets: datasets(names), ..ProjectPolicy::default() };
    let plain = config(&["PATH"], &[]);
    let made = |config: &RunConfig, policy: &ProjectPolicy| plan(config, policy).expect("a plan");
    vec![
        ("plain", made(&plain, &with(&["eyes"]))),
        ("several-datasets", made(&plain, &with(&["ears", "eyes"]))),
        ("volume", made(&plain, &volume())),
        ("services", made(&plain, &services(with(&["eyes"])))),
        ("hostile-image", made(&hostile(), &with(&["eyes"]))),
        ("parameters", made(&asking(), &with(&["eyes"]))),
        ("gpus", with_gpus(&hostile(), &with(&["eyes"]), &[1, 3]).expect("a plan")),
        ("gvisor", made(&plain, &ProjectPolicy { runtime: Some(Runtime::Runsc), ..with(&["eyes"]) })),
    ]
}

/// A folder, and a volume of the engine's.
fn volume() -> ProjectPolicy {
    let volume = Dataset::at("ears", DataPlace::Volume("hospital-ears".parse().expect("a name")));
    ProjectPolicy { datasets: vec![volume, Dataset::folder("eyes", "/srv/eyes")], ..ProjectPolicy::default() }
}

/// With services, of which two share a name and two a port, and a secret.
fn services(policy: ProjectPolicy) -> ProjectPolicy {
    let services = ["db.internal:5432", "files.internal:80", "db.internal:80 = [fd00::5]:8080"];
    ProjectPolicy {
        services: services.iter().map(|text| text.parse().expect("a service")).collect(),
        secrets: [("db-password".to_owned(), "/etc/torno/db".into())].into(),
        ..policy
    }
}

/// What an image can wish for without being refused at the push.
fn hostile() -> RunConfig {
    let environment = ["PATH", "LD_PRELOAD", "NVIDIA_VISIBLE_DEVICES", "TORNO_RUN", "TORNO_X", "HOME"];
    let volumes = ["/etc/", "/input", "/output", "/tmp/x", "/var//run"];
    RunConfig {
        working_directory: "//opt///escape/".into(),
        labels: ["com.example.exec", "org.torno.instance"].map(str::to_owned).into(),
        ..config(&environment, &volumes)
    }
}

/// An image with parameters that wants to run for less long and with less.
fn asking() -> RunConfig {
    let parameters = [("folds", "5"), ("odd", "$(x) \"y\"")];
    let wishes = Wishes {
        parameters: BTreeMap::from(parameters.map(|(name, value)| (name.to_owned(), value.to_owned()))),
        time: Some(Duration::from_mins(5)),
        nano_cpus: Some(500_000_000),
        memory: Some(128 << 20),
    };
    RunConfig { wishes, labels: vec!["org.torno.cpus".into()], ..config(&["PATH"], &[]) }
}

/// An image's wishes: the names of its variables, and its volumes.
pub(crate) fn config(environment: &[&str], volumes: &[&str]) -> RunConfig {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    RunConfig {
        environment: owned(environment),
        volumes: owned(volumes),
        working_directory: String::new(),
        labels: Vec::new(),
        wishes: Wishes::default(),
    }
}

/// Datasets of these names.
pub(crate) fn datasets(names: &[&str]) -> Vec<Dataset> {
    names.iter().map(|name| Dataset::folder(*name, format!("/srv/{name}"))).collect()
}

/// The plan of run 12 of the project `retina`.
pub(crate) fn plan(config: &RunConfig, policy: &ProjectPolicy) -> Result<Plan, Unplannable> {
    with_gpus(config, policy, &[])
}

/// The same with GPUs of these numbers.
pub(crate) fn with_gpus(
    config: &RunConfig,
    policy: &ProjectPolicy,
    gpus: &[u32],
) -> Result<Plan, Unplannable> {
    let gpus: Vec<Gpu> = gpus.iter().copied().map(Gpu::new).collect();
    let instance = "0123456789abcdef".parse::<Instance>().expect("instance");
    let project = "retina".parse().expect("project");
    let run = RunId::new(12).expect("run");
    let image = "127.0.0.1:1/torno-0123456789abcdef/run-12@sha256:00";
    let (sockets, secrets) = (Path::new("/memory/run-12/relay"), Path::new("/memory/run-12/secrets"));
    let subject = Subject {
        instance: &instance,
        run,
        attempt: 1,
        project: &project,
        image,
        sockets,
        secrets,
        gpus: &gpus,
    };
    Plan::new(&subject, config, policy)
}

/// Compares a text with the one of that name in `crates/executor/snapshots/`, which somebody has read.
#[track_caller]
pub(crate) fn reviewed(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
