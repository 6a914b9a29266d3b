//! What the black-box tests share: a site of their own with the real binary, an HTTP client that can ask for
//! anything, and the Docker client with an engine that is left as it was found.
//!
//! Everything a test makes is in its own folder, on a free port, and gone when its [`Site`] is dropped; a site
//! that leaves a container, a volume or a process behind fails its test.

#![expect(clippy::missing_panics_doc, reason = "failing is what tests do")]

mod containerd;
mod damage;
mod disk;
mod distribution;
mod docker;
mod engine;
mod http;
pub mod http2;
mod image;
mod memory;
mod pebble;
mod podman;
mod postgres;
mod provider;
mod python;
mod raw;
mod site;
mod slapd;
mod tls;
mod tools;

pub use containerd::Containerd;
pub use disk::Disk;
pub use distribution::Distribution;
pub use docker::{Docker, leftovers, remove, tool};
pub use engine::Engine;
pub use http::{Answer, Http};
pub use http2::Http2;
pub use image::{Image, OCI_IMAGE, OCI_INDEX, busybox, index, layer, program, sha256};
pub use memory::{Watch, memory};
pub use pebble::{Checked, Pebble, free_port};
pub use podman::Podman;
pub use postgres::{Postgres, libraries};
pub use provider::IdentityProvider;
pub use python::Script;
pub use raw::{Raw, allow_many_connections, connect_from};
pub use site::{NO_ENGINE, PROJECTS, Site, binary, wait_until};
pub use slapd::Slapd;
pub use tls::{Authority, Pair, Secure, shown};
pub use tools::{Tools, layout_blobs};
