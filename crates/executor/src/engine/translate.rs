//! A plan in the words of the Docker API.
//!
//! Everything that confines a run is said, also where it is an engine's default. What is not said and must not be:
//! another user namespace (an engine that remaps users keeps doing so) and an AppArmor profile (no setting of an
//! engine changes its own).

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
    MountVolumeOptions, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use torno_registry::Gpu;

use crate::{
    DataPlace, VolumeName,
    plan::{
        Capabilities, Confinement, HealthCheck, Namespace, Network, OUTPUT, Plan, Resources, SECRETS,
        SystemCalls,
    },
};

use super::podman::Dialect;

/// What the engine calls a network namespace with nothing in it but `lo`.
const NO_NETWORK: &str = "none";

/// What a run does with a GPU: computing, and asking how that does. Not displays, nor video.
const GPU: [&str; 3] = ["gpu", "compute", "utility"];

/// The container a run runs in, with a file as its `/etc/hosts` if it is to have one of its own.
pub(super) fn container(plan: &Plan, hosts: Option<&Path>, dialect: &Dialect) -> ContainerCreateBody {
    let mut mounts = vec![output(plan)];
    mounts.extend(plan.data.iter().map(|data| match &data.source {
        DataPlace::Folder(folder) => read_only(folder, &data.target),
        DataPlace::Volume(name) => volume(name, &data.target),
    }));
    mounts.extend(hosts.map(|hosts| read_only(hosts, "/etc/hosts")));
    mounts.extend(plan.secrets.iter().map(|secrets| read_only(secrets, SECRETS)));
    let host = HostConfig {
        mounts: Some(mounts),
        runtime: plan.runtime.map(|runtime| runtime.name().to_owned()),
        tmpfs: Some(dialect.in_memory(plan.tmpfs.clone())),
        device_requests: (!plan.gpus.is_empty()).then(|| vec![gpus(&plan.gpus)]),
        ..held(&plan.resources, confined(&plan.confinement, dialect))
    };
    ContainerCreateBody { host_config: Some(host), ..image(plan, dialect) }
}

/// A container that is never started: while it exists, the engine lets the owner of the volume's root be set. A
/// run's own container has a read-only root, into which the engine puts nothing. It is of an image of Torno's, in which
/// nobody else has put anything where the volume stands, and which need not be pulled.
pub(super) fn preparation(plan: &Plan, image: String, dialect: &Dialect) -> ContainerCreateBody {
    let host = HostConfig {
        mounts: Some(vec![output(plan)]),
        tmpfs: Some(dialect.in_memory(BTreeMap::new())),
        readonly_rootfs: Some(false),
        // The relay it will have may not be there yet, and it reaches nothing without one.
        network_mode: Some(NO_NETWORK.into()),
        ..confined(&plan.confinement, dialect)
    };
    ContainerCreateBody {
        image: Some(image),
        user: Some(plan.user.clone()),
        labels: Some(plan.labels.clone().into_iter().collect()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// The name of the container that is never started.
pub(crate) fn preparation_name(container: &str) -> String {
    format!("{container}-prepare")
}

fn image(plan: &Plan, dialect: &Dialect) -> ContainerCreateBody {
    let HealthCheck::None = plan.confinement.health_check;
    let set = plan.environment.iter().map(|(name, value)| format!("{name}={value}"));
    let environment = set.chain(plan.taken_away.iter().map(|name| dialect.without(name)));
    ContainerCreateBody {
        image: Some(plan.image.clone()),
        // It comes with the network.
        hostname: match plan.confinement.network {
            Network::None => Some(plan.hostname.clone()),
            Network::WithRelay(_) => None,
        },
        user: Some(plan.user.clone()),
        working_dir: Some(plan.working_directory.clone()),
        env: Some(environment.collect()),
        labels: Some(plan.labels.clone().into_iter().collect()),
        tty: Some(false),
        open_stdin: Some(false),
        stop_signal: Some(plan.confinement.stop_signal.to_owned()),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        ..ContainerCreateBody::default()
    }
}

/// GPUs by their numbers: by their count alone, every container would have the first ones. Whose they are is not said, since
/// engines have several ways to NVIDIA's.
fn gpus(gpus: &[Gpu]) -> DeviceRequest {
    DeviceRequest {
        device_ids: Some(gpu_numbers(gpus)),
        capabilities: Some(vec![GPU.map(str::to_owned).into()]),
        ..DeviceRequest::default()
    }
}

/// The numbers of GPUs as the engine writes them.
pub(super) fn gpu_numbers(gpus: &[Gpu]) -> Vec<String> {
    gpus.iter().map(|gpu| gpu.number().to_string()).collect()
}

/// A folder of the host's, seen inside.
pub(super) fn read_only(source: &Path, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            // Read-only is said of one mount: below it, engines before version 25 leave others writable.
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

/// A volume that is there already, seen inside. What the image has at that place is never copied into it.
fn volume(name: &VolumeName, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name.as_str().to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..Mount::default()
    }
}

pub(super) fn confined(confinement: &Confinement, dialect: &Dialect) -> HostConfig {
    let Confinement {
        network,
        read_only_root,
        capabilities: Capabilities::None,
        no_new_privileges,
        system_calls: SystemCalls::OfTheProfile,
        ipc: Namespace::Private,
        cgroups: Namespace::Private,
        init,
        health_check: HealthCheck::None,
        stop_signal: _,
        masked,
        read_only,
    } = confinement;
    let mut security = vec![format!("seccomp={}", dialect.profile())];
    security.extend(no_new_privileges.then(|| "no-new-privileges".to_owned()));
    let paths = |paths: &[&str]| paths.iter().map(ToString::to_string).collect();
    HostConfig {
        network_mode: Some(match network {
            Network::None => NO_NETWORK.into(),
            Network::WithRelay(relay) => format!("container:{relay}"),
        }),
        privileged: Some(false),
        readonly_rootfs: Some(*read_only_root),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(security),
        ipc_mode: Some("private".into()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        init: Some(*init),
        masked_paths: Some(paths(masked)),
        readonly_paths: Some(paths(read_only)),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            ..RestartPolicy::default()
        }),
        ..HostConfig::default()
    }
}

pub(super) fn held(resources: &Resources, confined: HostConfig) -> HostConfig {
    let limit = |(name, value): (&&str, &u64)| ResourcesUlimits {
        name: Some((*name).to_owned()),
        soft: Some(signed(*value)),
        hard: Some(signed(*value)),
    };
    HostConfig {
        memory: Some(signed(resources.memory)),
        memory_swap: Some(signed(resources.memory)),
        nano_cpus: Some(signed(resources.nano_cpus)),
        pids_limit: Some(i64::from(resources.pids)),
        shm_size: Some(signed(resources.shm)),
        ulimits: Some(resources.ulimits.iter().map(limit).collect()),
        oom_score_adj: Some(i64::from(resources.oom_score_adj)),
        oom_kill_disable: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), resources.log_file.to_string()),
                ("max-file".to_owned(), resources.log_files.to_string()),
            ])),
        }),
        ..confined
    }
}

