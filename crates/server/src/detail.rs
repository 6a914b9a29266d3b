//! The `detail` of an error: what a program can use to do better (distribution-spec: Error Codes).

use serde_json::{Value, json};
use torno_oci::Digest;
use torno_registry::{BlobError, RegistryError};

use crate::{
    failure::{Came, Failure},
    route::RouteError,
};

/// The detail of a failure, where there is something to say that the client cannot know yet.
pub(crate) fn of(failure: &Failure) -> Option<Value> {
    match failure {
        Failure::Route(RouteError::Method(allowed)) => {
            Some(json!({"allowed": allowed.split(", ").collect::<Vec<_>>()}))
        }
        Failure::ChunkLength { announced, came, received } => Some(match came {
            Came::Exactly(length) => json!({"announced": announced, "came": length, "received": received}),
            Came::More => json!({"announced": announced, "received": received}),
        }),
        Failure::TooLarge { limit } | Failure::TooManyTags { limit } => Some(json!({"limit": limit})),
        Failure::Range { size } => Some(json!({"size": size})),
        Failure::Registry(error) => of_registry(error),
        _ => None,
    }
}

fn of_registry(error: &RegistryError) -> Option<Value> {
    match error {
        RegistryError::BlobUnknown(digest) => Some(json!({"digest": digest.as_str()})),
        RegistryError::ManifestUnknown(reference) => Some(json!({"reference": reference.to_string()})),
        RegistryError::NoResult(reason) => Some(json!({"run": reason.run.number()})),
        RegistryError::Missing(digests) => Some(listed(digests)),
        RegistryError::Changed(found) => Some(json!({"found": found.as_ref().map(Digest::as_str)})),
        RegistryError::WrongSize(wrong) => Some(json!({
            "digest": wrong.digest.as_str(), "announced": wrong.announced, "found": wrong.found,
        })),
        RegistryError::DigestMismatch { expected, found }
        | RegistryError::Blob(BlobError::DigestMismatch { expected, found }) => {
            Some(json!({"expected": expected.as_str(), "found": found.as_str()}))
        }
        RegistryError::Blob(BlobError::OutOfOrder { has, got }) => {
            Some(json!({"received": has, "offered": got}))
        }
        RegistryError::Blob(BlobError::TooLarge(limit)) => Some(json!({"limit": limit})),
        _ => None,
    }
}

/// What a manifest names in vain.
fn listed(digests: &[Digest]) -> Value {
    /// An index of megabytes would make an answer of megabytes; whoever has pushed these learns of the next ones.
    const SHOWN: usize = 100;
    let shown: Vec<&str> = digests.iter().take(SHOWN).map(Digest::as_str).collect();
    json!({"missing": shown, "count": digests.len()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_detail_grows_with_the_manifest() {
        let digests: Vec<Digest> = (0..101_u8).map(|seed| Digest::sha256(&[seed])).collect();
        for (given, shown) in [(100, 100), (101, 100)] {
            let detail = listed(&digests[..given]);
            assert_eq!(detail["missing"].as_array().map(Vec::len), Some(shown));
            assert_eq!(detail["count"], given);
        }
    }
}
