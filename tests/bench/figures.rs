//! The figures, a file for each family. Each starts the servers it needs in a folder of its own, fills them, warms
//! them up, and then takes its rounds in turns: Torno, a peer, the next peer, Torno again.

mod gc;
mod manifest;
mod memory;
mod pages;
mod pull;
mod push;
mod run;
mod small_images;

use std::path::Path;

use self::manifest::Login;

use crate::{
    failure::Failure,
    figure::{Figure, Measured, Samples},
    scale::Scale,
    server::{Peer, Programs, Server, Transport},
};

/// What every figure is given.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) scale: &'a Scale,
    pub(crate) programs: &'a Programs,
    /// Peers that are left out.
    pub(crate) without: &'a [Peer],
    /// Of this figure alone, removed behind it.
    pub(crate) folder: &'a Path,
}

/// Connections of the figures with small blobs and small images.
const CLIENTS: usize = 16;

/// Measures one figure.
pub(crate) fn measure(bench: &Bench<'_>, figure: &'static Figure) -> Result<Measured, Failure> {
    let (torno, peers) = match figure.name {
        "pull-1gib" => pull::large(bench, Transport::Clear),
        "tls-pull-1gib" => pull::large(bench, Transport::Tls),
        "pull-1mib" => pull::small(bench, Transport::Clear),
        "tls-pull-1mib" => pull::small(bench, Transport::Tls),
        "manifest" => manifest::by_tag(bench, Login::Password),
        "manifest-token" => manifest::by_tag(bench, Login::Token),
        "push-1gib" => push::large(bench),
        "tls-push-1gib" => push::large_over_tls(bench),
        "small-images" => small_images::push(bench),
        "tags-page" => pages::tags(bench),
        "catalog-page" => pages::catalog(bench),
        "referrers-page" => pages::referrers(bench),
        "gc" => gc::collect(bench),
        "push-result" => run::to_result(bench, 0),
        "push-result-500mb" => run::to_result(bench, bench.scale.ballast),
        "memory" => memory::peak(bench),
        other => Err(Failure::Usage(format!("nobody knows how to measure `{other}`"))),
    }?;
    Ok(Measured { figure, torno, peers })
}

impl Bench<'_> {
    fn start(&self, peers: &[Peer], transport: Transport) -> Result<Vec<Server>, Failure> {
        let start = |peer: &Peer| Server::start(*peer, self.programs, self.folder, transport);
        peers.iter().filter(|peer| !self.without.contains(peer)).map(start).collect()
    }

    /// The rounds, in turns; `once` gives one value of a server in one round.
    fn rounds(
        &self,
        servers: &[Server],
        mut once: impl FnMut(&Server, usize) -> Result<f64, Failure>,
    ) -> Result<Values, Failure> {
        let mut all: Vec<(Peer, Samples)> =
            servers.iter().map(|server| (server.target.peer, Samples::default())).collect();
        for round in 0..self.scale.rounds {
            for (server, (_, samples)) in servers.iter().zip(&mut all) {
                samples.push(once(server, round)?);
            }
        }
        Ok(split(all))
    }
}

/// What Torno gave, and what each peer did.
type Values = (Samples, Vec<(Peer, Samples)>);

/// Torno is the first of the servers.
fn split(mut all: Vec<(Peer, Samples)>) -> Values {
    let (peer, torno) = all.remove(0);
    debug_assert_eq!(peer, Peer::Torno, "it is started first");
    (torno, all)
}

/// The servers that blobs are pulled from.
fn serving(transport: Transport) -> &'static [Peer] {
    match transport {
        Transport::Clear => &[Peer::Torno, Peer::Nginx, Peer::Distribution],
        Transport::Tls => &[Peer::Torno, Peer::Nginx],
    }
}

/// `count` things of `bytes` bytes each in `seconds`, in GB/s (10^9 bytes).
#[expect(clippy::cast_precision_loss, reason = "far fewer bytes than 2^52")]
fn gigabytes_per_second(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds / 1e9
}
