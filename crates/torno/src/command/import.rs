//! `torno import` and `torno export`: images from and to folders, beside a server that serves.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    str::FromStr,
};

use bytesize::ByteSize;
use indicatif::{HumanBytes, ProgressBar, ProgressState, ProgressStyle};
use torno_auth::{Htpasswd, Identity, PullPermit, UserName};
use torno_oci::{NameError, RepositoryName, Tag, TagError};
use torno_registry::{Advance, ImportSettings, Imported, Sharing};

use super::{ConfigFile, Failure};

const IMPORT_EXAMPLES: &str = "\
Examples:
  torno import --from /var/lib/docker-registry --owner ada
  torno import --from /var/lib/docker-registry --owner ada --prefix old
  torno import --oci-layout ./layout --owner ada tools/hello
  torno import --oci-layout ./layout --owner ada tools/hello:1

Every manifest and blob is compared with its digest. What is broken is told and left out, the rest is imported, and \
the exit status is 1. Do it again after a stop or a repair: what is there is passed over. On the same file system files \
are shared, not copied (`--copy` copies): stop the old registry first, and never write to its files again.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  torno export --oci-layout ./layout tools/hello:1

The folder is new, empty, or an OCI image layout that gets one more image.";

/// Take over what another registry has, or an OCI image layout
#[derive(Debug, clap::Args)]
#[command(after_help = IMPORT_EXAMPLES)]
pub(crate) struct Import {
    #[command(flatten)]
    file: ConfigFile,
    /// The folder of a distribution (`registry:2`): the one that has `docker/registry/v2` in it
    #[arg(long, value_name = "DIR", required_unless_present = "oci_layout", conflicts_with = "oci_layout")]
    from: Option<PathBuf>,
    /// An OCI image layout
    #[arg(long, value_name = "DIR", requires = "name")]
    oci_layout: Option<PathBuf>,
    /// Whose the repositories become
    #[arg(long, value_name = "USER")]
    owner: UserName,
    /// Put this and a `/` before every repository's name
    #[arg(long, value_name = "NAME", conflicts_with = "oci_layout")]
    prefix: Option<RepositoryName>,
    /// Copy every file, though it could be shared with the source
    #[arg(long)]
    copy: bool,
    /// Where a layout's images go; with a tag, only the one that has this name, or the only one
    #[arg(value_name = "NAME[:TAG]", conflicts_with = "from")]
    name: Option<Named>,
}

/// Write an image to an OCI image layout
#[derive(Debug, clap::Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(crate) struct Export {
    #[command(flatten)]
    file: ConfigFile,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    oci_layout: PathBuf,
    /// The image
    #[arg(value_name = "NAME:TAG", value_parser = with_tag)]
    image: Image,
}

/// `NAME` or `NAME:TAG`.
#[derive(Clone, Debug)]
struct Named {
    name: RepositoryName,
    tag: Option<Tag>,
}

/// `NAME:TAG`.
#[derive(Clone, Debug)]
struct Image {
    name: RepositoryName,
    tag: Tag,
}

/// Why a text names no image.
#[derive(Debug, thiserror::Error)]
enum NamedError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Tag(#[from] TagError),
    #[error("a tag must be given, such as `tools/hello:1`")]
    NoTag,
}

impl FromStr for Named {
    type Err = NamedError;

    fn from_str(text: &str) -> Result<Self, NamedError> {
        Ok(match text.split_once(':') {
            Some((name, tag)) => Self { name: name.parse()?, tag: Some(tag.parse()?) },
            None => Self { name: text.parse()?, tag: None },
        })
    }
}

fn with_tag(text: &str) -> Result<Image, NamedError> {
    let Named { name, tag } = text.parse()?;
    Ok(Image { name, tag: tag.ok_or(NamedError::NoTag)? })
}

impl Import {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let known = |file: Htpasswd| file.users().any(|user| *user == self.owner);
        if !Htpasswd::read(&config.auth.htpasswd).is_ok_and(known) {
            eprintln!("note: nobody can log in as `{}` yet; see `torno user add`", self.owner);
        }
        let settings = ImportSettings {
            owner: Identity::of(self.owner.clone()),
            prefix: self.prefix.clone(),
            sharing: if self.copy { Sharing::Copied } else { Sharing::Linked },
        };
        super::with_new_registry(&config, async |registry| {
            let bar = bar();
            let imported = match (&self.from, &self.oci_layout, &self.name) {
                (Some(from), ..) => registry.import_distribution(from, &settings, advance(&bar)).await,
                (None, Some(layout), Some(Named { name, tag })) => {
                    let (name, tag) = (name.clone(), tag.clone());
                    registry.import_layout(layout, name, tag, &settings, advance(&bar)).await
                }
                (None, ..) => return Ok(()),
            };
            bar.finish_and_clear();
            conclude(&imported?)
        })
    }
}

impl Export {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        // What is written is for whoever the folder is for.
        let usual = rustix::process::umask(rustix::fs::Mode::empty());
        super::with_registry(&config, async |registry| {
            rustix::process::umask(usual);
            let permit = PullPermit::of_data_directory(&self.image.name);
            let exported = registry.export_layout(&permit, &self.image.tag, &self.oci_layout).await?;
            for digest in &exported.absent {
                eprintln!("note: {digest} is not here and was left out");
            }
            say(format_args!(
                "export: {} with {} manifests and {} blobs ({})",
                exported.digest,
                exported.manifests,
                exported.blobs,
                ByteSize::b(exported.bytes).display().iec()
            ))
        })
    }
}

fn bar() -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let template = "{bar:30} {pos}/{len} manifests, {msg} of blobs, {rate}, {elapsed}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        let rate = |state: &ProgressState, to: &mut dyn fmt::Write| {
            // Writing fails only with the terminal.
            let _ = write!(to, "{:.0} manifests/s", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar
}

fn advance(bar: &ProgressBar) -> impl FnMut(Advance) {
    |advance| {
        bar.set_length(advance.all);
        bar.set_position(advance.done);
        let seconds = bar.elapsed().as_secs().max(1);
        bar.set_message(format!("{} ({}/s)", HumanBytes(advance.bytes), HumanBytes(advance.bytes / seconds)));
    }
}

/// Says what was done. What was left out makes it a failure, though all the rest is there.
fn conclude(imported: &Imported) -> Result<(), Failure> {
    say(format_args!(
        "import: {} repositories; {} manifests imported, {} were there; {} blobs ({}) imported",
        imported.repositories,
        imported.manifests,
        imported.had,
        imported.blobs,
        ByteSize::b(imported.bytes).display().iec()
    ))?;
    for left_out in &imported.left_out {
        eprintln!("left out: {left_out}");
    }
    if imported.left_out.is_empty() { Ok(()) } else { Err(Failure::LeftOut(imported.left_out.len())) }
}

fn say(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_name_and_a_tag() {
        let named: Named = "tools/hello:1".parse().expect("good");
        assert_eq!((named.name.as_str(), named.tag.expect("a tag").as_str()), ("tools/hello", "1"));
        assert!("tools/hello".parse::<Named>().expect("good").tag.is_none());
        assert!(matches!(with_tag("tools/hello"), Err(NamedError::NoTag)));
        for bad in ["", ":1", "tools/hello:", "Tools:1", "tools:a:b"] {
            assert!(bad.parse::<Named>().is_err(), "{bad}");
        }
    }
}
