//! Manifests that name what is not there, where the settings allow it.

use serde_json::json;
use torno_audit::Actor;
use torno_oci::{Digest, Platform, Reference};
use torno_registry::{Presence, RegistryError, Retention, Settings};

use crate::{NO_GRACE, Site, ada, name, tag};

#[tokio::test]
async fn what_runs_is_whole_though_sparse_manifests_are_accepted() {
    let sparse = Settings { children: Presence::Optional, blobs: Presence::Optional, ..Settings::default() };
    let site = Site::with(sparse);
    let permit = site.permit("run/p/n").await;
    let here = site.image(&permit, "here").await;
    let digest = Digest::sha256(&here);
    let platform = Platform::host();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.as_str(),
                "size": here.len(), "platform": {"os": platform.os, "architecture": platform.architecture},
            },
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 7,
                "digest": Digest::sha256(b"elsewhere").as_str(),
                "platform": {"os": "plan9", "architecture": "vax"},
            },
        ],
    });
    let index = index.to_string().into_bytes();
    let put = async |to: &str, bytes: &[u8]| {
        site.registry
            .put_manifest(&permit, &Actor::torno(), &tag(to), Vec::new(), None, bytes.to_vec(), None)
            .await
    };
    let by_digest = digest.to_string();
    let Err(RegistryError::Missing(missing)) = put("v", &index).await else { panic!("nothing can run") };
    assert_eq!(missing, std::slice::from_ref(&digest));
    let indexed = put(&Digest::sha256(&index).to_string(), &index).await.expect("a digest runs nothing");
    assert_eq!(indexed.absent.len(), 2);

    // The image is there, and then a layer of it is not.
    put(&by_digest, &here).await.expect("image");
    let delete = site.registry.delete_permit(&ada(), &name("run/p/n")).await.expect("permit");
    let layer = Digest::sha256(b"here");
    assert_eq!(site.registry.delete_blob(&delete, &Actor::torno(), &layer).await.expect("delete"), 1);
    for bytes in [&index, &here] {
        let Err(RegistryError::Missing(missing)) = put("v", bytes).await else { panic!("it cannot run") };
        assert_eq!(missing, std::slice::from_ref(&layer));
    }
    assert!(
        site.registry
            .claim(
                std::collections::BTreeMap::new(),
                std::collections::BTreeSet::new(),
                torno_registry::Resources::UNBOUNDED
            )
            .await
            .expect("claim")
            .is_none()
    );

    site.push_blob(&permit, b"here").await;
    let pushed = put("v", &index).await.expect("the rest is not for this machine");
    assert_eq!((pushed.runs.len(), pushed.absent.len()), (1, 1));
    assert_eq!(site.claim().await.run.image, digest);
}

#[tokio::test]
async fn what_comes_later_belongs_to_what_named_it() {
    let sparse = Settings { children: Presence::Optional, ..Settings::default() };
    let site = Site::with(sparse);
    let permit = site.permit("tools/a").await;
    let child = site.image(&permit, "child").await;
    let digest = Digest::sha256(&child);
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.as_str(),
            "size": child.len(),
        }],
    });
    let index = index.to_string().into_bytes();
    let put = async |to: &Reference, bytes: &[u8]| {
        let pushed = site
            .registry
            .put_manifest(&permit, &Actor::torno(), to, Vec::new(), None, bytes.to_vec(), None)
            .await;
        pushed.expect("push").absent
    };
    assert_eq!(put(&tag("1"), &index).await, std::slice::from_ref(&digest));
    assert_eq!(put(&Reference::Digest(digest), &child).await, []);
    assert_eq!(
        site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").manifests,
        0
    );
    site.delete_tag("tools/a", "1").await;
    let collected = site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc");
    assert_eq!((collected.blobs, collected.manifests), (2, 2));
}
