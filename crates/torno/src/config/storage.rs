//! `[storage]` and `[scrub]`: how what is stored is checked, when it is pulled and in between.

use std::{ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;
use torno_registry::Check;

use super::{
    limits::{size_within, time_within},
    reader::{Environment, TableReader},
};

/// Disks whose faults are to be found are looked at within a year.
const INTERVAL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(365 * 24);

/// How often everything is looked at when the file does not say.
const DEFAULT_INTERVAL: Duration = Duration::from_hours(30 * 24);

/// Less is a wrong unit; more than 10 GiB a second no check of digests can do.
const RATE: RangeInclusive<ByteSize> = ByteSize::kib(1)..=ByteSize::gib(10);

/// What a disk that turns does not notice.
const DEFAULT_RATE: ByteSize = ByteSize::mib(10);

/// How the server looks at everything that is stored, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scrub {
    /// From the beginning of one pass to that of the next; zero: never.
    pub(crate) interval: Duration,
    /// What is read in a second at most.
    pub(crate) rate: ByteSize,
}

pub(super) fn read(
    mut table: TableReader<'_>,
    environment: &Environment,
    variables: &mut Vec<String>,
) -> Check {
    let check = table
        .take_or_variable("check", environment)
        .and_then(|item| {
            item.parse("\"length\" or \"digest\"", |text| match text {
                "length" => Ok(Check::Length),
                "digest" => Ok(Check::Digest),
                other => Err(format!("`{}` is neither \"length\" nor \"digest\"", other.escape_debug())),
            })
        })
        .unwrap_or_default();
    variables.extend(table.finish());
    check
}

pub(super) fn read_scrub(
    mut table: TableReader<'_>,
    environment: &Environment,
    variables: &mut Vec<String>,
) -> Scrub {
    let interval = table
        .take_or_variable("interval", environment)
        .and_then(|item| time_within(&item, &INTERVAL))
        .unwrap_or(DEFAULT_INTERVAL);
    let rate = table
        .take_or_variable("rate", environment)
        .and_then(|item| size_within(&item, &RATE))
        .unwrap_or(DEFAULT_RATE);
    variables.extend(table.finish());
    Scrub { interval, rate }
}
