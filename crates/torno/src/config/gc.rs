//! `[gc]`: when what nothing needs is removed.

use std::{ops::RangeInclusive, time::Duration};

use torno_registry::DEFAULT_GRACE;

use super::{
    limits::time_within,
    reader::{Environment, TableReader},
};

/// Looking for garbage costs nothing when there is none; more seldom than monthly is never.
const INTERVAL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(30 * 24);

/// How often the server collects when the file does not say.
const DEFAULT_INTERVAL: Duration = Duration::from_hours(1);

/// With none, a push that has not brought its manifest yet fails; one that takes longer than a month has been given up.
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(30 * 24);

/// When garbage is collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gc {
    /// How often the server does it; zero: never by itself.
    pub(crate) interval: Duration,
    /// How long a blob waits for its manifest before it is garbage.
    pub(crate) grace: Duration,
}

pub(super) fn read(mut table: TableReader<'_>, environment: &Environment, variables: &mut Vec<String>) -> Gc {
    let interval = table
        .take_or_variable("interval", environment)
        .and_then(|item| time_within(&item, &INTERVAL))
        .unwrap_or(DEFAULT_INTERVAL);
    let grace = table
        .take_or_variable("grace", environment)
        .and_then(|item| time_within(&item, &GRACE))
        .unwrap_or(DEFAULT_GRACE);
    variables.extend(table.finish());
    Gc { interval, grace }
}
