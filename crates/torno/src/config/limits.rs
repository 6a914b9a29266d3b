//! `[projects.<name>.limits]`: what a run may use, each within bounds that catch a slip of the pen.

use std::{ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;
use torno_auth::Quota;
use torno_executor::{Cpus, Limits, Runtime};
use torno_registry::Resources;

use super::{
    reader::{Item, TableReader},
    value::{duration, show_size, size},
};

/// Docker refuses to create a container with less; more than 16 TiB is in no machine, so it is a wrong unit.
const MEMORY: RangeInclusive<ByteSize> = ByteSize::mib(6)..=ByteSize::tib(16);

/// Without one there is no run; more than the kernel's default `pid_max` cannot be started on an untuned machine,
/// so it would limit nothing.
const PIDS: RangeInclusive<u32> = 1..=32_768;

/// Starting a container takes a good part of a second; what runs for more than a month has hung.
const TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

/// One block of a file system; a result becomes one layer, which stands on disk beside `/output` while it is packed.
const OUTPUT: RangeInclusive<ByteSize> = ByteSize::kib(4)..=ByteSize::tib(1);

/// Each is looked at and packed one by one: a million takes minutes.
const ENTRIES: RangeInclusive<u32> = 1..=1_000_000;

/// Each step down is a folder that is open while an output is looked at.
const DEPTH: RangeInclusive<u32> = 1..=100;

/// One page is the least a tmpfs holds. What it holds counts as memory, so [`MEMORY`] bounds it too.
const TMP: RangeInclusive<ByteSize> = ByteSize::kib(4)..=ByteSize::tib(16);

/// Enough for one error message; it is held in memory while the run lasts, so not more than 64 MiB.
const LOG: RangeInclusive<ByteSize> = ByteSize::kib(1)..=ByteSize::mib(64);

/// No host has more, so more is a slip of the pen.
const GPUS: RangeInclusive<u32> = 0..=64;

/// Less would hold no image; more is on no disk, so it is a wrong unit.
const QUOTA: RangeInclusive<ByteSize> = ByteSize::mib(1)..=ByteSize::pib(1);

/// Without one nothing can be pushed; more than a million would limit nothing.
const REPOSITORIES: RangeInclusive<u32> = 1..=1_000_000;

/// Without one nothing can be run; more than a million would limit nothing.
const RUNS: RangeInclusive<u32> = 1..=1_000_000;

/// What may be kept and queued, from the items of these keys; without an item, as much as they like.
pub(super) fn quota<'a>(mut item: impl FnMut(QuotaKey) -> Option<Item<'a>>) -> Quota {
    let mut count = |key, bounds| item(key).and_then(|item| count_within(&item, bounds)).map(u64::from);
    let repositories = count(QuotaKey::Repositories, &REPOSITORIES);
    let queued_runs = count(QuotaKey::QueuedRuns, &RUNS);
    let daily_runs = count(QuotaKey::DailyRuns, &RUNS);
    let bytes = item(QuotaKey::Bytes).and_then(|item| size_within(&item, &QUOTA)).map(|size| size.as_u64());
    Quota { bytes, repositories, queued_runs, daily_runs }
}

/// What a quota speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaKey {
    Bytes,
    Repositories,
    QueuedRuns,
    DailyRuns,
}

/// The quota of a project.
pub(super) fn quota_table(item: Item<'_>) -> Quota {
    let Some(mut table) = item.into_table() else { return Quota::default() };
    let quota = quota(|key| {
        table.take(match key {
            QuotaKey::Bytes => "bytes",
            QuotaKey::Repositories => "repositories",
            QuotaKey::QueuedRuns => "queued_runs",
            QuotaKey::DailyRuns => "daily_runs",
        })
    });
    table.finish();
    quota
}

/// What all runs may have together; without an item, as many processors and as much memory as they like, and no GPU.
pub(super) fn total(
    processors: Option<&Item<'_>>,
    memory: Option<&Item<'_>>,
    gpus: Option<&Item<'_>>,
) -> Resources {
    let nano_cpus = processors.and_then(cpus).map(Cpus::nanos);
    let memory = memory.and_then(|item| size_within(item, &MEMORY)).map(|size| size.as_u64());
    let gpus = gpus.and_then(|item| count_within(item, &GPUS));
    Resources {
        nano_cpus: nano_cpus.unwrap_or(Resources::UNBOUNDED.nano_cpus),
        memory: memory.unwrap_or(Resources::UNBOUNDED.memory),
        gpus: gpus.unwrap_or(Resources::UNBOUNDED.gpus),
    }
}

