//! Requests to a certificate authority over HTTPS, each with an end in time and size.

use std::{error::Error, future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use crate::tls::CertificateChain;

use super::{AcmeSettings, order::OrderError};

/// How long a request may take, answer and all. Authorities check in the background and answer at once.
const REQUEST: Duration = Duration::from_secs(30);

/// An answer has some KiB; the largest is a chain of certificates.
const MAX_ANSWER: usize = 1024 * 1024;

type Https = Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>;

/// Speaks to one authority.
pub(super) struct Connection(Https);

impl Connection {
    /// Trusts the configured root and nobody else, or whom this machine trusts. Blocks, to read them.
    pub(super) fn new(settings: &AcmeSettings) -> Result<Self, OrderError> {
        let roots = match &settings.root {
            Some(path) => CertificateChain::read(path)
                .and_then(|chain| chain.roots())
                .map_err(|error| OrderError::Roots(format!("{}: {error}", path.display())))?,
            None => of_this_machine()?,
        };
        let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("the provider has ciphers for them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(https)))
    }
}

fn of_this_machine() -> Result<RootCertStore, OrderError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(found.certs);
    if good == 0 {
        return Err(OrderError::Roots(
            "this machine trusts no authority; install the package ca-certificates, or set `tls.root`".into(),
        ));
    }
    Ok(roots)
}

impl HttpClient for Connection {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let answered = self.0.request(request);
        let answered = async move {
            let (parts, body) = answered.await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, Box<dyn Error + Send + Sync>>(BytesResponse { parts, body: Box::new(body) })
        };
        Box::pin(async move {
            let answered = tokio::time::timeout(REQUEST, answered).await;
            let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {REQUEST:?}").into()));
            answered.map_err(instant_acme::Error::Other)
        })
    }
}
