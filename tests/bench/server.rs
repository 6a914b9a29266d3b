//! Torno and the servers it is measured against, each in a folder of its own, on a free port of the loopback.

mod distribution;
mod nginx;
mod torno;

use std::{
    fmt,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::ClientConfig;

pub(crate) use distribution::Store;

use crate::{
    failure::Failure,
    load::{Connection, Payload, client_config},
    process::{self, Process},
};

/// How long a server may take to begin to answer.
const START: Duration = Duration::from_secs(30);

/// The repository in which blobs and manifests are measured.
pub(crate) const REPOSITORY: &str = "bench/image";

/// With whom Torno is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The subject itself.
    Torno,
    /// Torno with little in it: what a page should cost however much there is.
    Small,
    /// nginx: static files, and `WebDAV` to push to.
    Nginx,
    /// The reference registry, from Debian's package `docker-registry`.
    Distribution,
    /// `openssl dgst -sha256` on the file that is pushed.
    Openssl,
    /// Somebody who pulls, runs and copies with the Docker client.
    Hand,
}

impl Peer {
    /// Those that can be left out: nothing is measured that needs them.
    pub(crate) const OPTIONAL: [Self; 2] = [Self::Nginx, Self::Distribution];
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Torno => "torno",
            Self::Small => "small",
            Self::Nginx => "nginx",
            Self::Distribution => "distribution",
            Self::Openssl => "openssl",
            Self::Hand => "docker",
        })
    }
}

/// Whether connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Clear,
    Tls,
}

/// The programs that are measured.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) torno: PathBuf,
    pub(crate) distribution: PathBuf,
}

/// Where load goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) peer: Peer,
    pub(crate) address: SocketAddr,
    /// The `Authorization` of every request. Torno always wants one; nginx and distribution are open, which costs
    /// them least.
    pub(crate) authorization: Option<String>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// A server that runs. Dropped, it ends; its folder is left to whoever made it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) target: Target,
    process: Process,
    /// What nginx serves.
    files: PathBuf,
    /// Where its configuration and its state are.
    pub(crate) folder: PathBuf,
}

impl Server {
    /// Starts a server with its state in `folder`, which is made, and waits until it answers.
    pub(crate) fn start(
        peer: Peer,
        programs: &Programs,
        folder: &Path,
        transport: Transport,
    ) -> Result<Self, Failure> {
        let folder = folder.join(peer.to_string());
        make_folder(&folder)?;
        let certificate = match transport {
            Transport::Clear => None,
            Transport::Tls => Some(Certificate::make(&folder)?),
        };
        let files = folder.join("files");
        let started = match peer {
            Peer::Torno | Peer::Small => {
                torno::start(programs, &folder, certificate.as_ref(), torno::Runs::None)?
            }
            Peer::Nginx => nginx::start(&folder, &files, certificate.as_ref())?,
            Peer::Distribution => distribution::start(programs, &folder)?,
            Peer::Openssl | Peer::Hand => return Err(Failure::Wrong(format!("{peer} serves nothing"))),
        };
        let Started { address, authorization, process } = started;
        let tls = certificate.map(|certificate| client_config(&certificate.certificate)).transpose()?;
        Ok(Self { target: Target { peer, address, authorization, tls }, process, files, folder })
    }

    /// Torno with the machine's engine and a project, `bench`, for whoever is logged in.
    pub(crate) fn start_with_runs(programs: &Programs, folder: &Path) -> Result<Self, Failure> {
        let folder = folder.join("torno");
        make_folder(&folder)?;
        let Started { address, authorization, process } =
            torno::start(programs, &folder, None, torno::Runs::OfBench)?;
        let target = Target { peer: Peer::Torno, address, authorization, tls: None };
        Ok(Self { target, process, files: folder.join("files"), folder })
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where a blob of [`REPOSITORY`] is.
    pub(crate) fn blob_path(&self, digest: &str) -> String {
        match self.target.peer {
            Peer::Nginx => format!("/blobs/{digest}"),
            _ => format!("/v2/{REPOSITORY}/blobs/{digest}"),
        }
    }

    /// Where the manifest with a tag is.
    pub(crate) fn manifest_path(&self, tag: &str) -> String {
        match self.target.peer {
            Peer::Nginx => format!("/manifests/{tag}"),
            _ => format!("/v2/{REPOSITORY}/manifests/{tag}"),
        }
    }

    /// Lets it have a payload as a blob of [`REPOSITORY`]: nginx as a link to the file, the others by a push.
    pub(crate) fn give_blob(&self, connection: &mut Connection, payload: &Payload) -> Result<(), Failure> {
        match self.target.peer {
            Peer::Nginx => {
                let path = self.files.join("blobs").join(&payload.digest);
                let failure = Failure::io("a blob could not be linked where nginx serves it");
                fs::hard_link(&payload.path, path).map_err(failure)
            }
            _ => connection.push(REPOSITORY, payload),
        }
    }

    /// Lets it have a manifest of [`REPOSITORY`] under a tag.
    pub(crate) fn give_manifest(
        &self,
        connection: &mut Connection,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        if self.target.peer == Peer::Nginx {
            return write(&self.files.join("manifests").join(tag), bytes);
        }
        let headers = [("content-type", media_type)];
        connection.ask("PUT", &self.manifest_path(tag), &headers, bytes, 201).map(drop)
    }
}

/// What the start of each kind of server comes to.
struct Started {
    address: SocketAddr,
    authorization: Option<String>,
    process: Process,
}

/// A certificate for the loopback address, signed with its own key (ECDSA, P-256), both as PEM.
#[derive(Debug)]
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn make(folder: &Path) -> Result<Self, Failure> {
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-subj", "/CN=bench", "-days", "2"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Process::start(&mut command)?.output()?;
        Ok(Self { certificate, key })
    }
}

