//! TLS: the certificate that people's connections are shown, and how it is changed while they go on.
//!
//! Everything that knows of rustls is here and below, but for the connection to a certificate authority in
//! [`acme`](crate::acme). Keys are never logged.

mod challenge;
mod clients;
mod stream;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::{Arc, Mutex, Once, PoisonError},
};

use arc_swap::ArcSwapOption;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

pub(crate) use challenge::Challenges;
pub(crate) use clients::{Certified, is_about_a_certificate};
pub use clients::{ClientAuthority, ClientLogin, RevocationLists};
pub(crate) use stream::{Encrypted, Opened, Protocol};

/// A chain of a few certificates has some KiB; what is larger is another file.
const MAX_FILE_SIZE: usize = 1024 * 1024;

/// What is spoken inside, the first that the peer speaks too (RFC 7301; RFC 9113, section 3.1).
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
const HTTP2: &[u8] = b"h2";

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file system said no.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Neither certificates nor a key have this size.
    #[error("it has more than {MAX_FILE_SIZE} bytes")]
    TooLarge,
    /// A PEM section has no end, or is not Base64.
    #[error("it is not PEM (`-----BEGIN …-----`): {0}")]
    NotPem(String),
    /// PEM, but without a certificate.
    #[error("there is no certificate in it (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    /// PEM, but without a key that is not locked with a password.
    #[error("there is no private key without a password in it (`-----BEGIN PRIVATE KEY-----`)")]
    NoKey,
    /// One of the certificates is none of X.509, version 3.
    #[error("certificate {number} in it cannot be used: {reason}")]
    BadCertificate {
        /// Which, from 1.
        number: usize,
        /// Why.
        reason: String,
    },
    /// The key is of a kind that TLS does not know, or damaged.
    #[error("the key in it cannot be used: {0}")]
    BadKey(String),
    /// The key belongs to another certificate.
    #[error("the key does not belong to the certificate (the first one, if there are several)")]
    Mismatch,
    /// PEM, but without a list of revoked certificates.
    #[error("there is no list of revoked certificates in it (`-----BEGIN X509 CRL-----`)")]
    NoRevocationList,
    /// Clients cannot be checked with these certificates or lists.
    #[error("the certificates of clients cannot be checked with it: {0}")]
    BadAuthority(String),
}

/// The server's certificate, followed by those that lead to one that clients trust (RFC 8446, section 4.4.2).
pub struct CertificateChain(Vec<CertificateDer<'static>>);

impl CertificateChain {
    /// Reads a PEM file of at most 1 MiB (RFC 7468). Nothing is asked of the certificates but that they are some.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        Self::parse(&read(path)?)
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self, TlsError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let certificates = certificates.map_err(|error| not_pem(&error))?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        for (number, certificate) in (1..).zip(&certificates) {
            ParsedCertificate::try_from(certificate)
                .map_err(|error| TlsError::BadCertificate { number, reason: error.to_string() })?;
        }
        Ok(Self(certificates))
    }

    /// The first one, in DER.
    pub(crate) fn leaf(&self) -> &[u8] {
        self.0.first().map_or(&[], |certificate| certificate)
    }

    /// Those that are trusted, if this is what is trusted and not what is shown.
    pub(crate) fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for (number, certificate) in (1..).zip(&self.0) {
            roots
                .add(certificate.clone())
                .map_err(|error| TlsError::BadCertificate { number, reason: error.to_string() })?;
        }
        Ok(roots)
    }
}

impl fmt::Debug for CertificateChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateChain").field("length", &self.0.len()).finish_non_exhaustive()
    }
}

/// The private key of a certificate. It shows nothing of itself.
pub struct PrivateKey(PrivateKeyDer<'static>);

impl PrivateKey {
    /// Reads the first private key of a PEM file of at most 1 MiB: PKCS #8, PKCS #1 or SEC 1, without a password.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        Self::parse(&read(path)?)
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self, TlsError> {
        PrivateKeyDer::from_pem_slice(text).map(Self).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::NoKey,
            error => not_pem(&error),
        })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").finish_non_exhaustive()
    }
}

