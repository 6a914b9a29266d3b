//! What proves to a certificate authority that a name leads here: TLS-ALPN-01 (RFC 8737) and HTTP-01 (RFC 8555,
//! section 8.3).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::ClientHello,
    sign::CertifiedKey,
};

use super::{Shown, with};

/// What an authority offers, alone, when it checks a name.
const PROTOCOL: &[u8] = b"acme-tls/1";

/// Whether it is an authority that shakes hands here. Others never offer this protocol, let alone nothing else.
pub(super) fn is_asked_by(hello: &ClientHello<'_>) -> bool {
    let mut offered = hello.alpn().into_iter().flatten();
    offered.next() == Some(PROTOCOL) && offered.next().is_none()
}

/// The answers to the challenges of an order under way; none between orders.
#[derive(Default)]
pub(crate) struct Challenges(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    /// By the name that is checked.
    certificates: HashMap<String, Arc<CertifiedKey>>,
    /// By the token of the challenge.
    authorizations: HashMap<String, String>,
}

impl Challenges {
    /// From now on proves by TLS that `name` leads here; `digest` is that of the key authorization.
    pub(crate) fn prove_by_tls(&self, name: &str, digest: [u8; 32]) -> Result<(), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new([name.to_owned()])?;
        parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
        let certificate = parameters.self_signed(&key)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(key);
        let key = key.map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        // That both belong together is not looked at: rustls does not know the extension, which it has to.
        let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
        self.answers(|answers| answers.certificates.insert(name.to_ascii_lowercase(), Arc::new(shown)));
        Ok(())
    }

    /// From now on proves by HTTP that a name leads here.
    pub(crate) fn prove_by_http(&self, token: &str, authorization: &str) {
        self.answers(|answers| answers.authorizations.insert(token.to_owned(), authorization.to_owned()));
    }

    /// What is answered over HTTP to a challenge with this token.
    pub(crate) fn authorization(&self, token: &str) -> Option<String> {
        self.answers(|answers| answers.authorizations.get(token).cloned())
    }

    /// Proves nothing any more.
    pub(crate) fn forget(&self) {
        self.answers(|answers| *answers = Answers::default());
    }

    /// The certificate that proves the name, and an alert if there is none.
    pub(super) fn answer_to(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let shown = name.and_then(|name| self.answers(|answers| answers.certificates.get(&name).cloned()));
        let mut config = with(Arc::new(Shown(shown)), None);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Arc::new(config)
    }

    fn answers<T>(&self, ask: impl FnOnce(&mut Answers) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What would let others prove our names is not shown.
impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}