fn output(plan: &Plan) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(plan.volume.clone()),
        target: Some(OUTPUT.to_owned()),
        volume_options: Some(MountVolumeOptions {
            // What the image has at that path is not output.
            no_copy: Some(true),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

/// The API counts in signed numbers; no machine has more than they hold.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{
        engine::seccomp,
        plan::samples::{all, reviewed},
    };

    use super::*;

    /// What is sent, with the profile, which is reviewed by itself, in one word.
    fn sent(body: &ContainerCreateBody) -> String {
        let mut sent = serde_json::to_value(body).expect("JSON");
        let said = sent.pointer_mut("/HostConfig/SecurityOpt/0").expect("an option");
        let text = said.as_str().and_then(|text| text.strip_prefix("seccomp=")).expect("the profile");
        assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), seccomp::profile());
        *said = json!("seccomp=PROFILE");
        serde_json::to_string_pretty(&sent).expect("JSON")
    }

    #[test]
    fn what_the_engine_is_told_of_every_kind_of_run() {
        for (name, plan) in all() {
            reviewed(&format!("docker-{name}"), &sent(&container(&plan, None, &Dialect::Docker)));
        }
    }

    #[test]
    fn what_the_engine_is_told_of_a_relay() {
        let relay = all().into_iter().find_map(|(_, plan)| plan.relay).expect("a relay");
        let body =
            super::super::relay::relay(&relay, "torno/relay:0123456789abcdef".into(), &Dialect::Docker);
        reviewed("docker-relay", &sent(&body));
    }

    #[test]
    fn what_the_engine_is_told_of_the_container_that_never_starts() {
        let (_, plain) = all().remove(0);
        let image = "localhost/torno/probe:0123456789abcdef".to_owned();
        reviewed("docker-preparation", &sent(&preparation(&plain, image, &Dialect::Docker)));
    }

    #[test]
    fn data_is_one_mount_that_is_read_only_as_a_whole() {
        let (_, plain) = all().remove(0);
        let host = container(&plain, None, &Dialect::Docker).host_config.expect("a host configuration");
        let mounts = host.mounts.expect("mounts");
        let input = mounts.iter().find(|mount| mount.target.as_deref() == Some("/input")).expect("the data");
        let options = input.bind_options.clone().expect("options");
        assert_eq!((input.read_only, options.non_recursive), (Some(true), Some(true)));
        assert_eq!((mounts.len(), host.binds, host.devices), (2, None, None));
    }
}
