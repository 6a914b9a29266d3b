//! The hostile suite: images that try what a run must not be able to do, and hosts that do not keep what is promised.
//!
//! `docs/SECURITY.md` has every attack with its promise and its test, written by `table.rs`.

mod doctor;
mod table;
