//! `[[retention]]` and `keep_images`: what is let go of.

use std::{ops::RangeInclusive, time::Duration};

use torno_auth::Patterns;
use torno_registry::{KeepImages, Rule};

use super::{
    limits::{count_within, time_within},
    reader::{Item, TableReader},
    value::duration,
};

/// A rule that keeps nothing of a kind leaves its key out.
const NEWEST: RangeInclusive<u32> = 1..=1_000_000;

/// Ten years: longer is for ever, and needs no rule.
const TIME: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(10 * 365 * 24);

const PATTERNS: &str = "a list of patterns, such as [\"ci/**\"]";

/// The rules, in their order.
pub(super) fn read(item: Item<'_>) -> Vec<Rule> {
    let tables = item.into_list("tables that begin with [[retention]]");
    tables.into_iter().filter_map(Item::into_table).filter_map(rule).collect()
}

fn rule(mut table: TableReader<'_>) -> Option<Rule> {
    let repositories = table
        .require("repositories", "say which repositories, such as [\"ci/**\"]")
        .and_then(|item| patterns(item, PATTERNS));
    let newest = table.take("keep_newest").and_then(|item| count_within(&item, &NEWEST));
    let tags =
        table.take("keep_tags").and_then(|item| patterns(item, "a list of patterns, such as [\"v*\"]"));
    let pulled_within = table.take("keep_pulled_within").and_then(|item| time_within(&item, &TIME));
    let untagged_after = table.take("delete_untagged_after").and_then(|item| time_within(&item, &TIME));
    let nothing = newest.is_none() && tags.is_none() && pulled_within.is_none() && untagged_after.is_none();
    if nothing {
        table.miss(
            "keep_newest",
            "this rule lets go of nothing; give it a `keep_…` or `delete_untagged_after`",
        );
    }
    table.finish();
    let newest = newest.and_then(|newest| usize::try_from(newest).ok());
    Some(Rule { repositories: repositories?, newest, tags, pulled_within, untagged_after })
}

pub(super) fn patterns(item: Item<'_>, expected: &'static str) -> Option<Patterns> {
    let mut written = Vec::new();
    for item in item.into_list(expected) {
        let pattern = item.parse("a pattern in quotes", |text| {
            Patterns::parse(vec![text.to_owned()]).map(|_| text.to_owned())
        });
        written.push(pattern?);
    }
    // Each was good by itself.
    Patterns::parse(written).ok()
}

/// `keep_images` of a project.
pub(super) fn keep_images(item: &Item<'_>) -> Option<KeepImages> {
    item.parse("\"none\", \"last\" or a length of time such as \"30days\"", |text| match text {
        "none" => Ok(KeepImages::None),
        "last" => Ok(KeepImages::Last),
        time => {
            let not = |error| format!("neither \"none\" nor \"last\", and {error}");
            duration(time).map(KeepImages::For).map_err(not)
        }
    })
}
