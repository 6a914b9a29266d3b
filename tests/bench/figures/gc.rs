//! Collecting garbage: a large store of which one image in a hundred was deleted.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;

use super::{Bench, CLIENTS, Values, split};
use crate::{
    failure::Failure,
    figure::Samples,
    image::{self, OCI_IMAGE},
    load::{Connection, digest, each},
    process::Process,
    server::{Peer, Server, Store, Transport},
};

/// One image in so many is garbage.
const GARBAGE: u64 = 100;
/// Images of one repository.
const REPOSITORY: u64 = 1000;
/// Bytes of a layer. Each image has one of its own, and all have the same config.
const LAYER: usize = 256;

/// Seconds until the garbage is gone. Torno serves meanwhile; it has never looked at this store before. Distribution
/// is stopped, as it must be. One round: the store is as it was only once.
pub(super) fn collect(bench: &Bench<'_>) -> Result<Values, Failure> {
    let mut all = vec![(Peer::Torno, once(torno(bench)?))];
    if !bench.without.contains(&Peer::Distribution) {
        all.push((Peer::Distribution, once(distribution(bench)?)));
    }
    Ok(split(all))
}

fn once(seconds: f64) -> Samples {
    let mut samples = Samples::default();
    samples.push(seconds);
    samples
}

/// An image of the store, by its number.
struct Image {
    repository: String,
    tag: String,
    blobs: [Vec<u8>; 2],
    manifest: Vec<u8>,
    garbage: bool,
}

fn image(number: u64) -> Image {
    let blobs = [image::blob(u64::MAX, LAYER), image::blob(number, LAYER)];
    Image {
        repository: format!("bench/r{}", number / REPOSITORY),
        tag: format!("t{}", number % REPOSITORY),
        manifest: image::manifest(&blobs),
        blobs,
        garbage: number.is_multiple_of(GARBAGE),
    }
}

fn torno(bench: &Bench<'_>) -> Result<f64, Failure> {
    let server = Server::start(Peer::Torno, bench.programs, bench.folder, Transport::Clear)?;
    let images = bench.scale.images;
    // The password is checked once.
    Connection::open(&server.target)?.ask("GET", "/v2/", &[], &[], 200)?;
    each(&server.target, CLIENTS, images, |connection, number| {
        let image = image(number);
        for blob in &image.blobs {
            connection.push_small(&image.repository, blob, &digest(blob))?;
        }
        let path = format!("/v2/{}/manifests/{}", image.repository, image.tag);
        connection.ask("PUT", &path, &[("content-type", OCI_IMAGE)], &image.manifest, 201).map(drop)
    })?;
    each(&server.target, CLIENTS, images / GARBAGE, |connection, number| {
        let Image { repository, tag, .. } = image(number * GARBAGE);
        connection.ask("DELETE", &format!("/v2/{repository}/manifests/{tag}"), &[], &[], 202).map(drop)
    })?;
    let mut command = Command::new(&bench.programs.torno);
    command.args(["gc", "--grace", "0s", "--json", "--config"]).arg(server.folder.join("torno.toml"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    rustix::fs::sync();
    let since = Instant::now();
    let told = Process::start(&mut command)?.output()?;
    let seconds = since.elapsed().as_secs_f64();
    let told: Option<Value> = serde_json::from_str(&told).ok();
    let freed = told.as_ref().and_then(|told| told.get("blobs")?.as_u64());
    check("torno gc", freed, images)?;
    Ok(seconds)
}

fn distribution(bench: &Bench<'_>) -> Result<f64, Failure> {
    let folder = bench.folder.join("written");
    let store = Store::new(&folder);
    // Over HTTP it would take a quarter of an hour.
    for number in 0..bench.scale.images {
        let image = image(number);
        for blob in &image.blobs {
            store.blob(&image.repository, blob)?;
        }
        // What a deletion leaves is a manifest that no repository links.
        let links = (!image.garbage).then_some((image.repository.as_str(), image.tag.as_str()));
        store.manifest(links, &image.manifest)?;
    }
    rustix::fs::sync();
    let blobs = || count(&store.blobs());
    let before = blobs()?;
    let mut command = store.collect(bench.programs)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let since = Instant::now();
    Process::start(&mut command)?.output()?;
    let seconds = since.elapsed().as_secs_f64();
    // It counts the manifests among the blobs.
    check("docker-registry garbage-collect", Some((before - blobs()?) / 2), bench.scale.images)?;
    Ok(seconds)
}

fn check(program: &str, freed: Option<u64>, images: u64) -> Result<(), Failure> {
    let expected = images / GARBAGE;
    if freed == Some(expected) {
        return Ok(());
    }
    Err(Failure::Wrong(format!("{program} freed {freed:?} layers, not {expected}")))
}

/// How many blobs there are below a folder of shards, each a folder of blobs.
fn count(shards: &Path) -> Result<u64, Failure> {
    let failure = || Failure::io(format!("{} could not be listed", shards.display()));
    let mut blobs = 0;
    for shard in fs::read_dir(shards).map_err(failure())? {
        blobs += fs::read_dir(shard.map_err(failure())?.path()).map_err(failure())?.count() as u64;
    }
    Ok(blobs)
}
