//! First pages of lists: the same however long the list is. The peer is Torno itself, with 100 of the same.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Bench, CLIENTS, Values};
use crate::{
    failure::Failure,
    figure::Samples,
    image::{self, OCI_INDEX},
    load::{Connection, digest, each},
    scale::FEW,
    server::{Peer, REPOSITORY, Server, Target, Transport},
};

/// Tags that one push by digest sets (distribution-spec, draft of v1.2: end-7b).
const TAGS_A_PUSH: u64 = 100;

/// `GET /v2/<name>/tags/list?n=100`.
pub(super) fn tags(bench: &Bench<'_>) -> Result<Values, Failure> {
    let list = List { path: format!("/v2/{REPOSITORY}/tags/list?n={FEW}"), entries: "tags" };
    compare(bench, &list, bench.scale.tags, |target, count| {
        let index = image::index(0, None);
        let digest = digest(&index);
        each(target, CLIENTS, count / TAGS_A_PUSH, |connection, push| {
            let first = push * TAGS_A_PUSH;
            let tags: Vec<String> =
                (first..first + TAGS_A_PUSH).map(|number| format!("tag=t{number:06}")).collect();
            let path = format!("/v2/{REPOSITORY}/manifests/{digest}?{}", tags.join("&"));
            put(connection, &path, &index)
        })
    })
}

/// `GET /v2/_catalog?n=100`.
pub(super) fn catalog(bench: &Bench<'_>) -> Result<Values, Failure> {
    let list = List { path: format!("/v2/_catalog?n={FEW}"), entries: "repositories" };
    compare(bench, &list, bench.scale.repositories, |target, count| {
        let index = image::index(0, None);
        each(target, CLIENTS, count, |connection, number| {
            put(connection, &format!("/v2/bench/r{number:06}/manifests/v1"), &index)
        })
    })
}

/// `GET /v2/<name>/referrers/<digest>`. The specification has no `n` for it: a page is as long as Torno makes it.
pub(super) fn referrers(bench: &Bench<'_>) -> Result<Values, Failure> {
    let subject = image::index(0, None);
    let digest_of_subject = digest(&subject);
    let descriptor = json!({"mediaType": OCI_INDEX, "digest": digest_of_subject, "size": subject.len()});
    let path = format!("/v2/{REPOSITORY}/referrers/{digest_of_subject}");
    compare(bench, &List { path, entries: "manifests" }, bench.scale.referrers, |target, count| {
        let mut connection = Connection::open(target)?;
        put(&mut connection, &format!("/v2/{REPOSITORY}/manifests/subject"), &subject)?;
        each(target, CLIENTS, count, |connection, number| {
            let referrer = image::index(number + 1, Some(&descriptor));
            put(connection, &format!("/v2/{REPOSITORY}/manifests/{}", digest(&referrer)), &referrer)
        })
    })
}

/// A list, and where its entries are in an answer.
struct List {
    path: String,
    entries: &'static str,
}

/// Fills one Torno with much and one with little, and asks both for the first page.
fn compare(
    bench: &Bench<'_>,
    list: &List,
    many: u64,
    fill: impl Fn(&Target, u64) -> Result<(), Failure>,
) -> Result<Values, Failure> {
    let servers = bench.start(&[Peer::Torno, Peer::Small], Transport::Clear)?;
    for server in &servers {
        // The password is checked once, not by every client at the same time.
        Connection::open(&server.target)?.ask("GET", "/v2/", &[], &[], 200)?;
        let count = if server.target.peer == Peer::Small { FEW } else { many };
        fill(&server.target, count)?;
        check(server, list)?;
        page(server, list, bench.scale.pages)?;
    }
    bench.rounds(&servers, |server, _| page(server, list, bench.scale.pages))
}

/// A page has at least as many entries as the short list, or it would not be the same work.
fn check(server: &Server, list: &List) -> Result<(), Failure> {
    let answer = Connection::open(&server.target)?.ask("GET", &list.path, &[], &[], 200)?;
    let value: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let entries = value.as_ref().and_then(|value| value.get(list.entries)?.as_array().map(Vec::len));
    match entries {
        Some(found) if found as u64 >= FEW => Ok(()),
        found => Err(Failure::Wrong(format!("GET {}: {found:?} entries instead of {FEW}", list.path))),
    }
}

/// How long a page takes, in milliseconds: the median of many, on one connection.
fn page(server: &Server, list: &List, times: usize) -> Result<f64, Failure> {
    let mut connection = Connection::open(&server.target)?;
    let mut taken = Samples::default();
    for _ in 0..times {
        let since = Instant::now();
        connection.ask("GET", &list.path, &[], &[], 200)?;
        taken.push(since.elapsed().as_secs_f64() * 1e3);
    }
    Ok(taken.median())
}

fn put(connection: &mut Connection, path: &str, index: &[u8]) -> Result<(), Failure> {
    connection.ask("PUT", path, &[("content-type", OCI_INDEX)], index, 201).map(drop)
}
