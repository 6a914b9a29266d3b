//! Pushing a large blob, until it is safe.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use super::{Bench, Values, gigabytes_per_second};
use crate::{
    failure::Failure,
    figure::Samples,
    load::{Connection, Payload},
    process::Process,
    server::{Peer, REPOSITORY, Server, Transport},
};

/// POST, one streamed PATCH and PUT; beside them what it takes to hash the same file.
pub(super) fn large(bench: &Bench<'_>) -> Result<Values, Failure> {
    let payload = Payload::write(&bench.folder.join("payload"), bench.scale.large, 2)?;
    let servers = bench.start(&[Peer::Torno, Peer::Distribution], Transport::Clear)?;
    let variants = Variants::of(&payload, bench.scale.rounds)?;
    let mut openssl = Samples::default();
    let (torno, mut peers) = bench.rounds(&servers, |server, round| {
        // Once a round, in Torno's turn.
        if server.target.peer == Peer::Torno {
            openssl.push(hash(&payload)?);
        }
        push(server, variants.of_round(round, &payload))
    })?;
    peers.push((Peer::Openssl, openssl));
    verify(&servers, variants.of_round(0, &payload))?;
    Ok((torno, peers))
}

/// The same over TLS, against a `WebDAV` PUT to nginx. That neither hashes nor syncs what it gets.
pub(super) fn large_over_tls(bench: &Bench<'_>) -> Result<Values, Failure> {
    let payload = Payload::write(&bench.folder.join("payload"), bench.scale.large, 3)?;
    let servers = bench.start(&[Peer::Torno, Peer::Nginx], Transport::Tls)?;
    let variants = Variants::of(&payload, bench.scale.rounds)?;
    let values = bench.rounds(&servers, |server, round| push(server, variants.of_round(round, &payload)))?;
    verify(&servers, variants.of_round(0, &payload))?;
    Ok(values)
}

/// A payload for each round, so that none is there already.
struct Variants(Vec<Payload>);

impl Variants {
    fn of(payload: &Payload, rounds: usize) -> Result<Self, Failure> {
        let made: Result<_, Failure> = (0..rounds as u64).map(|round| payload.variant(round)).collect();
        made.map(Self)
    }

    fn of_round<'a>(&'a self, round: usize, payload: &'a Payload) -> &'a Payload {
        self.0.get(round).unwrap_or(payload)
    }
}

fn push(server: &Server, payload: &Payload) -> Result<f64, Failure> {
    // What the one before has left to write is not for this one to wait for.
    rustix::fs::sync();
    let mut connection = Connection::open(&server.target)?;
    let since = Instant::now();
    match server.target.peer {
        Peer::Nginx => drop(connection.upload("PUT", &pushed_path(payload), payload, 201)?),
        _ => connection.push(REPOSITORY, payload)?,
    }
    Ok(gigabytes_per_second(payload.size, since.elapsed().as_secs_f64()))
}

fn pushed_path(payload: &Payload) -> String {
    format!("/pushed/{}", payload.digest)
}

/// What was pushed comes back byte for byte.
fn verify(servers: &[Server], payload: &Payload) -> Result<(), Failure> {
    for server in servers {
        let path = match server.target.peer {
            Peer::Nginx => pushed_path(payload),
            _ => server.blob_path(&payload.digest),
        };
        Connection::open(&server.target)?.pull_verified(&path, payload.size, &payload.digest)?;
    }
    Ok(())
}

/// How fast `openssl dgst -sha256` is through the file.
fn hash(payload: &Payload) -> Result<f64, Failure> {
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-r"]).arg(&payload.path).stdin(Stdio::null()).stdout(Stdio::piped());
    let since = Instant::now();
    let said = Process::start(&mut command)?.output()?;
    let taken = since.elapsed().as_secs_f64();
    let found = format!("sha256:{}", said.split(' ').next().unwrap_or_default());
    if found != payload.digest {
        return Err(Failure::Wrong(format!("openssl says {found}, not {}", payload.digest)));
    }
    Ok(gigabytes_per_second(payload.size, taken))
}
