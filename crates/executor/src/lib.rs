//! Claims a run, plans it, drives the engine, collects what came out, publishes it, cleans up.
//!
//! [`Executor`] is the loop, and `recover.rs` what it takes up and clears away, and
//! `cache.rs` what it keeps of the images; `life.rs` is one run from its claim to its end; `plan.rs` says, without doing anything,
//! what its container is made with; `engine.rs` alone speaks the Docker API. What a run leaves is read by
//! `collect.rs`, described by `report.rs` and `log.rs`, and packed by `pack.rs`; `provenance.rs`
//! signs where it came from. `relay.rs` is its way to the services it may reach, and `volatile.rs` what it is given that no
//! disk holds.

mod cache;
mod collect;
mod dataset;
mod doctor;
mod dry_run;
mod engine;
mod error;
mod executor;
mod fingerprint;
mod fit;
mod hands;
mod instance;
mod life;
mod log;
mod moment;
mod output;
mod pack;
mod plan;
mod policy;
mod presence;
mod provenance;
mod recover;
mod relay;
mod report;
mod sample;
mod service;
mod volatile;
mod walk;

pub use collect::CollectError;
pub use doctor::{Examination, Gpus, Line, Verdict, examine};
pub use dry_run::DryRun;
pub use engine::{EngineError, Fact};
pub use error::ExecutorError;
pub use executor::Executor;
pub use fingerprint::{Advance, DataFolder, fingerprint};
pub use walk::WalkError;

pub use dataset::{DataPlace, Dataset, VolumeName, VolumeNameError};
pub use policy::{
    Cpus, Limits, LogPolicy, MAX_SECRETS, MAX_SERVICES, ProjectPolicy, Runtime, Settings, UnknownRuntime,
    runtimes,
};
pub use provenance::{
    EnvelopeError, KEYS, KeyError, Provenance, ProvenanceError, PublicKey, SigningKey, verify,
};
pub use service::{Service, ServiceError};
pub use torno_inside::{Attack, attack};
pub use volatile::SecretError;
