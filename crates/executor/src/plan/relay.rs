//! The container through which a run reaches the services that its project allows.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use bytesize::ByteSize;

use crate::{
    ProjectPolicy,
    relay::{CONNECTIONS, READY_SOCKET, socket_name},
};

use super::{
    Confinement, HOSTNAME, LEAST_LOG_FILE, LOG_FILES, OOM_SCORE, OPEN_FILES, Resources, Subject,
    USER_PROCESSES,
};

/// Who a relay is: not the run, which could otherwise send it signals through what the kernel counts by user.
const UID: u32 = 65_531;

/// Where the executor's sockets stand inside.
const SOCKETS: &str = "/relay";

/// Two threads for each connection, one for each of at most 16 services, the first, and some room.
const PIDS: u32 = 2 * CONNECTIONS + 32;

/// Two stacks for each connection, and what the kernel has received and nobody taken.
const MEMORY: ByteSize = ByteSize::mib(128);

/// Every setting of a relay's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayPlan {
    /// The container's name.
    pub name: String,
    /// What it is found by again.
    pub labels: BTreeMap<String, String>,
    /// The host name inside, and so in the run.
    pub hostname: String,
    /// User and group.
    pub user: String,
    /// What its program is told.
    pub arguments: Vec<String>,
    /// The names that resolve, for the run too, and to what.
    pub hosts: BTreeMap<String, Ipv4Addr>,
    /// The folder with the executor's sockets.
    pub sockets: PathBuf,
    /// Where it stands inside.
    pub sockets_at: &'static str,
    /// What stands between it and the host.
    pub confinement: Confinement,
    /// What the engine and the kernel hold it to.
    pub resources: Resources,
}

impl RelayPlan {
    /// Plans the relay of a run; `None` for one that may reach nothing.
    pub(super) fn new(subject: &Subject<'_>, policy: &ProjectPolicy) -> Option<Self> {
        if policy.services.is_empty() {
            return None;
        }
        let mut hosts = BTreeMap::new();
        let mut arguments = vec![CONNECTIONS.to_string(), format!("{SOCKETS}/{READY_SOCKET}")];
        for service in &policy.services {
            // An address of its own for each name, so that two services may have the same port.
            let next = u8::try_from(hosts.len() + 1).unwrap_or(u8::MAX);
            let address = hosts.entry(service.name().to_owned()).or_insert(Ipv4Addr::new(127, 0, 1, next));
            arguments.push(format!("{address}:{}={SOCKETS}/{}", service.port(), socket_name(service)));
        }
        Some(Self {
            name: relay_name(&subject.instance.container(subject.run)),
            labels: subject.instance.labels(subject.run, subject.attempt),
            hostname: HOSTNAME.into(),
            user: format!("{UID}:{UID}"),
            arguments,
            hosts,
            sockets: subject.sockets.to_owned(),
            sockets_at: SOCKETS,
            // Its program is the first process and starts no other.
            confinement: Confinement { init: false, ..Confinement::new(None) },
            resources: Resources {
                memory: MEMORY.as_u64(),
                shm: ByteSize::kib(64).as_u64(),
                nano_cpus: 1_000_000_000,
                pids: PIDS,
                ulimits: BTreeMap::from([("core", 0), ("nofile", OPEN_FILES), ("nproc", USER_PROCESSES)]),
                oom_score_adj: OOM_SCORE,
                log_file: LEAST_LOG_FILE.as_u64(),
                log_files: LOG_FILES,
            },
        })
    }
}

/// The name of the relay of a run's container.
pub(crate) fn relay_name(container: &str) -> String {
    format!("{container}-relay")
}
