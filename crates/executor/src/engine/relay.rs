//! The container of a relay.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    models::{ContainerCreateBody, HostConfig, Mount},
    query_parameters as query,
};

use crate::plan::RelayPlan;

use super::{
    Engine, EngineError, limit,
    podman::Dialect,
    translate::{confined, held, read_only},
};

impl Engine {
    /// Makes a relay's container; it is started like any other.
    pub(crate) async fn create_relay(&self, plan: &RelayPlan) -> Result<(), EngineError> {
        let image = self.program("relay", torno_inside::RELAY).await?;
        let (docker, dialect) = self.known().await?;
        let name = query::CreateContainerOptionsBuilder::default().name(&plan.name).build();
        self.call(limit::CREATE, docker.create_container(Some(name), relay(plan, image, &dialect)))
            .await
            .map(drop)
    }
}

pub(super) fn relay(plan: &RelayPlan, image: String, dialect: &Dialect) -> ContainerCreateBody {
    let mounts: Vec<Mount> = vec![read_only(&plan.sockets, plan.sockets_at)];
    let hosts = plan.hosts.iter().map(|(name, address)| format!("{name}:{address}"));
    // The user of a program without capabilities may have any port of a namespace with nobody else in it.
    let ports = ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    let host = HostConfig {
        mounts: Some(mounts),
        extra_hosts: Some(hosts.collect()),
        sysctls: Some(HashMap::from([ports])),
        tmpfs: Some(dialect.in_memory(BTreeMap::new())),
        ..held(&plan.resources, confined(&plan.confinement, dialect))
    };
    ContainerCreateBody {
        image: Some(image),
        hostname: Some(plan.hostname.clone()),
        user: Some(plan.user.clone()),
        working_dir: Some("/".into()),
        cmd: Some(plan.arguments.clone()),
        labels: Some(plan.labels.clone().into_iter().collect()),
        tty: Some(false),
        open_stdin: Some(false),
        stop_signal: Some(plan.confinement.stop_signal.to_owned()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}
