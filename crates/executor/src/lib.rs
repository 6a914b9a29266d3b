//! Claims a run, plans it, drives the engine, collects what came out, publishes it, cleans up.

mod policy;

pub use policy::{Cpus, Dataset, Limits, LogPolicy, ProjectPolicy, Settings};
