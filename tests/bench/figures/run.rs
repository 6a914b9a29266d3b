//! From a push to its result, beside what somebody does by hand on the same engine: `docker pull`, `docker run` and
//! `docker cp`. Neither finds the image in the engine: Torno removes what it has run, and so does this after each round.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Bench, Values, split};
use crate::{
    failure::Failure,
    figure::Samples,
    image::OCI_IMAGE,
    load::{Connection, Noise, Payload, digest},
    process::Process,
    server::{Peer, Server},
};

/// Where images are pushed, and where results come.
const IMAGE: &str = "run/bench/image";
const RESULT: &str = "results/bench/image";

/// How long a run may take. Torno lets a pull wait for its run for half a minute, then it is asked again.
const PATIENCE: Duration = Duration::from_mins(5);

/// Seconds until the result of an image with `ballast` bytes of noise is there.
pub(super) fn to_result(bench: &Bench<'_>, ballast: u64) -> Result<Values, Failure> {
    let server = Server::start_with_runs(bench.programs, bench.folder)?;
    let mut connection = Connection::open(&server.target)?;
    let layer = layer(&bench.folder.join("layer.tar"), ballast)?;
    let config = json!({
        "os": "linux", "architecture": architecture(),
        "config": {"Cmd": ["/busybox", "sh", "-c", "echo done > /output/done"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = config.to_string().into_bytes();
    connection.push(IMAGE, &layer)?;
    connection.push_small(IMAGE, &config, &digest(&config))?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size,
        }],
    });
    let manifest = manifest.to_string().into_bytes();
    let hand = Hand::new(bench.folder, &server)?;
    let mut pushes = 0;
    let mut push = |connection: &mut Connection| {
        pushes += 1;
        by_push(connection, &format!("round-{pushes}"), &manifest)
    };
    // Each once before: Torno looks at its host before the first run.
    push(&mut connection)?;
    hand.once("round-1")?;
    let mut all = vec![(Peer::Torno, Samples::default()), (Peer::Hand, Samples::default())];
    for _ in 0..bench.scale.rounds {
        for (peer, samples) in &mut all {
            samples.push(match peer {
                Peer::Torno => push(&mut connection)?,
                _ => hand.once("round-1")?,
            });
        }
    }
    Ok(split(all))
}

/// From the push of the manifest, whose layers are there, to a result that can be pulled.
fn by_push(connection: &mut Connection, tag: &str, manifest: &[u8]) -> Result<f64, Failure> {
    let since = Instant::now();
    let headers = [("content-type", OCI_IMAGE)];
    connection.ask("PUT", &format!("/v2/{IMAGE}/manifests/{tag}"), &headers, manifest, 201)?;
    let path = format!("/v2/{RESULT}/manifests/{tag}");
    loop {
        match connection.ask("GET", &path, &[("accept", OCI_IMAGE)], &[], 200) {
            Ok(_) => return Ok(since.elapsed().as_secs_f64()),
            // It waits or runs.
            Err(Failure::Status { status: 404, body, .. })
                if since.elapsed() < PATIENCE && !body.contains("failed") => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// The Docker client, logged in.
struct Hand {
    login: std::path::PathBuf,
    image: String,
    container: String,
    files: std::path::PathBuf,
}

impl Hand {
    fn new(folder: &Path, server: &Server) -> Result<Self, Failure> {
        let login = folder.join("docker");
        crate::server::make_folder(&login)?;
        let host = server.target.address.to_string();
        let authorization = server.target.authorization.as_deref().unwrap_or_default();
        let secret = authorization.trim_start_matches("Basic ");
        let config = json!({"auths": {&host: {"auth": secret}}}).to_string();
        fs::write(login.join("config.json"), config).map_err(Failure::io("a login could not be written"))?;
        Ok(Self {
            login,
            image: format!("{host}/{IMAGE}"),
            container: format!("torno-bench-{}", std::process::id()),
            files: folder.join("files"),
        })
    }

    fn docker(&self, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = Command::new("docker");
        command.env("DOCKER_CONFIG", &self.login).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Process::start(&mut command)?.output().map(drop)
    }

    /// Seconds from nothing to the files.
    fn once(&self, tag: &str) -> Result<f64, Failure> {
        let (image, from) = (format!("{}:{tag}", self.image), format!("{}:/output", self.container));
        let files = self.files.to_string_lossy();
        let since = Instant::now();
        self.docker(&["pull", "--quiet", &image])?;
        self.docker(&["run", "--network", "none", "--name", &self.container, &image])?;
        self.docker(&["cp", &from, &files])?;
        let seconds = since.elapsed().as_secs_f64();
        self.docker(&["rm", "--force", &self.container])?;
        self.docker(&["rmi", "--force", &image])?;
        let done = fs::read_to_string(self.files.join("done"));
        fs::remove_dir_all(&self.files).map_err(Failure::io("what was copied could not be removed"))?;
        match done.as_deref() {
            Ok("done\n") => Ok(seconds),
            _ => Err(Failure::Wrong("the container left something else".into())),
        }
    }
}

/// Whatever ends early leaves no container.
impl Drop for Hand {
    fn drop(&mut self) {
        let _ = self.docker(&["rm", "--force", &self.container]);
    }
}

/// A layer with a shell, a folder to write to, and noise that nothing compresses.
fn layer(path: &Path, ballast: u64) -> Result<Payload, Failure> {
    let failure = || Failure::io("a layer could not be written");
    let mut archive = tar::Builder::new(File::create(path).map_err(failure())?);
    let shell = fs::read("/bin/busybox").map_err(Failure::io("/bin/busybox (Debian: busybox-static)"))?;
    let mut add = |name: &str, kind, mode, size, bytes: &mut dyn io::Read| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        archive.append_data(&mut header, name, bytes)
    };
    add("output/", tar::EntryType::Directory, 0o777, 0, &mut io::empty()).map_err(failure())?;
    add("busybox", tar::EntryType::Regular, 0o755, shell.len() as u64, &mut shell.as_slice())
        .map_err(failure())?;
    add("ballast", tar::EntryType::Regular, 0o644, ballast, &mut io::Read::take(Endless(Noise(1)), ballast))
        .map_err(failure())?;
    archive.into_inner().map_err(failure())?;
    Payload::of(path)
}

/// Noise without an end.
struct Endless(Noise);

impl io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.fill(buffer);
        Ok(buffer.len())
    }
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
