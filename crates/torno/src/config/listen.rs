//! `[listen]`: what is granted to whoever comes, and which proxies are believed.

use std::{ops::RangeInclusive, time::Duration};

use torno_server::{Limits, Proxies, ProxyRange};

use super::{
    limits::{count_within, time_within},
    reader::{Environment, TableReader},
};

/// One is enough for a laptop; each costs two descriptors while it pulls or pushes, and the kernel gives a process about
/// a million.
const CONNECTIONS: RangeInclusive<u32> = 1..=262_144;

/// A second still lets somebody near by in; who needs a minute is not there.
const HANDSHAKE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(1);

/// A second still lets somebody near by ask; longer than a proxy keeps its own connections, nobody rests.
const HEADER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(15);

/// Below a second a lost packet would end an upload; longer than an hour nobody waits for a byte.
const BODY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// How many connections there may be, and how long a peer may take.
pub(super) fn limits(table: &mut TableReader<'_>, environment: &Environment) -> Limits {
    let defaults = Limits::default();
    let mut count = |key, default| {
        let item = table.take_or_variable(key, environment);
        let count = item.and_then(|item| count_within(&item, &CONNECTIONS));
        count.and_then(|count| usize::try_from(count).ok()).unwrap_or(default)
    };
    let connections = count("connections", defaults.connections);
    let connections_per_address = count("connections_per_address", defaults.connections_per_address);
    let mut time = |key, bounds, default| {
        let item = table.take_or_variable(key, environment);
        item.and_then(|item| time_within(&item, bounds)).unwrap_or(default)
    };
    Limits {
        connections,
        connections_per_address,
        handshake: time("handshake_timeout", &HANDSHAKE, defaults.handshake),
        header: time("header_timeout", &HEADER, defaults.header),
        body: time("body_timeout", &BODY, defaults.body),
    }
}

/// The proxies that are believed when they say whom they speak for.
pub(super) fn proxies(table: &mut TableReader<'_>) -> Proxies {
    const EXPECTED: &str = "an address or a range in quotes, such as \"127.0.0.1\" or \"10.0.0.0/8\"";
    let Some(item) = table.take("proxies") else { return Proxies::default() };
    let ranges = item.into_list("a list of addresses in quotes, such as [\"127.0.0.1\"]");
    ranges.iter().filter_map(|item| item.parse(EXPECTED, str::parse::<ProxyRange>)).collect()
}
