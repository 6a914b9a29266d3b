//! `[audit]`: where what is done is recorded, and for how long.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use torno_audit::Rotation;

use super::{
    A_PATH,
    limits::{size_within, time_within},
    reader::{Environment, TableReader},
    value,
};

/// Fewer bytes are a file for every few lines; more no editor opens.
const ROTATE: RangeInclusive<ByteSize> = ByteSize::kib(4)..=ByteSize::gib(16);

/// Less than a day is no record; what is to be kept for longer than a century is kept for ever.
const KEEP: RangeInclusive<Duration> = Duration::from_hours(24)..=Duration::from_hours(100 * 366 * 24);

/// The record of what is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Where it is, absolute. It may not exist yet.
    pub(crate) folder: PathBuf,
    /// When it goes on in another file.
    pub(crate) rotation: Rotation,
}

pub(super) fn read(
    mut table: TableReader<'_>,
    base: &Path,
    data: &Path,
    environment: &Environment,
    variables: &mut Vec<String>,
) -> Audit {
    let folder = table
        .take_or_variable("folder", environment)
        .and_then(|item| item.parse(A_PATH, |text| value::path(text, base)))
        .unwrap_or_else(|| data.join("audit"));
    let default = Rotation::default();
    let size = table
        .take_or_variable("rotate", environment)
        .and_then(|item| size_within(&item, &ROTATE))
        .map_or(default.size, |size| size.as_u64());
    let keep = table.take_or_variable("keep", environment).and_then(|item| time_within(&item, &KEEP));
    variables.extend(table.finish());
    Audit { folder, rotation: Rotation { size, keep } }
}
