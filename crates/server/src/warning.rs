//! What a client is told beside an answer that is good (distribution-spec: Warnings).

use std::fmt;

use http::{HeaderMap, HeaderValue, header};
use torno_oci::{Digest, MediaType, RunId};

/// The most bytes that all warnings of an answer may have (distribution-spec: Warnings).
const MAX_BYTES: usize = 4096;

/// Something that a person should know and that no program need act on.
#[derive(Debug)]
pub(crate) enum Warning {
    /// A manifest was pushed that names what its repository does not have.
    Absent(Vec<Digest>),
    /// A blob was deleted that so many manifests still name.
    BlobStillNamed(u64),
    /// A manifest was deleted that so many indexes still name.
    ManifestStillNamed(u64),
    /// An image was pushed that has not changed since these runs of it, so it does not run again.
    Unchanged(Vec<RunId>),
    /// The manifest is of a type that the client did not say it accepts.
    NotAccepted(MediaType),
}

impl Warning {
    /// Adds it to an answer, unless that would be more than an answer may warn of.
    pub(crate) fn add(&self, headers: &mut HeaderMap) {
        let text = format!("299 - \"{}\"", quoted(&self.to_string()));
        let so_far: usize = headers.get_all(header::WARNING).iter().map(HeaderValue::len).sum();
        if let (true, Ok(value)) = (so_far + text.len() <= MAX_BYTES, HeaderValue::from_str(&text)) {
            headers.append(header::WARNING, value);
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(digests) => {
                write!(f, "{} that this manifest names ", counted(digests.len() as u64, "blob or manifest"))?;
                f.write_str(if digests.len() == 1 { "is" } else { "are" })?;
                f.write_str(" not in this repository; whoever pulls it must get that from elsewhere")?;
                match digests.first() {
                    Some(first) => write!(f, ": {first}{}", if digests.len() > 1 { ", ..." } else { "" }),
                    None => Ok(()),
                }
            }
            Self::BlobStillNamed(count) => {
                let manifests = counted(*count, "manifest");
                write!(f, "{manifests} of this repository named this blob and can no longer be pulled whole")
            }
            Self::ManifestStillNamed(count) => {
                let indexes = counted(*count, "index");
                write!(
                    f,
                    "{indexes} of this repository named this manifest and can no longer be pulled whole"
                )
            }
            Self::Unchanged(runs) => {
                let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
                let runs = runs.join(", ");
                write!(
                    f,
                    "nothing was queued: this image has not changed since run {runs}, whose result stands"
                )
            }
            Self::NotAccepted(media_type) => {
                write!(f, "this manifest is of type {media_type}, which the request does not accept")
            }
        }
    }
}

fn counted(count: u64, thing: &str) -> String {
    let plural = match thing {
        _ if count == 1 => "",
        "index" => "es",
        "blob or manifest" => return format!("{count} blobs or manifests"),
        _ => "s",
    };
    format!("{count} {thing}{plural}")
}

/// The inside of a quoted string (RFC 9110, section 5.6.4); what is not ASCII becomes `?`.
fn quoted(text: &str) -> String {
    let mut inside = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => inside.extend(['\\', character]),
            ' '..='~' => inside.push(character),
            _ => inside.push('?'),
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_has_the_form_of_the_specification() {
        let mut headers = HeaderMap::new();
        Warning::BlobStillNamed(1).add(&mut headers);
        Warning::ManifestStillNamed(2).add(&mut headers);
        let values: Vec<&[u8]> = headers.get_all(header::WARNING).iter().map(HeaderValue::as_bytes).collect();
        let expected: [&[u8]; 2] = [
            b"299 - \"1 manifest of this repository named this blob and can no longer be pulled whole\"",
            b"299 - \"2 indexes of this repository named this manifest and can no longer be pulled whole\"",
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn quotes_do_not_end_a_warning() {
        assert_eq!(quoted("a \"b\" \\ é\n"), "a \\\"b\\\" \\\\ ??");
    }

    #[test]
    fn the_limit_is_inclusive() {
        let mut headers = HeaderMap::new();
        let absent = Warning::Absent(vec![Digest::sha256(b""), Digest::sha256(b"x")]);
        absent.add(&mut headers);
        let one = headers.get(header::WARNING).expect("a warning").len();
        for _ in 0..MAX_BYTES {
            absent.add(&mut headers);
        }
        assert_eq!(headers.get_all(header::WARNING).iter().count(), MAX_BYTES / one);
    }
}
