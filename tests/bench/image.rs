//! Images, indexes and artifacts as small as they can be.

use serde_json::{Value, json};

use crate::load::{Noise, digest};

/// An image manifest's media type.
pub(crate) const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index's media type.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A blob that no other seed gives.
pub(crate) fn blob(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    Noise(seed).fill(&mut bytes);
    bytes
}

/// A manifest of these blobs, the first of which is the config.
pub(crate) fn manifest(blobs: &[Vec<u8>]) -> Vec<u8> {
    let descriptor = |kind: &str, bytes: &Vec<u8>| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    };
    let config = blobs.first().map(|bytes| descriptor("config.v1+json", bytes));
    let layers: Vec<Value> =
        blobs.iter().skip(1).map(|bytes| descriptor("layer.v1.tar+gzip", bytes)).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config, "layers": layers});
    manifest.to_string().into_bytes()
}

/// An index of nothing, which needs no other object: the least that makes a repository, or refers to `subject`.
pub(crate) fn index(number: u64, subject: Option<&Value>) -> Vec<u8> {
    let mut index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [],
        "annotations": {"org.example.number": number.to_string()},
    });
    if let (Some(subject), Some(fields)) = (subject, index.as_object_mut()) {
        fields.insert("subject".into(), subject.clone());
        fields.insert("artifactType".into(), json!("application/vnd.example.bench"));
    }
    index.to_string().into_bytes()
}
