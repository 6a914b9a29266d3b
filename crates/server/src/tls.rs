//! TLS: the certificate that people's connections are shown, and how it is changed while they go on.
//!
//! Everything that knows of rustls is here and in [`stream`]. Keys are read, never written or logged.

mod stream;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::ParsedCertificate,
    version::{TLS12, TLS13},
};

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
}

/// The server's certificate, followed by those that lead to one that clients trust (RFC 8446, section 4.4.2).
pub struct CertificateChain(Vec<CertificateDer<'static>>);

impl CertificateChain {
    /// Reads a PEM file of at most 1 MiB (RFC 7468). Nothing is asked of the certificates but that they are some.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let text = read(path)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
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
        let text = read(path)?;
        PrivateKeyDer::from_pem_slice(&text).map(Self).map_err(|error| match error {
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
pub struct Certificate(Arc<ServerConfig>);

impl Certificate {
    /// Puts a chain and its key together; what is wrong then is wrong with the key.
    ///
    /// Connections with it speak TLS 1.2 or 1.3, with the ciphers and groups that rustls holds to be safe.
    pub fn new(chain: CertificateChain, key: PrivateKey) -> Result<Self, TlsError> {
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| TlsError::BadKey(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain.0, key.0);
        let mut config = config.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
            error => TlsError::BadKey(error.to_string()),
        })?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// TLS on a listener: which certificate new connections are shown.
#[derive(Debug)]
pub struct Tls(ArcSwap<Certificate>);

impl Tls {
    /// Begins with this certificate.
    pub fn new(certificate: Certificate) -> Self {
        Self(ArcSwap::from_pointee(certificate))
    }

    /// Shows connections that come from now on another certificate. Those that are there go on with theirs, and nobody
    /// takes a session of the old one up again.
    pub fn show(&self, certificate: Certificate) {
        self.0.store(Arc::new(certificate));
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.load().0)
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
