//! What is let go of, by which rule, and what never is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::json;
use torno_audit::Actor;
use torno_auth::Patterns;
use torno_metadata::Metadata;
use torno_oci::{Digest, Reference};
use torno_registry::{CollectionProgress, Expired, KeepImages, Outcome, Retention, Rule, RunLog};

use crate::{NO_GRACE, Site, ada, given};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn patterns(written: &[&str]) -> Patterns {
    Patterns::parse(written.iter().map(ToString::to_string).collect()).expect("patterns")
}

fn rule(repositories: &[&str]) -> Rule {
    let repositories = patterns(repositories);
    Rule { repositories, newest: None, tags: None, pulled_within: None, untagged_after: None }
}

fn rules(rules: Vec<Rule>) -> Retention {
    Retention { rules, ..Retention::default() }
}

/// What went, as people name it.
fn names(expired: &[Expired]) -> Vec<String> {
    expired.iter().map(|one| format!("{} {}", one.repository(), one.name())).collect()
}

/// Until a clock that counts milliseconds has moved.
async fn a_moment_passes() {
    let since = Instant::now();
    while since.elapsed() <= Duration::from_millis(2) {
        tokio::task::yield_now().await;
    }
}

impl Site {
    async fn collect(&self, retention: &Retention) -> Vec<Expired> {
        let (foreseen, swept) = self.registry.garbage(retention, NO_GRACE).await.expect("dry");
        let mut expired = Vec::new();
        let collected = self.registry.collect(retention, NO_GRACE, |progress| {
            if let CollectionProgress::Expired(one) = progress {
                expired.push(one.clone());
            }
        });
        let collected = collected.await.expect("gc");
        assert_eq!(names(&foreseen), names(&expired), "a dry run tells the truth");
        assert_eq!(swept.blobs.len() as u64, collected.blobs);
        expired
    }

    async fn has(&self, repository: &str, tag: &str) -> bool {
        self.pull(repository, tag).await.is_ok()
    }

    /// Carries out the run that waits.
    async fn end_run(&self) {
        let id = self.claim().await.run.id;
        self.registry.starting(id, given(Duration::from_mins(1))).await.expect("starting");
        self.registry.finish(id, Outcome::Succeeded, RunLog::default(), None).await.expect("finish");
    }
}

#[tokio::test]
async fn the_newest_and_those_that_fit_are_kept() {
    let site = Site::new();
    for tag in ["v1", "a", "b", "c"] {
        site.push("ci/app", tag, tag).await;
        site.push("other/app", tag, tag).await;
        a_moment_passes().await;
    }
    let keep = Rule { newest: Some(2), tags: Some(patterns(&["v*"])), ..rule(&["ci/**"]) };
    // The first rule that fits judges alone.
    let second = Rule { newest: Some(1), ..rule(&["ci/*"]) };
    let expired = site.collect(&rules(vec![keep, second])).await;
    assert_eq!(names(&expired), ["ci/app a"]);
    assert_eq!(expired[0].reason.to_string(), "retention 1 (ci/**): not among the newest 2, not like v*");
    for (tag, kept) in [("v1", true), ("a", false), ("b", true), ("c", true)] {
        assert_eq!(site.has("ci/app", tag).await, kept, "{tag}");
        assert!(site.has("other/app", tag).await, "{tag}");
    }
    assert!(site.collect(&Retention::default()).await.is_empty());
}