/// A chain with its key, ready to be shown. A copy of it is the same certificate.
#[derive(Clone)]
pub struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// Puts a chain and its key together; what is wrong then is wrong with the key.
    pub fn new(chain: CertificateChain, key: PrivateKey) -> Result<Self, TlsError> {
        let certified = CertifiedKey::from_der(chain.0, key.0, &aws_lc_rs::default_provider());
        certified.map(|certified| Self(Arc::new(certified))).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
            error => TlsError::BadKey(error.to_string()),
        })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// TLS on a listener: which certificate new connections are shown, and which they may show themselves.
#[derive(Debug)]
pub struct Tls {
    parts: Mutex<Parts>,
    /// Made of the parts whenever one of them changes. `None` until there is a certificate.
    config: ArcSwapOption<ServerConfig>,
    /// What an authority that checks our names is shown instead.
    pub(crate) challenges: Challenges,
    /// Said that there is no certificate.
    lack: Once,
}

#[derive(Debug, Default)]
struct Parts {
    certificate: Option<Certificate>,
    clients: Option<ClientAuthority>,
}

impl Tls {
    /// Without a certificate yet: until there is one, handshakes are refused.
    pub fn new() -> Self {
        Self {
            parts: Mutex::default(),
            config: ArcSwapOption::empty(),
            challenges: Challenges::default(),
            lack: Once::new(),
        }
    }

    /// Shows connections that come from now on another certificate. Those that are there go on with theirs, and nobody
    /// takes a session of the old one up again.
    pub fn show(&self, certificate: Certificate) {
        self.change(|parts| parts.certificate = Some(certificate));
    }

    /// Asks connections that come from now on for a certificate of this authority, or for none.
    pub fn admit(&self, clients: Option<ClientAuthority>) {
        self.change(|parts| parts.clients = clients);
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let config = parts.certificate.as_ref().map(|shown| ordinary(shown, parts.clients.as_ref()));
        // Under the lock: of two changes, the one that came second is what is shown.
        self.config.store(config.map(Arc::new));
    }

    /// Clients try again and again, and each would be a line.
    fn say_once_that_there_is_none(&self) {
        self.lack.call_once(|| {
            tracing::warn!("connections are refused for now: there is no certificate to show yet");
        });
    }

    /// How to answer this handshake.
    fn config(&self, hello: &ClientHello<'_>) -> Offer {
        if challenge::is_asked_by(hello) {
            return Offer::Challenge(self.challenges.answer_to(hello));
        }
        match self.config.load_full() {
            Some(config) => Offer::Ordinary(config),
            None => Offer::Nothing(Arc::new(with(Arc::new(Shown(None)), None))),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::new()
    }
}

/// How a handshake is answered.
enum Offer {
    /// With the certificate.
    Ordinary(Arc<ServerConfig>),
    /// To an authority that checks a name of ours: with what proves it. Nothing is served then.
    Challenge(Arc<ServerConfig>),
    /// With an alert: there is no certificate yet.
    Nothing(Arc<ServerConfig>),
}

fn ordinary(certificate: &Certificate, clients: Option<&ClientAuthority>) -> ServerConfig {
    let mut config = with(Arc::new(Shown(Some(Arc::clone(&certificate.0)))), clients);
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    if clients.is_some() {
        // A session that is taken up again would not be asked for its certificate, which may have expired meanwhile.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config
}

/// Connections speak TLS 1.2 or 1.3, with the ciphers and groups that rustls holds to be safe.
fn with(shown: Arc<Shown>, clients: Option<&ClientAuthority>) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider has ciphers for both");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
    };
    builder.with_cert_resolver(shown)
}

/// The same certificate for everybody; without one rustls sends an alert.
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE_SIZE as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MAX_FILE_SIZE { Err(TlsError::TooLarge) } else { Ok(text) }
}

/// The parser's words, which name the kinds of sections but quote nothing of them.
fn not_pem(error: &pem::Error) -> TlsError {
    TlsError::NotPem(match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end".into(),
        pem::Error::IllegalSectionStart { .. } => "a section begins with a broken line".into(),
        pem::Error::Base64Decode(_) => "a section is not Base64".into(),
        pem::Error::NoItemsFound => "nothing was found".into(),
        _ => "it is damaged".into(),
    })
}
