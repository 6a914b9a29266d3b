//! A plan in the words of the Docker API.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, MountVolumeOptions, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

use crate::plan::{OUTPUT, Plan};

/// The container a run runs in.
pub(super) fn container(plan: &Plan) -> ContainerCreateBody {
    let mut mounts = vec![output(plan)];
    mounts.extend(plan.data.iter().map(|data| Mount {
        typ: Some(MountType::BIND),
        source: Some(data.source.to_string_lossy().into_owned()),
        target: Some(data.target.clone()),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            // Read-only is said of one mount: below it, engines before version 25 leave others writable.
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }));
    let limit = |name: &str, value: u64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(signed(value)),
        hard: Some(signed(value)),
    };
    ContainerCreateBody {
        host_config: Some(HostConfig {
            mounts: Some(mounts),
            readonly_rootfs: Some(true),
            memory: Some(signed(plan.memory)),
            memory_swap: Some(signed(plan.memory)),
            nano_cpus: Some(signed(plan.nano_cpus)),
            pids_limit: Some(i64::from(plan.pids)),
            shm_size: Some(signed(plan.shm)),
            ulimits: Some(vec![limit("nofile", plan.open_files), limit("core", 0)]),
            init: Some(true),
            ..confined(plan)
        }),
        ..image(plan)
    }
}

/// A container that is never started: while it exists, the engine lets the owner of the volume's root be set. A
/// run's own container has a read-only root, into which the engine puts nothing.
pub(super) fn preparation(plan: &Plan) -> ContainerCreateBody {
    ContainerCreateBody {
        host_config: Some(HostConfig { mounts: Some(vec![output(plan)]), ..confined(plan) }),
        ..image(plan)
    }
}

/// The name of the container that is never started.
pub(crate) fn preparation_name(container: &str) -> String {
    format!("{container}-prepare")
}

fn image(plan: &Plan) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(plan.image.clone()),
        hostname: Some(plan.hostname.clone()),
        user: Some(plan.user.clone()),
        env: Some(plan.environment.clone()),
        labels: Some(plan.labels.clone().into_iter().collect()),
        tty: Some(false),
        open_stdin: Some(false),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        ..ContainerCreateBody::default()
    }
}

fn confined(plan: &Plan) -> HostConfig {
    HostConfig {
        network_mode: Some("none".into()),
        cap_drop: Some(vec!["ALL".into()]),
        // The seccomp profile is the engine's default one: naming another option does not take it away.
        security_opt: Some(vec!["no-new-privileges".into()]),
        tmpfs: Some(plan.tmpfs.clone().into_iter().collect()),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            ..RestartPolicy::default()
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), plan.log_file.to_string()),
                ("max-file".to_owned(), plan.log_files.to_string()),
            ])),
        }),
        ..HostConfig::default()
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
    use std::collections::BTreeMap;

    use crate::plan::DataMount;

    use super::*;

    #[test]
    fn data_is_one_mount_that_is_read_only_as_a_whole() {
        let data = DataMount { dataset: "d".into(), source: "/srv/d".into(), target: "/input".into() };
        let plan = Plan {
            name: "n".into(),
            image: "i".into(),
            labels: BTreeMap::new(),
            hostname: "run".into(),
            user: "65532:65532".into(),
            environment: Vec::new(),
            data: vec![data],
            volume: "v".into(),
            tmpfs: BTreeMap::new(),
            memory: 1,
            shm: 1,
            nano_cpus: 1,
            pids: 1,
            open_files: 1,
            log_file: 1,
            log_files: 1,
            time: std::time::Duration::from_secs(1),
        };
        let host = container(&plan).host_config.expect("a host configuration");
        let mounts = host.mounts.expect("mounts");
        let input = mounts.iter().find(|mount| mount.target.as_deref() == Some("/input")).expect("the data");
        let options = input.bind_options.clone().expect("options");
        assert_eq!((input.read_only, options.non_recursive), (Some(true), Some(true)));
        assert_eq!((mounts.len(), host.binds, host.devices, host.privileged), (2, None, None, None));
        assert!(
            preparation(&plan).host_config.and_then(|host| host.mounts).is_some_and(|all| all.len() == 1)
        );
    }
}