/// A server's standard error, where its last words are looked for.
fn log_to(command: &mut Command, log: &Path) -> Result<(), Failure> {
    let file = File::create(log).map_err(Failure::io(format!("{} could not be made", log.display())))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    Ok(())
}

/// Waits until there is an answer; fails when the server ends before, or takes too long.
fn await_start<T>(
    process: &mut Process,
    program: &str,
    log: &Path,
    mut ask: impl FnMut() -> Option<T>,
) -> Result<T, Failure> {
    let said = || {
        let text = fs::read_to_string(log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        last.into_iter().rev().fold(String::new(), |said, line| said + "; " + line)
    };
    let since = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        let program = || program.to_owned();
        if let Some(status) = process.ended() {
            return Err(Failure::Program { program: program(), status, said: said() });
        }
        if since.elapsed() > START {
            return Err(Failure::Silent { program: program(), seconds: START.as_secs(), said: said() });
        }
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether somebody accepts connections there.
fn listens(address: SocketAddr) -> Option<()> {
    TcpStream::connect(address).ok().map(drop)
}

/// An address nobody listens on. Somebody else may take it before it is used; the server then fails to start.
fn free_address() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map_err(Failure::io("there is no free port"))
}

/// Makes a folder and those above it; not any more once a signal removes them.
pub(crate) fn make_folder(path: &Path) -> Result<(), Failure> {
    let _held = process::started();
    fs::create_dir_all(path).map_err(Failure::io(format!("{} could not be made", path.display())))
}

fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), Failure> {
    fs::write(path, text).map_err(Failure::io(format!("{} could not be written", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways over TLS 1.3, by blobs of more than one record and more than one buffer.
    #[test]
    fn bytes_go_both_ways_over_tls() {
        let folder = tempfile::tempdir().expect("a folder");
        let programs = Programs { torno: PathBuf::new(), distribution: PathBuf::new() };
        let server = Server::start(Peer::Nginx, &programs, folder.path(), Transport::Tls).expect("nginx");
        for size in [4096, 100_000, 3_000_001] {
            let payload =
                Payload::write(&folder.path().join(size.to_string()), size, size).expect("a payload");
            let mut connection = Connection::open(&server.target).expect("a connection");
            server.give_blob(&mut connection, &payload).expect("a blob");
            let path = server.blob_path(&payload.digest);
            connection.pull_verified(&path, size, &payload.digest).expect("the blob");
            connection.pull_verified(&path, size, "sha256:0").expect_err("another digest");
            connection.pull(&path, size).expect("the blob, not looked at");
            Connection::open(&server.target)
                .expect("a connection")
                .pull(&path, size - 1)
                .expect_err("a length");

            let variant = payload.variant(1).expect("a variant");
            assert_ne!(variant.digest, payload.digest);
            let path = format!("/pushed/{}", variant.digest);
            connection.upload("PUT", &path, &variant, 201).expect("a push");
            connection.pull_verified(&path, size, &variant.digest).expect("what was pushed");
            connection.upload("PUT", &path, &variant, 201).expect_err("it is there: 204");
        }
    }

    /// Whoever has another certificate is not spoken to.
    #[test]
    fn another_certificate_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let programs = Programs { torno: PathBuf::new(), distribution: PathBuf::new() };
        let server = Server::start(Peer::Nginx, &programs, folder.path(), Transport::Tls).expect("nginx");
        let other = Certificate::make(folder.path()).expect("a certificate");
        let tls = Some(client_config(&other.certificate).expect("a client"));
        let target = Target { tls, ..server.target.clone() };
        assert!(Connection::open(&target).is_err());
    }
}
