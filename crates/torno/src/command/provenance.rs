//! `torno provenance`: where a result comes from, and the key by which others can tell.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    str::FromStr,
};

use torno_auth::PullPermit;
use torno_executor::{KEYS, Provenance as Origin, PublicKey};
use torno_oci::{Reference, RepositoryName};

use super::{ConfigFile, Failure};

const EXAMPLES: &str = "\
Examples:
  torno provenance verify results/retina/vessels:1
  torno provenance verify results/retina/vessels@sha256:… --key public.pem
  torno provenance key > public.pem        for whoever wants to check results elsewhere

docs/RESEARCHERS.md says how results are checked without Torno.";

/// Check where results come from
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Provenance {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Compare every byte of a result with what was signed of it, and print what that says
    ///
    /// The result is looked for in the data directory.
    Verify {
        /// The result: results/PROJECT/NAME, with :TAG or @DIGEST
        image: Image,
        /// Trust the public keys in this file (PEM) alone, instead of those of the data directory
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Print the public key, in PEM; behind it those that have signed before
    Key,
}

/// A result, named as clients name it or without the host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Image {
    name: RepositoryName,
    reference: Reference,
}

/// A text that names no result.
#[derive(Debug, thiserror::Error)]
#[error("name a result as results/<project>/<name>:<tag>, or with @sha256:… in place of the tag")]
struct ImageError;

impl FromStr for Image {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let (name, reference) = if let Some((name, digest)) = text.split_once('@') {
            (name, Reference::Digest(digest.parse().map_err(|_| ImageError)?))
        } else {
            let (name, tag) = text.rsplit_once(':').ok_or(ImageError)?;
            (name, Reference::Tag(tag.parse().map_err(|_| ImageError)?))
        };
        let without_host =
            name.split_once('/').filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost");
        let name = without_host.map_or(name, |(_, name)| name);
        Ok(Self { name: name.parse().map_err(|_| ImageError)?, reference })
    }
}

impl Provenance {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let folder = config.data.join(KEYS);
        match &self.action {
            Action::Key => {
                let keys = PublicKey::of_folder(&folder).map_err(Failure::ProvenanceKey)?;
                say(&keys.iter().map(PublicKey::pem).collect::<String>())
            }
            Action::Verify { image, key } => {
                let trusted = match key {
                    Some(file) => PublicKey::of_file(file),
                    None => PublicKey::of_folder(&folder),
                };
                let trusted = trusted.map_err(Failure::ProvenanceKey)?;
                super::with_registry(&config, async |registry| {
                    let permit = PullPermit::of_data_directory(&image.name);
                    let origin = torno_executor::verify(registry, &permit, &image.reference, &trusted).await;
                    say(&shown(&origin.map_err(Failure::Provenance)?))
                })
            }
        }
    }
}

/// What is known for certain, one thing on a line.
fn shown(origin: &Origin) -> String {
    let mut lines = vec![
        ("result", origin.result.to_string()),
        ("run", format!("{} ({})", origin.run, origin.outcome)),
        ("image", format!("{} ({})", origin.image, origin.reference)),
        ("project", origin.project.clone()),
        ("pushed by", origin.owner.clone()),
    ];
    for (name, digest) in &origin.datasets {
        let digest = digest.as_deref().unwrap_or("no fingerprint was kept");
        lines.push(("data", format!("{name} ({digest})")));
    }
    lines.extend([
        ("started", origin.started.clone().unwrap_or_else(|| "-".into())),
        ("ended", origin.finished.clone()),
        ("signed by", format!("key {}", origin.key)),
        ("compared", format!("{} blobs, {} bytes: as they were published", origin.blobs, origin.bytes)),
    ]);
    // Whoever has a key may have signed anything.
    let line = |(name, value): &(&str, String)| {
        let value: String = value.chars().filter(|character| !character.is_control()).collect();
        format!("{name:<10} {value}\n")
    };
    lines.iter().map(line).collect()
}

fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_named_as_clients_name_it() {
        let image = |text: &str| {
            text.parse::<Image>().map(|image| (image.name.to_string(), image.reference.to_string()))
        };
        let named = ("results/p/n".to_owned(), "1".to_owned());
        for text in [
            "results/p/n:1",
            "registry.example.org/results/p/n:1",
            "localhost/results/p/n:1",
            "h:5000/results/p/n:1",
        ] {
            assert_eq!(image(text).expect(text), named);
        }
        let digest = format!("sha256:{}", "0".repeat(64));
        let by_digest = image(&format!("h:5000/results/p/n@{digest}")).expect("a digest");
        assert_eq!(by_digest, (named.0, digest));
        for wrong in ["", "results/p/n", "h:5000/results/p/n", "results/p/n@sha256:0", "Results/p/n:1"] {
            assert!(wrong.parse::<Image>().is_err(), "{wrong}");
        }
    }
}
