//! Pulling a manifest by its tag, with wrk.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{Bench, Values};
use crate::{
    failure::Failure,
    image::{self, OCI_IMAGE},
    load::{Connection, digest},
    process::Process,
    server::{Peer, REPOSITORY, Target, Transport},
};

const CONNECTIONS: usize = 32;
const TAG: &str = "v1";
/// Blobs that the manifest names besides its config: as many layers as images often have.
const LAYERS: u64 = 8;

/// What wrk says at the end, in a form to read.
const REPORT: &str = "done = function(summary)\n\
    local e = summary.errors\n\
    io.write(string.format('\\nreport {\"requests\": %d, \"micros\": %d, \"errors\": %d}\\n', summary.requests, \
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout))\n\
    end\n";

/// What every request brings to Torno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// A name and a password, as `curl` does.
    Password,
    /// A bearer token, as Docker does.
    Token,
}

/// One manifest, 32 connections.
pub(super) fn by_tag(bench: &Bench<'_>, login: Login) -> Result<Values, Failure> {
    let servers = bench.start(&[Peer::Torno, Peer::Nginx, Peer::Distribution], Transport::Clear)?;
    let script = bench.folder.join("report.lua");
    std::fs::write(&script, REPORT).map_err(Failure::io("the script for wrk could not be written"))?;
    let blobs: Vec<Vec<u8>> = (0..=LAYERS).map(|number| image::blob(number, 4096)).collect();
    let manifest = image::manifest(&blobs);
    let mut targets = Vec::new();
    for server in &servers {
        let mut connection = Connection::open(&server.target)?;
        if server.target.peer != Peer::Nginx {
            for blob in &blobs {
                connection.push_small(REPOSITORY, blob, &digest(blob))?;
            }
        }
        server.give_manifest(&mut connection, TAG, OCI_IMAGE, &manifest)?;
        let path = server.manifest_path(TAG);
        let headers = [("accept", OCI_IMAGE)];
        let answer = connection.ask("GET", &path, &headers, &[], 200)?;
        if answer.body != manifest {
            return Err(Failure::Wrong(format!("{}: another manifest than was pushed", server.target.peer)));
        }
        let mut target = server.target.clone();
        if login == Login::Token && target.authorization.is_some() {
            target.authorization = Some(format!("Bearer {}", token(&mut connection)?));
        }
        // A short run first: caches, and as many connections as there will be.
        wrk(&target, &path, &script, 1)?;
        targets.push(target);
    }
    let seconds = bench.scale.window.as_secs().max(1);
    bench.rounds(&servers, |server, _| {
        let target = targets.iter().find(|target| target.peer == server.target.peer);
        wrk(target.unwrap_or(&server.target), &server.manifest_path(TAG), &script, seconds)
    })
}

/// A token for reading the repository.
fn token(connection: &mut Connection) -> Result<String, Failure> {
    let path = format!("/token?scope=repository:{REPOSITORY}:pull");
    let answer = connection.ask("GET", &path, &[], &[], 200)?;
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let token = body.as_ref().and_then(|body| body.get("token")?.as_str());
    token.map(str::to_owned).ok_or_else(|| Failure::Wrong("Torno: an answer without a token".into()))
}

/// Answers per second. Every one must be a 2xx or 3xx, and no connection may break.
fn wrk(target: &Target, path: &str, script: &Path, seconds: u64) -> Result<f64, Failure> {
    let mut command = Command::new("wrk");
    command.args(["--threads", "2", "--connections", &CONNECTIONS.to_string()]);
    command.args(["--duration", &format!("{seconds}s"), "--header", &format!("Accept: {OCI_IMAGE}")]);
    if let Some(authorization) = &target.authorization {
        command.args(["--header", &format!("Authorization: {authorization}")]);
    }
    command.arg("--script").arg(script).arg(format!("http://{}{path}", target.address));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let said = Process::start(&mut command)?.output()?;
    let report = said.lines().find_map(|line| line.strip_prefix("report "));
    let report: Option<Value> = report.and_then(|text| serde_json::from_str(text).ok());
    let number = |name: &str| report.as_ref().and_then(|report| report.get(name)?.as_f64());
    match (number("requests"), number("micros"), number("errors")) {
        (Some(requests), Some(micros), Some(0.0)) if requests > 0.0 => Ok(requests / micros * 1e6),
        _ => Err(Failure::Wrong(format!("wrk at {}: {said}", target.peer))),
    }
}
