//! The load generator: HTTP/1.1 over plain sockets or TLS 1.3, from blocking threads.
//!
//! Client and server share the processors, so what the client costs is taken from the server: it parses no more of
//! an answer than status, length and `Location`, receives into one buffer again and again, and sends files with
//! `sendfile`. It costs every peer the same, and it checks the status and the length of every answer.

mod connection;
mod crowd;
mod payload;
mod plain;
mod tls;

pub(crate) use connection::Connection;
pub(crate) use crowd::{during, each};
pub(crate) use payload::{Noise, Payload, digest};
pub(crate) use tls::client_config;

/// How long a peer may keep the client waiting for a byte; a distribution that seals 8 GiB takes its time.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(3);
