//! The file descriptors of this process: as many as it may have, and no more connections than they are enough for.

use rustix::process::{Resource, getrlimit, setrlimit};
use torno_server::Limits;

/// What is open beside connections: the database, uploads at rest, the engine, blobs that are mapped.
const OTHERS: u64 = 512;

/// A connection, and the blob that is pulled or pushed over it.
const PER_CONNECTION: u64 = 2;

/// Takes what the kernel grants: the soft limit is low for the sake of old programs, which Torno is not.
pub(crate) fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// As many connections as there are descriptors for: without them pushes and pulls would fail for everybody.
pub(crate) fn within(limits: Limits) -> Limits {
    let enough = getrlimit(Resource::Nofile).current.map_or(usize::MAX, enough_for);
    if limits.connections <= enough {
        return limits;
    }
    tracing::warn!(
        "there will be at most {enough} connections, not {}: this process may open too few files (`ulimit -Hn`; \
         `LimitNOFILE=` of systemd)",
        limits.connections
    );
    Limits { connections: enough, ..limits }
}

fn enough_for(descriptors: u64) -> usize {
    let connections = descriptors.saturating_sub(OTHERS) / PER_CONNECTION;
    usize::try_from(connections).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_for_each_connection_are_enough() {
        for (descriptors, connections) in [(1024, 256), (20_000, 9744), (512, 1), (0, 1)] {
            assert_eq!(enough_for(descriptors), connections);
        }
    }
}