#[tokio::test]
async fn what_was_pulled_is_kept() {
    let site = Site::new();
    site.push("ci/app", "pulled", "1").await;
    site.push("ci/app", "left", "2").await;
    let used = |time| rules(vec![Rule { pulled_within: Some(time), ..rule(&["ci/**"]) }]);
    assert!(site.collect(&used(Duration::from_hours(1))).await.is_empty(), "both were pushed just now");
    site.pull("ci/app", "pulled").await.expect("pull");
    site.registry.flush_pulls().await.expect("flush");
    let metadata = Metadata::open(&site.folder.path().join("torno.db")).expect("open");
    let tags = metadata.tag_uses(&crate::name("ci/app")).await.expect("uses");
    let pulled = tags.iter().map(|used| (used.tag.as_str(), used.pulled.is_some()));
    assert_eq!(pulled.collect::<BTreeMap<_, _>>(), [("pulled", true), ("left", false)].into());
    // As if the pull had been later than all that this test does.
    let later = Timestamp::now() + Duration::from_hours(1);
    let pull = (crate::name("ci/app"), "pulled".parse().expect("tag"), later);
    metadata.note_pulls(vec![pull]).await.expect("noted");
    a_moment_passes().await;
    assert_eq!(names(&site.collect(&used(Duration::from_millis(1))).await), ["ci/app left"]);
}

#[tokio::test]
async fn manifests_without_a_tag_go_unless_something_needs_them() {
    let site = Site::new();
    let permit = site.permit("ci/app").await;
    let put = async |reference: Reference, bytes: Vec<u8>| {
        let by = Actor::torno();
        let put = site.registry.put_manifest(&permit, &by, &reference, Vec::new(), None, bytes, None);
        put.await.expect("stored").digest
    };
    let put_untagged = async |bytes: Vec<u8>| put(Reference::Digest(Digest::sha256(&bytes)), bytes).await;
    let (moved, _) = site.push("ci/app", "latest", "old").await;
    site.push("ci/app", "latest", "new").await;
    let child = site.image(&permit, "child").await;
    let length = child.len();
    let child = put_untagged(child).await;
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{"mediaType": IMAGE, "digest": child.as_str(), "size": length}],
    });
    put(crate::tag("index"), index.to_string().into_bytes()).await;
    let signature = |of: &Digest| {
        let subject = json!({"mediaType": IMAGE, "digest": of.as_str(), "size": 2});
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": [],
            "artifactType": "application/x-signature", "subject": subject,
        });
        index.to_string().into_bytes()
    };
    let signed = put_untagged(signature(&child)).await;
    let of_nothing = put_untagged(signature(&Digest::sha256(b"never pushed"))).await;
    let untagged = |time| rules(vec![Rule { untagged_after: Some(time), ..rule(&["ci/*"]) }]);
    assert!(site.collect(&untagged(Duration::from_hours(1))).await.is_empty(), "not for long enough");
    a_moment_passes().await;
    let mut gone = names(&site.collect(&untagged(Duration::ZERO)).await);
    gone.sort();
    let mut expected = [moved, of_nothing].map(|digest| format!("ci/app {digest}"));
    expected.sort();
    assert_eq!(gone, expected, "a child and a signature stay");
    let permit = site.registry.pull_permit(&ada(), permit.repository()).await.expect("permit");
    let signed = site.registry.manifest(&permit, &Reference::Digest(signed), Duration::ZERO).await;
    assert!(signed.is_ok(), "{signed:?}");
}

#[tokio::test]
async fn images_go_after_their_run() {
    let site = Site::new();
    site.push("run/p/x", "1", "one").await;
    let retention =
        |keep| Retention { images: [("p".parse().expect("project"), keep)].into(), ..Retention::default() };
    assert!(site.collect(&retention(KeepImages::None)).await.is_empty(), "it has not run yet");
    site.end_run().await;
    for keep in [KeepImages::Last, KeepImages::For(Duration::from_hours(1))] {
        assert!(site.collect(&retention(keep)).await.is_empty(), "{keep}");
    }
    a_moment_passes().await;
    site.push("run/p/x", "2", "two").await;
    site.end_run().await;
    assert_eq!(names(&site.collect(&retention(KeepImages::Last)).await), ["run/p/x 1"]);
    let expired = site.collect(&retention(KeepImages::None)).await;
    assert_eq!(names(&expired), ["run/p/x 2"]);
    assert_eq!(expired[0].reason.to_string(), "projects.p.keep_images = \"none\"");
    assert_eq!(site.blob_files(), 0);
}
