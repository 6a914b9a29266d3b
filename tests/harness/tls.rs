//! TLS: an authority of a test's own, its certificates, and connections that trust nobody else.

use std::{
    fs, io,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DEFAULT_VERSIONS, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;

use crate::{Http, Raw};

/// An authority that signs certificates, in a folder that goes when this is dropped.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

/// A certificate for the loopback address with its key, both as PEM.
#[derive(Debug)]
pub struct Pair {
    /// The certificate, then that of the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A connection over TLS to write HTTP on by hand.
pub type Secure = Raw<StreamOwned<ClientConnection, TcpStream>>;

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"];
        let mut command = request("/CN=authority", &authority.path("authority.key"));
        openssl(
            command.args(["-x509", "-days", "2"]).args(extensions).arg("-out").arg(authority.certificate()),
        );
        authority
    }

    /// Another one, that only this certificate is known of.
    pub fn of(certificate: &Path) -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        fs::copy(certificate, authority.certificate()).expect("copy");
        authority
    }

    /// Its own certificate. It stands alone in its folder, as the clients' `--cert-dir` wants it.
    pub fn certificate(&self) -> PathBuf {
        self.trusted().join("ca.crt")
    }

    /// The folder with its certificate.
    pub fn trusted(&self) -> PathBuf {
        let folder = self.path("trusted");
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A certificate of its own for each name.
    pub fn issue(&self, name: &str) -> Pair {
        let (key, asked, signed) = (
            self.path(&format!("{name}.key")),
            self.path(&format!("{name}.csr")),
            self.path(&format!("{name}.pem")),
        );
        let extensions = self.path("extensions");
        fs::write(&extensions, "subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
            .expect("write");
        openssl(request(&format!("/CN={name}"), &key).arg("-out").arg(&asked));
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "2"]).arg("-in").arg(&asked).arg("-extfile").arg(&extensions);
        command.arg("-CA").arg(self.certificate()).arg("-CAkey").arg(self.path("authority.key"));
        openssl(command.arg("-CAcreateserial").arg("-out").arg(&signed));
        let chain =
            [&signed, &self.certificate()].map(|path| fs::read_to_string(path).expect("PEM")).concat();
        fs::write(&signed, chain).expect("write");
        Pair { certificate: signed, key }
    }

    /// Shakes hands with a site as this user, in one of these versions and with one of these protocols.
    pub fn connect(
        &self,
        http: &Http,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
    ) -> io::Result<Secure> {
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
        self.shake_hands(http, name, versions, protocols)
    }

    /// Shakes hands with a site that has this name, as this user.
    pub fn connect_as(&self, http: &Http, name: &str) -> io::Result<Secure> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        self.shake_hands(http, name, DEFAULT_VERSIONS, &[])
    }

    fn shake_hands(
        &self,
        http: &Http,
        name: ServerName<'static>,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
    ) -> io::Result<Secure> {
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.certificate())).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut session = ClientConnection::new(Arc::new(config), name).expect("a session");
        let mut socket = TcpStream::connect(http.host())?;
        socket.set_read_timeout(Some(Duration::from_mins(1)))?;
        socket.set_write_timeout(Some(Duration::from_mins(1)))?;
        socket.set_nodelay(true)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(Raw::over(StreamOwned::new(session, socket), http.host(), http.authorization()))
    }
}

/// What `openssl s_client` is shown when it asks for this name, as PEM, whoever has signed it; `None` if hands were not
/// shaken.
pub fn shown(host: &str, name: &str) -> Option<String> {
    let arguments = ["s_client", "-connect", host, "-servername", name];
    let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().expect("openssl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----\n")?;
    let (content, _) = rest.split_once("\n-----END CERTIFICATE-----")?;
    Some(content.to_owned())
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Pair {
    /// Whether a connection was shown this certificate.
    pub fn is_shown_on(&self, connection: &Secure) -> bool {
        let shown = connection.stream().conn.peer_certificates().expect("a certificate");
        shown.first() == Some(&der(&self.certificate))
    }
}

fn der(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

/// Asks for a certificate with a new key, without a password.
fn request(subject: &str, key: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject]);
    command.arg("-keyout").arg(key);
    command
}

fn openssl(command: &mut Command) {
    let output = command.output().expect("openssl");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
