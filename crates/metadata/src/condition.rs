//! Changes that are only meant if nobody else has made one meanwhile (RFC 9110, section 13.1).

use std::ops::ControlFlow;

use rusqlite::{Connection, params};
use torno_oci::{Digest, Reference};

use crate::{
    MetadataError,
    row::{first, parsed},
};

/// What must hold of what is replaced or deleted. Looked at in the transaction that does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What that is: what this tag points at, or this very manifest.
    pub reference: Reference,
    /// It must be there and one of these (RFC 9110, section 13.1.1: `If-Match`).
    pub matches: Option<Versions>,
    /// It must be none of these, or not be there (RFC 9110, section 13.1.2: `If-None-Match`).
    pub differs: Option<Versions>,
}

/// Some manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Versions {
    /// Whichever there is.
    Any,
    /// Those with these digests.
    Of(Vec<Digest>),
}

impl Versions {
    fn include(&self, digest: &Digest) -> bool {
        match self {
            Self::Any => true,
            Self::Of(digests) => digests.contains(digest),
        }
    }
}

impl Condition {
    /// Whether it holds of the manifest that is there.
    fn holds(&self, current: Option<&Digest>) -> bool {
        let matches = |versions: &Versions| current.is_some_and(|digest| versions.include(digest));
        self.matches.as_ref().is_none_or(matches) && !self.differs.as_ref().is_some_and(matches)
    }
}

/// Breaks with what is there instead, a manifest or nothing, if the condition does not hold.
pub(crate) fn check(
    connection: &Connection,
    repository: i64,
    condition: Option<&Condition>,
) -> Result<ControlFlow<Option<Digest>>, MetadataError> {
    let Some(condition) = condition else { return Ok(ControlFlow::Continue(())) };
    let (sql, reference) = match &condition.reference {
        Reference::Tag(tag) => ("SELECT manifest FROM tags WHERE repository = ?1 AND tag = ?2", tag.as_str()),
        Reference::Digest(digest) => {
            ("SELECT manifest FROM manifest_links WHERE repository = ?1 AND manifest = ?2", digest.as_str())
        }
    };
    let current = first(connection, sql, params![repository, reference], |row| parsed(row, "manifest"))?;
    let holds = condition.holds(current.as_ref());
    Ok(if holds { ControlFlow::Continue(()) } else { ControlFlow::Break(current) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_as_http_says() {
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let holds = |matches: Option<Versions>, differs: Option<Versions>, current: Option<&Digest>| {
            let reference = "v".parse().expect("tag");
            Condition { reference, matches, differs }.holds(current)
        };
        let of = |digest: &Digest| Some(Versions::Of(vec![digest.clone()]));
        for (matches, differs, when_one, when_none) in [
            (None, None, true, true),
            (Some(Versions::Any), None, true, false),
            (of(&one), None, true, false),
            (of(&two), None, false, false),
            (Some(Versions::Of(Vec::new())), None, false, false),
            (None, Some(Versions::Any), false, true),
            (None, of(&one), false, true),
            (None, of(&two), true, true),
            (Some(Versions::Any), of(&one), false, false),
            (of(&one), of(&two), true, false),
        ] {
            let found = holds(matches.clone(), differs.clone(), Some(&one));
            assert_eq!(found, when_one, "{matches:?} {differs:?}");
            assert_eq!(holds(matches.clone(), differs.clone(), None), when_none, "{matches:?} {differs:?}");
        }
    }
}
