//! Manifests: image manifests and indexes, OCI and Docker schema 2 (image-spec: Image Manifest, Image Index;
//! Docker image manifest v2, schema 2). The exact bytes are kept elsewhere; this is what they mean.

use std::collections::{BTreeMap, HashMap};

use oci_spec::image as spec;
use serde_json::json;

use crate::{
    Digest, DigestError, MediaType, Platform, media_types,
    spelling::{self, LEAF, Shape},
};

/// The largest manifest accepted, in bytes (distribution-spec: Pushing manifests asks for at least 4 MiB).
pub const MAX_MANIFEST_SIZE: usize = 4 * 1024 * 1024;

/// What is read below, and what an engine obeys though it is not.
const KEYS: Shape = Shape(&[
    ("schemaVersion", LEAF),
    ("mediaType", LEAF),
    ("artifactType", LEAF),
    ("config", DESCRIPTOR),
    ("layers", DESCRIPTOR),
    ("manifests", DESCRIPTOR),
    ("subject", DESCRIPTOR),
]);
const DESCRIPTOR: Shape = Shape(&[
    ("mediaType", LEAF),
    ("digest", LEAF),
    ("size", LEAF),
    ("urls", LEAF),
    ("platform", Shape(&[("os", LEAF), ("architecture", LEAF)])),
]);

/// What a manifest means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Image manifest or index.
    pub kind: ManifestKind,
    /// The media type, from the `Content-Type` header or the `mediaType` field.
    pub media_type: MediaType,
    /// The manifest this one speaks of (image-spec, Image Manifest: `subject`).
    pub subject: Option<Descriptor>,
    /// `artifactType`, or for an image manifest without one (or an empty one) the media type of its config
    /// (distribution-spec: Listing Referrers).
    pub artifact_type: Option<String>,
    /// What it says of itself (image-spec: Annotations).
    pub annotations: Option<BTreeMap<String, String>>,
}

/// The two kinds of manifests and what each names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    /// A config and layers.
    Image {
        /// The config.
        config: Descriptor,
        /// The layers, the base first.
        layers: Vec<Descriptor>,
    },
    /// Other manifests.
    Index {
        /// In the order of the index.
        children: Vec<Child>,
    },
}

/// What points at content (image-spec: Descriptor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: MediaType,
    /// Their digest.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
    /// Whether it names other places to fetch the bytes from (image-spec, Descriptor: `urls`).
    pub has_urls: bool,
}

impl Descriptor {
    /// Whether the media type says that the bytes may be kept elsewhere
    /// (image-spec, Layer: Non-Distributable Layers).
    pub fn is_non_distributable(&self) -> bool {
        let text = self.media_type.as_str();
        text.contains(".nondistributable.") || text.contains(".rootfs.foreign.")
    }
}

