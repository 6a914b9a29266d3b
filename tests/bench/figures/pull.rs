//! Pulling blobs.

use std::time::Instant;

use super::{Bench, CLIENTS, Values, gigabytes_per_second, serving};
use crate::{
    failure::Failure,
    load::{Connection, Payload, during},
    server::Transport,
};

/// One large blob, some times, on one connection.
pub(super) fn large(bench: &Bench<'_>, transport: Transport) -> Result<Values, Failure> {
    let scale = bench.scale;
    let payload = Payload::write(&bench.folder.join("payload"), scale.large, 1)?;
    let servers = bench.start(serving(transport), transport)?;
    for server in &servers {
        let mut connection = Connection::open(&server.target)?;
        server.give_blob(&mut connection, &payload)?;
        // Into the page cache, and proof that what is measured is the blob.
        connection.pull_verified(&server.blob_path(&payload.digest), payload.size, &payload.digest)?;
    }
    rustix::fs::sync();
    bench.rounds(&servers, |server, _| {
        let path = server.blob_path(&payload.digest);
        let mut connection = Connection::open(&server.target)?;
        let since = Instant::now();
        for _ in 0..scale.pulls {
            connection.pull(&path, payload.size)?;
        }
        let bytes = payload.size * u64::from(scale.pulls);
        Ok(gigabytes_per_second(bytes, since.elapsed().as_secs_f64()))
    })
}

/// Many small blobs on 16 connections, each of which goes through all of them from a place of its own.
pub(super) fn small(bench: &Bench<'_>, transport: Transport) -> Result<Values, Failure> {
    let scale = bench.scale;
    let payloads: Vec<Payload> = (0..scale.small_blobs)
        .map(|number| Payload::write(&bench.folder.join(format!("payload-{number}")), scale.small, number))
        .collect::<Result<_, _>>()?;
    let servers = bench.start(serving(transport), transport)?;
    for server in &servers {
        let mut connection = Connection::open(&server.target)?;
        for payload in &payloads {
            server.give_blob(&mut connection, payload)?;
            connection.pull_verified(&server.blob_path(&payload.digest), payload.size, &payload.digest)?;
        }
    }
    rustix::fs::sync();
    bench.rounds(&servers, |server, _| {
        let paths: Vec<String> = payloads.iter().map(|payload| server.blob_path(&payload.digest)).collect();
        let count = paths.len();
        during(&server.target, CLIENTS, scale.window, |connection, client, turn| {
            let turn = usize::try_from(turn).unwrap_or(usize::MAX);
            let number = (client * count / CLIENTS + turn) % count;
            let path = paths.get(number).map_or("", String::as_str);
            connection.pull(path, scale.small)
        })
    })
}
