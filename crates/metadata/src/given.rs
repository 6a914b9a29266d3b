//! What a run is given, as its researchers may know it: nothing of the host, of other projects or secret.
//!
//! It is kept when the run starts, and its result speaks of it: the configuration may say something else by then.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use torno_oci::Digest;

/// What a run is given and held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The data it sees, sorted by name.
    pub datasets: Vec<GivenDataset>,
    /// What it can reach: `none`.
    pub network: String,
    /// The user and group it runs as, in numbers.
    pub user: String,
    /// What it may use.
    pub limits: GivenLimits,
}

/// A dataset that a run sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenDataset {
    /// Its name in the configuration.
    pub name: String,
    /// Where it stands in the container.
    pub mount: String,
    /// Its fingerprint when the run started, if it was known.
    #[serde(default, with = "digest", skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What a run may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GivenLimits {
    /// Billionths of a processor.
    pub nano_cpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Wall-clock time, in milliseconds.
    pub millis: u64,
    /// Bytes in `/output`.
    pub output_bytes: u64,
    /// Files and folders in `/output`.
    pub output_entries: u32,
    /// Bytes in `/tmp`.
    pub tmp_bytes: u64,
    /// Bytes of the end of each stream that are kept.
    pub log_bytes: u64,
    /// GPUs.
    #[serde(default)]
    pub gpus: u32,
}

impl GivenLimits {
    /// Wall-clock time.
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// What a run used, measured while it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The most memory that it was seen to use, in bytes; `None` when nobody looked in time.
    pub peak_memory: Option<u64>,
    /// The processors' time that it was seen to use.
    pub cpu: Option<Duration>,
}

mod digest {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use torno_oci::Digest;

    #[expect(clippy::ref_option, reason = "this is how serde calls it")]
    pub(super) fn serialize<S: Serializer>(digest: &Option<Digest>, to: S) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => to.serialize_some(digest.as_str()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
