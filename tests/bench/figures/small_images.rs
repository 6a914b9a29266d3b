//! Pushing many small images at once, each until it is safe.

use super::{Bench, CLIENTS, Values};
use crate::{
    failure::Failure,
    image::{self, OCI_IMAGE},
    load::{Connection, digest, during},
    server::{Peer, Transport},
};

const BLOB: usize = 4096;

/// Images of two blobs and a manifest with a tag; no two share a blob. Each client pushes to a repository of its own.
pub(super) fn push(bench: &Bench<'_>) -> Result<Values, Failure> {
    let servers = bench.start(&[Peer::Torno, Peer::Distribution], Transport::Clear)?;
    for server in &servers {
        // The password is checked once, and the repositories exist.
        let mut connection = Connection::open(&server.target)?;
        for client in 0..CLIENTS {
            push_image(&mut connection, client, Image { round: u64::MAX, turn: 0 })?;
        }
    }
    bench.rounds(&servers, |server, round| {
        rustix::fs::sync();
        let round = round as u64;
        during(&server.target, CLIENTS, bench.scale.window, |connection, client, turn| {
            push_image(connection, client, Image { round, turn })
        })
    })
}

/// Which of a client's images.
#[derive(Clone, Copy)]
struct Image {
    round: u64,
    turn: u64,
}

fn push_image(connection: &mut Connection, client: usize, image: Image) -> Result<(), Failure> {
    let repository = format!("bench/client-{client}");
    let Image { round, turn } = image;
    // Far enough apart that no two images come to the same seed.
    let seed = (client as u64) << 56 ^ round << 48 ^ turn << 1;
    let blobs = [image::blob(seed, BLOB), image::blob(seed + 1, BLOB)];
    for blob in &blobs {
        connection.push_small(&repository, blob, &digest(blob))?;
    }
    let path = format!("/v2/{repository}/manifests/v{round}.{turn}");
    connection.ask("PUT", &path, &[("content-type", OCI_IMAGE)], &image::manifest(&blobs), 201)?;
    Ok(())
}
