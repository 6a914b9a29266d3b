//! Certificates of clients: whose are accepted, and who somebody is who shows one.

use std::{
    fmt, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use torno_auth::UserName;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{CertificateChain, TlsError, not_pem, read};

/// Whether whoever connects must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientLogin {
    /// Who has none logs in with a password or a token.
    Optional,
    /// Who has none is not spoken to.
    Required,
}

/// The certificates that their authorities have taken back (RFC 5280, section 5).
pub struct RevocationLists(Vec<CertificateRevocationListDer<'static>>);

impl RevocationLists {
    /// Reads a PEM file of at most 1 MiB with one list or several.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let text = read(path)?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
        let lists = lists.map_err(|error| not_pem(&error))?;
        if lists.is_empty() { Err(TlsError::NoRevocationList) } else { Ok(Self(lists)) }
    }
}

impl fmt::Debug for RevocationLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationLists").field("length", &self.0.len()).finish_non_exhaustive()
    }
}

/// Who vouches for clients, and what that is worth here.
#[derive(Clone)]
pub struct ClientAuthority(Arc<dyn ClientCertVerifier>);

impl ClientAuthority {
    /// Accepts certificates that one of these has signed, and that are in none of the lists. Where there are lists,
    /// one of them must be of whoever signed the certificate, and none may be out of date: otherwise what they do not
    /// say would be taken for good.
    pub fn new(
        authorities: &CertificateChain,
        revoked: Option<RevocationLists>,
        login: ClientLogin,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(authorities.roots()?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if let Some(lists) = revoked {
            builder =
                builder.with_crls(lists.0).only_check_end_entity_revocation().enforce_revocation_expiration();
        }
        if login == ClientLogin::Optional {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map(Self).map_err(|error| TlsError::BadAuthority(error.to_string()))
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthority").finish_non_exhaustive()
    }
}

/// Whether a handshake failed because of the certificate that the client has shown, or has not.
pub(crate) fn is_about_a_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(
        cause,
        Some(
            rustls::Error::InvalidCertificate(_)
                | rustls::Error::InvalidCertRevocationList(_)
                | rustls::Error::NoCertificatesPresented
        )
    )
}

/// Whom a certificate names that was verified when the connection began.
#[derive(Debug)]
pub(crate) struct Certified {
    user: UserName,
    until: SystemTime,
}

impl Certified {
    /// Reads the certificate: its subject has one common name, which is a user name. `None` if not; then its owner
    /// logs in another way.
    pub(super) fn by(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let mut names = certificate.subject().iter_common_name();
        let (name, None) = (names.next()?, names.next()) else { return None };
        let user = name.as_str().ok()?.parse().ok()?;
        let until = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        Some(Self { user, until: SystemTime::UNIX_EPOCH + Duration::from_secs(until) })
    }

    /// Somebody, for tests.
    #[cfg(test)]
    pub(crate) fn named(user: &str) -> Self {
        let until = SystemTime::now() + Duration::from_hours(1);
        Self { user: user.parse().expect("a user name"), until }
    }

    /// Who that is, as long as the certificate holds: a connection can outlive it.
    pub(crate) fn user(&self) -> Option<&UserName> {
        (SystemTime::now() <= self.until).then_some(&self.user)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn named(names: &[&str]) -> Option<Certified> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        for name in names {
            parameters.distinguished_name.push(DnType::CommonName, *name);
        }
        let key = KeyPair::generate().expect("a key");
        Certified::by(parameters.self_signed(&key).expect("a certificate").der())
    }

    #[test]
    fn only_a_user_name_names_a_user() {
        let ada = named(&["ada@example.org"]).expect("a user");
        assert_eq!(ada.user().map(UserName::as_str), Some("ada@example.org"));
        for names in [&[][..], &[""], &["Ada Lovelace"], &["ada\0"], &["-ada"]] {
            assert!(named(names).is_none(), "{names:?}");
        }
    }

    #[test]
    fn a_certificate_that_has_ended_names_nobody() {
        let user = "ada".parse().expect("a name");
        let ended = Certified { user, until: SystemTime::now() - Duration::from_secs(1) };
        assert_eq!(ended.user(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Certified::by(&CertificateDer::from(bytes));
        }
    }
}