/// A manifest named by an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Where it is.
    pub descriptor: Descriptor,
    /// What it runs on, if the index says.
    pub platform: Option<Platform>,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MAX_MANIFEST_SIZE`].
    #[error("a manifest has at most {MAX_MANIFEST_SIZE} bytes")]
    TooLarge,
    /// A media type that is none of the four.
    #[error(
        "`{0}` is not a manifest media type this registry takes; it takes OCI image manifests and indexes, and \
         Docker schema 2 manifests and lists (schema 1 has been retired: push with a current client)"
    )]
    MediaType(String),
    /// The header says one media type and the manifest another.
    #[error("the Content-Type is `{header}` and the manifest's mediaType is `{body}`; they must be the same")]
    MediaTypeMismatch {
        /// The header's.
        header: MediaType,
        /// The body's.
        body: MediaType,
    },
    /// Neither header nor body says what it is.
    #[error("the manifest has no mediaType and the request no Content-Type")]
    NoMediaType,
    /// Not JSON, or fields missing or of the wrong type.
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// `schemaVersion` is not 2.
    #[error(
        "the manifest's schemaVersion is {0}; it must be 2 (schema 1 has been retired: push with a current client)"
    )]
    SchemaVersion(u64),
    /// A descriptor's digest cannot be used.
    #[error("the manifest names `{text}`: {source}")]
    Digest {
        /// What stands there, cut to a readable length.
        text: String,
        /// Why it is none.
        source: DigestError,
    },
    /// A descriptor's media type is none.
    #[error("the manifest has a descriptor whose mediaType is not `type/subtype`")]
    DescriptorMediaType,
}

impl Manifest {
    /// Reads the bytes of a manifest; `content_type` is the header it came with, if any.
    pub fn parse(content_type: Option<&MediaType>, bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            schema_version: u64,
            media_type: Option<String>,
        }
        if bytes.len() > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge);
        }
        spelling::check(bytes, KEYS)?;
        let head: Head = serde_json::from_slice(bytes)?;
        if head.schema_version != 2 {
            return Err(ManifestError::SchemaVersion(head.schema_version));
        }
        let in_body = match head.media_type {
            Some(text) => {
                Some(text.parse::<MediaType>().map_err(|_| ManifestError::MediaType(shorten(&text)))?)
            }
            None => None,
        };
        let media_type = match (content_type, in_body) {
            (Some(header), Some(body)) if *header != body => {
                return Err(ManifestError::MediaTypeMismatch { header: header.clone(), body });
            }
            (Some(header), _) => header.clone(),
            (None, Some(body)) => body,
            (None, None) => return Err(ManifestError::NoMediaType),
        };
        match media_type.as_str() {
            media_types::OCI_MANIFEST | media_types::DOCKER_MANIFEST => Self::image(media_type, bytes),
            media_types::OCI_INDEX | media_types::DOCKER_LIST => Self::index(media_type, bytes),
            other => Err(ManifestError::MediaType(shorten(other))),
        }
    }

    /// The media type of a manifest that was kept without what it came as, by what is in it; `None` if the bytes say it
    /// themselves, or are none.
    pub fn unsaid_type(bytes: &[u8]) -> Option<MediaType> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            media_type: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        if bytes.len() > MAX_MANIFEST_SIZE {
            return None;
        }
        let fields: Fields = serde_json::from_slice(bytes).ok()?;
        match (fields.media_type, fields.config, fields.manifests) {
            (None, Some(_), None) => media_types::OCI_MANIFEST.parse().ok(),
            (None, None, Some(_)) => media_types::OCI_INDEX.parse().ok(),
            _ => None,
        }
    }

    fn image(media_type: MediaType, bytes: &[u8]) -> Result<Self, ManifestError> {
        let parsed: spec::ImageManifest = serde_json::from_slice(bytes)?;
        let artifact_type =
            said(parsed.artifact_type().as_ref()).unwrap_or(parsed.config().media_type()).to_string();
        Ok(Self {
            kind: ManifestKind::Image {
                config: descriptor(parsed.config())?,
                layers: parsed.layers().iter().map(descriptor).collect::<Result<_, _>>()?,
            },
            media_type,
            subject: parsed.subject().as_ref().map(descriptor).transpose()?,
            artifact_type: Some(artifact_type),
            annotations: in_order(parsed.annotations().as_ref()),
        })
    }

    fn index(media_type: MediaType, bytes: &[u8]) -> Result<Self, ManifestError> {
        let parsed: spec::ImageIndex = serde_json::from_slice(bytes)?;
        let child = |entry: &spec::Descriptor| {
            let platform = entry.platform().as_ref();
            Ok::<_, ManifestError>(Child {
                descriptor: descriptor(entry)?,
                platform: platform.map(|platform| Platform {
                    os: platform.os().to_string(),
                    architecture: platform.architecture().to_string(),
                }),
            })
        };
        Ok(Self {
            kind: ManifestKind::Index {
                children: parsed.manifests().iter().map(child).collect::<Result<_, _>>()?,
            },
            media_type,
            subject: parsed.subject().as_ref().map(descriptor).transpose()?,
            artifact_type: said(parsed.artifact_type().as_ref()).map(ToString::to_string),
            annotations: in_order(parsed.annotations().as_ref()),
        })
    }

    /// The descriptor in JSON that a listing of referrers shows, of the manifest with this digest and so many bytes
    /// (distribution-spec: Listing Referrers).
    pub fn describe(&self, digest: &Digest, size: usize) -> String {
        let mut descriptor =
            json!({"mediaType": self.media_type.as_str(), "digest": digest.as_str(), "size": size});
        if let Some(artifact_type) = &self.artifact_type {
            descriptor["artifactType"] = json!(artifact_type);
        }
        if let Some(annotations) = &self.annotations {
            descriptor["annotations"] = json!(annotations);
        }
        descriptor.to_string()
    }
}

fn in_order(annotations: Option<&HashMap<String, String>>) -> Option<BTreeMap<String, String>> {
    annotations.map(|entries| entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// An artifact type that says something; an empty one counts as none (distribution-spec: Listing Referrers).
fn said(artifact_type: Option<&spec::MediaType>) -> Option<&spec::MediaType> {
    artifact_type.filter(|kind| !kind.as_ref().is_empty())
}

fn descriptor(from: &spec::Descriptor) -> Result<Descriptor, ManifestError> {
    let text = from.digest().as_ref();
    Ok(Descriptor {
        media_type: from.media_type().to_string().parse().map_err(|_| ManifestError::DescriptorMediaType)?,
        digest: text.parse().map_err(|source| ManifestError::Digest { text: shorten(text), source })?,
        size: from.size(),
        has_urls: from.urls().as_ref().is_some_and(|urls| !urls.is_empty()),
    })
}

/// Enough of a peer's words to recognise them in a message.
fn shorten(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> String {
        Digest::sha256(b"x").to_string()
    }

    fn image() -> serde_json::Value {
        json!({
            "schemaVersion": 2,
            "mediaType": media_types::OCI_MANIFEST,
            "config": {"mediaType": media_types::OCI_CONFIG, "digest": digest(), "size": 1},
            "layers": [{"mediaType": media_types::OCI_LAYER_GZIP, "digest": digest(), "size": 1}],
            "unknown": {"field": 1},
        })
    }

    fn parse(content_type: Option<&str>, value: &serde_json::Value) -> Result<Manifest, ManifestError> {
        let content_type = content_type.map(|text| text.parse::<MediaType>().expect("media type"));
        Manifest::parse(content_type.as_ref(), value.to_string().as_bytes())
    }

    #[test]
    fn an_image_is_of_the_type_of_its_config() {
        let manifest = parse(None, &image()).expect("valid");
        assert_eq!(manifest.artifact_type.as_deref(), Some(media_types::OCI_CONFIG));
    }

    #[test]
    fn a_referrer_is_described_with_what_it_says_of_itself() {
        let index = json!({"schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": []});
        let described = |value: &serde_json::Value| {
            let text = parse(None, value).expect("valid").describe(&Digest::sha256(b"x"), 7);
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
        };
        let mut expected = json!({"mediaType": media_types::OCI_INDEX, "digest": digest(), "size": 7});
        assert_eq!(described(&index), expected);
        let mut full = index;
        for (key, value) in [("artifactType", json!("a/b")), ("annotations", json!({"é": "\"\n", "a": ""}))]
        {
            full[key] = value.clone();
            expected[key] = value;
        }
        assert_eq!(described(&full), expected);
        full["annotations"] = json!(null);
        assert!(described(&full).get("annotations").is_none());
    }

    #[test]
    fn what_a_manifest_is_shows_though_it_does_not_say() {
        let unsaid = |value: &serde_json::Value| Manifest::unsaid_type(value.to_string().as_bytes());
        assert_eq!(unsaid(&image()), None, "it says it");
        let mut value = image();
        value.as_object_mut().expect("object").remove("mediaType");
        assert_eq!(unsaid(&value).expect("a type").as_str(), media_types::OCI_MANIFEST);
        assert_eq!(unsaid(&json!({"manifests": []})).expect("a type").as_str(), media_types::OCI_INDEX);
        assert_eq!(unsaid(&json!({"manifests": [], "config": {}})), None);
        assert_eq!(Manifest::unsaid_type(b"{"), None);
    }

    #[test]
    fn docker_schema_2_is_read_like_oci() {
        let mut value = image();
        value["mediaType"] = json!(media_types::DOCKER_MANIFEST);
        assert!(parse(Some(media_types::DOCKER_MANIFEST), &value).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(matches!(
            parse(Some(media_types::DOCKER_MANIFEST), &image()),
            Err(ManifestError::MediaTypeMismatch { .. })
        ));
        let mut value = image();
        value["schemaVersion"] = json!(1);
        assert!(matches!(parse(None, &value), Err(ManifestError::SchemaVersion(1))));
        let mut value = image();
        value["config"]["digest"] = json!("sha256:abc");
        assert!(parse(None, &value).is_err());
        let mut value = image();
        value["mediaType"] = json!("text/html");
        assert!(matches!(parse(None, &value), Err(ManifestError::MediaType(_))));
    }

    #[test]
    fn a_second_config_in_another_spelling_is_refused() {
        for (path, key) in [("", "Config"), ("", "LAYERS"), ("", "mediatype"), ("/config", "Digest")] {
            let mut value = image();
            let object = value.pointer_mut(path).and_then(serde_json::Value::as_object_mut);
            object.expect("object").insert(key.into(), json!(null));
            assert!(matches!(parse(None, &value), Err(ManifestError::Json(_))), "{key}");
        }
    }

    #[test]
    fn the_limit_is_inclusive() {
        let mut bytes = image().to_string().into_bytes();
        bytes.resize(MAX_MANIFEST_SIZE, b' ');
        assert!(Manifest::parse(None, &bytes).is_ok());
        bytes.push(b' ');
        assert!(matches!(Manifest::parse(None, &bytes), Err(ManifestError::TooLarge)));
    }

    #[test]
    fn a_layer_may_be_kept_elsewhere() {
        let mut value = image();
        for (media_type, elsewhere) in [
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", true),
            (media_types::OCI_LAYER_GZIP, false),
        ] {
            value["layers"][0]["mediaType"] = json!(media_type);
            let ManifestKind::Image { layers, .. } = parse(None, &value).expect("valid").kind else {
                panic!("it is an image");
            };
            assert_eq!(layers[0].is_non_distributable(), elsewhere, "{media_type}");
        }
    }

    #[test]
    fn an_index_names_its_children_and_their_platforms() {
        let value = json!({
            "schemaVersion": 2,
            "mediaType": media_types::OCI_INDEX,
            "manifests": [{
                "mediaType": media_types::OCI_MANIFEST, "digest": digest(), "size": 3,
                "platform": {"os": "linux", "architecture": "arm64"},
            }],
        });
        let ManifestKind::Index { children } = parse(None, &value).expect("valid").kind else {
            panic!("it is an index");
        };
        let platform = children[0].platform.clone().expect("platform");
        assert_eq!(platform.to_string(), "linux/arm64");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Manifest::parse(None, &bytes);
        }
    }
}