/// The limits of a project whose runs get no more than there is in `total`; those not named have the defaults.
pub(super) fn read(item: Option<Item<'_>>, total: Resources, runtime: Option<Runtime>) -> Limits {
    let defaults = Limits::default();
    // A site with little need not say for each project that its runs are small too.
    let memory = defaults.memory.min(ByteSize::b(total.memory));
    let least = Cpus::ONE.nanos().min(total.nano_cpus);
    #[expect(clippy::cast_precision_loss, reason = "it is at most one processor")]
    let cpus_by_default = Cpus::new(least as f64 / 1e9).unwrap_or(defaults.cpus);
    let defaults = Limits { cpus: cpus_by_default, memory, tmp: defaults.tmp.min(memory), ..defaults };
    let Some(mut table) = item.and_then(Item::into_table) else {
        return defaults;
    };
    let cpus = table.take("cpus").and_then(|item| {
        let cpus = cpus(&item)?;
        if cpus.nanos() > total.nano_cpus {
            item.refuse(
                "a run would have more processors than all runs together may have (executor.cpus), so none would ever \
                 start",
            );
            return None;
        }
        Some(cpus)
    });
    let cpus = cpus.unwrap_or(defaults.cpus);
    let memory = table.take("memory").and_then(|item| {
        let memory = size_within(&item, &MEMORY)?;
        if memory.as_u64() > total.memory {
            item.refuse(format_args!(
                "a run would have more memory than all runs together may have (executor.memory is {}), so none would \
                 ever start",
                show_size(ByteSize::b(total.memory))
            ));
            return None;
        }
        Some(memory)
    });
    let memory = memory.unwrap_or(defaults.memory);
    let pids = table.take("pids").and_then(|item| count_within(&item, &PIDS)).unwrap_or(defaults.pids);
    let time = table.take("time").and_then(|item| time_within(&item, &TIME)).unwrap_or(defaults.time);
    let output = table.take("output").and_then(|item| size_within(&item, &OUTPUT)).unwrap_or(defaults.output);
    let entries =
        table.take("entries").and_then(|item| count_within(&item, &ENTRIES)).unwrap_or(defaults.entries);
    let depth = table.take("depth").and_then(|item| count_within(&item, &DEPTH)).unwrap_or(defaults.depth);
    // A project with little memory need not say that its /tmp is small too.
    let tmp = tmp(&mut table, memory).unwrap_or(defaults.tmp.min(memory));
    let log = table.take("log").and_then(|item| size_within(&item, &LOG)).unwrap_or(defaults.log);
    let gpus = table.take("gpus").and_then(|item| gpus(&item, total.gpus, runtime)).unwrap_or(defaults.gpus);
    table.finish();
    Limits { cpus, memory, pids, time, output, entries, depth, tmp, log, gpus }
}

/// So many GPUs, if the host has them for runs and its runtime gives them.
fn gpus(item: &Item<'_>, total: u32, runtime: Option<Runtime>) -> Option<u32> {
    let gpus = count_within(item, &GPUS)?;
    if gpus > total {
        item.refuse(format_args!(
            "a run would have {gpus} GPUs, and this host has {total} for runs (executor.gpus), so none would ever start"
        ));
        return None;
    }
    if gpus > 0 && runtime == Some(Runtime::Runsc) {
        item.refuse(
            "under gVisor a run would find no GPU: Torno cannot tell whether that engine's `runsc` passes any on; take this \
             away, or use the runtime \"runc\"",
        );
        return None;
    }
    Some(gpus)
}

fn cpus(item: &Item<'_>) -> Option<Cpus> {
    let cpus = Cpus::new(item.number()?);
    if cpus.is_none() {
        item.refuse("a run has 0.01 to 1024 processors");
    }
    cpus
}

fn tmp(table: &mut TableReader<'_>, memory: ByteSize) -> Option<ByteSize> {
    let item = table.take("tmp")?;
    let tmp = size_within(&item, &TMP)?;
    if tmp > memory {
        item.refuse(format_args!(
            "what is in /tmp counts as memory, so it cannot be more than `memory`, which is {}",
            show_size(memory)
        ));
        return None;
    }
    Some(tmp)
}

/// A size within bounds.
pub(super) fn size_within(item: &Item<'_>, bounds: &RangeInclusive<ByteSize>) -> Option<ByteSize> {
    item.parse("a size in quotes with its unit, such as \"4GiB\"", |text| {
        let size = size(text)?;
        let (least, most) = (show_size(*bounds.start()), show_size(*bounds.end()));
        bounds.contains(&size).then_some(size).ok_or(format!("`{text}` is not within {least} to {most}"))
    })
}

/// A duration within bounds.
pub(super) fn time_within(item: &Item<'_>, bounds: &RangeInclusive<Duration>) -> Option<Duration> {
    item.parse("a length of time in quotes with its unit, such as \"2h\"", |text| {
        let time = duration(text)?;
        let (least, most) =
            (humantime::format_duration(*bounds.start()), humantime::format_duration(*bounds.end()));
        bounds.contains(&time).then_some(time).ok_or(format!("`{text}` is not within {least} to {most}"))
    })
}

/// A count within bounds.
pub(super) fn count_within(item: &Item<'_>, bounds: &RangeInclusive<u32>) -> Option<u32> {
    let number = item.integer()?;
    let count = u32::try_from(number).ok().filter(|count| bounds.contains(count));
    if count.is_none() {
        item.refuse(format_args!("{number} is not within {} to {}", bounds.start(), bounds.end()));
    }
    count
}
