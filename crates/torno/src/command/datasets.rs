//! `torno datasets`: which data there is, and what exactly it held when it was last looked at.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
};

use bytesize::ByteSize;
use serde_json::json;
use torno_executor::{Advance, DataFolder, DataPlace, Dataset};
use torno_registry::{Fingerprint, Registry};

use super::{ConfigFile, Failure};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  torno datasets list
  torno datasets show retina --json
  torno datasets fingerprint retina      compute it now; only what has changed since is read

A fingerprint is a digest of the names, sizes and contents of all files. The server computes it in the background, and \
`torno runs show` tells that of the data each run saw.";

/// How fast a person who waits has files read: as fast as they come.
const RATE: ByteSize = ByteSize::tib(1);

/// See the data and its fingerprints
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Datasets {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the datasets
    List {
        /// For programs: one JSON object on a line
        #[arg(long)]
        json: bool,
    },
    /// Print what is known of a dataset
    Show {
        /// Its name
        dataset: String,
        /// For programs: a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Compute the fingerprint of a dataset now
    Fingerprint {
        /// Its name
        dataset: String,
    },
}

/// How what is known is told.
#[derive(Clone, Copy)]
enum Form {
    Words,
    Json,
}

impl Datasets {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let form = |json: bool| if json { Form::Json } else { Form::Words };
        let (some, form) = match &self.action {
            Action::Fingerprint { dataset } => return computed(&config, find(&config, dataset)?),
            Action::List { json } => (config.datasets.iter().collect(), form(*json)),
            Action::Show { dataset, json } => (vec![find(&config, dataset)?], form(*json)),
        };
        let text = super::with_registry(&config, async |registry| {
            let mut text = String::new();
            for dataset in some {
                text.push_str(&told(dataset, registry.last_fingerprint(&dataset.name).await?, form));
            }
            Ok(text)
        })?;
        io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)
    }
}

fn find<'c>(config: &'c Config, name: &str) -> Result<&'c Dataset, Failure> {
    let found = config.datasets.iter().find(|dataset| dataset.name == name);
    found.ok_or_else(|| Failure::NoDataset(name.escape_debug().to_string()))
}

fn told(dataset: &Dataset, known: Option<Fingerprint>, form: Form) -> String {
    let Dataset { name, place, .. } = dataset;
    let sample = dataset.sample.as_ref().map(|path| path.display().to_string());
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match (form, known) {
        (Form::Json, known) => {
            let known = known.map(|known| {
                let Fingerprint { stamp: _, digest, files, bytes, at } = known;
                json!({"digest": digest.as_str(), "files": files, "bytes": bytes, "at": at.to_string()})
            });
            let (path, volume) = match place {
                DataPlace::Folder(path) => (Some(path.display().to_string()), None),
                DataPlace::Volume(name) => (None, Some(name.as_str())),
            };
            let told = json!({
                "dataset": name, "path": path, "volume": volume, "sample": sample, "fingerprint": known,
            });
            writeln!(text, "{told}")
        }
        (Form::Words, _) if place.as_folder().is_none() => writeln!(text, "{name}  {place}  no fingerprint"),
        (Form::Words, None) => writeln!(text, "{name}  {place}  no fingerprint yet"),
        (Form::Words, Some(Fingerprint { digest, files, bytes, at, .. })) => {
            let (bytes, at) = (ByteSize::b(bytes), at.strftime("%Y-%m-%d %H:%M:%SZ"));
            writeln!(text, "{name}  {place}  {digest}  {files} files  {bytes}  {at}")
        }
    };
    text
}

fn computed(config: &Config, dataset: &Dataset) -> Result<(), Failure> {
    let Some(path) = dataset.place.as_folder() else {
        return Err(Failure::NoFolder(dataset.name.clone()));
    };
    if !config.data.join("torno.db").exists() {
        return Err(Failure::NoRegistry(config.data.clone()));
    }
    super::own_data(&config.data)?;
    let registry: Arc<Registry> = Arc::new(super::open(config, torno_audit::Actor::command())?);
    let folder = DataFolder { source: dataset.name.clone(), path: path.to_owned() };
    let terminal = io::stderr().is_terminal();
    let tell = move |Advance { bytes, all }: Advance| {
        if terminal {
            let percent = bytes.saturating_mul(100) / all.max(1);
            eprint!("\r{percent:>3} % of {}", ByteSize::b(all));
        }
    };
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::Runtime)?;
    let found = runtime.block_on(torno_executor::fingerprint(&registry, &folder, RATE, tell));
    if terminal {
        eprintln!();
    }
    let found = found.map_err(Failure::Fingerprint)?;
    io::stdout().write_all(told(dataset, Some(found), Form::Words).as_bytes()).map_err(Failure::Output)
}
