//! The certificate authorities that vouch for other servers to Torno.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The largest file of authorities read, in bytes: Debian's, with all there are, has a quarter of it.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// Whose certificates are trusted.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<RootCertStore>);

/// Authorities that nobody can be trusted by.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The file system said no.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Larger than 1 MiB.
    #[error("it is larger than a file of certificates can be")]
    TooLarge,
    /// No certificate in it, or a broken one.
    #[error("it holds no certificate in PEM form, or one that is broken")]
    Certificate,
    /// TLS cannot be had.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl Authorities {
    /// Those of a PEM file alone.
    pub fn read(path: &Path) -> Result<Self, AuthoritiesError> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_SIZE {
            return Err(AuthoritiesError::TooLarge);
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = certificate.map_err(|_| AuthoritiesError::Certificate)?;
            roots.add(certificate).map_err(|_| AuthoritiesError::Certificate)?;
        }
        if roots.is_empty() { Err(AuthoritiesError::Certificate) } else { Ok(Self(Arc::new(roots))) }
    }

    /// Those that this machine trusts. There may be none; then nobody is trusted.
    pub fn of_this_machine() -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate authority of this machine cannot be read");
        }
        // Those that are none are left out: systems ship old ones that no library takes.
        roots.add_parsable_certificates(found.certs);
        Self(Arc::new(roots))
    }

    /// What a client that trusts them shakes hands with.
    pub fn client(&self) -> Result<ClientConfig, AuthoritiesError> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.0))
            .with_no_client_auth();
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_an_authority_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ca.pem");
        assert!(matches!(Authorities::read(&path), Err(AuthoritiesError::Io(_))));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "nothing", broken] {
            std::fs::write(&path, text).expect("write");
            assert!(matches!(Authorities::read(&path), Err(AuthoritiesError::Certificate)), "{text}");
        }
        let limit = usize::try_from(MAX_FILE_SIZE).expect("small");
        std::fs::write(&path, "x".repeat(limit + 1)).expect("write");
        assert!(matches!(Authorities::read(&path), Err(AuthoritiesError::TooLarge)));
        std::fs::write(&path, "x".repeat(limit)).expect("write");
        assert!(matches!(Authorities::read(&path), Err(AuthoritiesError::Certificate)));
    }
}
