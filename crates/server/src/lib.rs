//! Torno over HTTP: listeners, routes, authentication of requests, error responses.
//!
//! [`Server`] answers its listeners. The public one, over [`Tls`] or in clear, speaks the distribution specification
//! under `/v2/` to people, and a little HTML beside it. The engine's one, on loopback, serves the image of a claimed run to the engine that
//! shows that run's token, and nothing else. Every route under `/v2/` and `/api/` is in [`route`].

mod accept;
mod acme;
mod answer;
mod blob;
mod body;
mod browser;
mod catalog;
mod challenge;
mod clear;
mod connection;
mod control;
mod credentials;
mod detail;
mod ending;
mod engine;
mod failure;
mod forwarded;
mod login;
mod manifest;
mod origin;
mod page;
mod project;
#[cfg(any(test, feature = "fuzzing"))]
pub mod properties;
mod provider;
mod public;
mod query;
mod range;
mod record;
pub mod route;
mod server;
mod tls;
mod token;
mod upload;
mod warning;
mod whoami;

pub use acme::{Acme, AcmeSettings, Challenge, Contact, DirectoryUrl, DomainName};
pub use connection::Limits;
pub use forwarded::{Proxies, ProxyRange, ProxyRangeError};
pub use project::{DryRun, DryRuns};
pub use provider::{Provider, ProviderError};
pub use server::{Images, Listeners, Outside, Server, Settings};
pub use tls::{
    Certificate, CertificateChain, ClientAuthority, ClientLogin, PrivateKey, RevocationLists, Tls, TlsError,
};
