//! Names of upload sessions (distribution-spec: Pushing blobs).

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

/// The name of an upload session: 32 hexadecimal digits (distribution-spec: Pushing blobs asks for
/// a UUID), unguessable; safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(Box<str>);

/// A text that names no upload session.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is not the name of an upload session")]
pub struct UploadIdError;

impl UploadId {
    /// A session's name from its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(hex::encode(bytes).into())
    }

    /// The bytes it was made from.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // Both ways to make one see to it that there are 32 digits.
        let _ = hex::decode_to_slice(self.0.as_bytes(), &mut bytes);
        bytes
    }

    /// When the session began, to the millisecond: the first six bytes say it.
    pub fn began(&self) -> SystemTime {
        let [first @ .., _, _, _, _, _, _, _, _] = self.bytes();
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::from_be_bytes(first) >> 16)
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UploadId {
    type Err = UploadIdError;

    fn from_str(text: &str) -> Result<Self, UploadIdError> {
        if text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.into()))
        } else {
            Err(UploadIdError)
        }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
