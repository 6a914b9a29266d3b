//! `[datasets.*]`: where the data is, and what of it may be given away.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use torno_executor::{DataPlace, Dataset};
use torno_oci::DatasetName;

use super::{
    project::{Looks, Private},
    reader::Item,
    value,
};

/// Every dataset by its name, and those with errors of their own without more, so that one mistake is reported once.
pub(super) fn read_all(
    items: BTreeMap<String, Item<'_>>,
    base: &Path,
    private: &Private,
) -> BTreeMap<String, Option<Dataset>> {
    let mut sampled = Vec::new();
    let mut read = BTreeMap::new();
    for (name, item) in items {
        let found = dataset(&name, item, base, private);
        let (found, sample) = found.unzip();
        sampled.extend(sample.flatten().map(|item| (name.clone(), item)));
        read.insert(name, found);
    }
    // Compared with every dataset, so after all of them.
    let confidential: Vec<Dataset> = read.values().flatten().cloned().collect();
    for (name, item) in sampled {
        let sample = item.parse(PATH, |text| sample_path(text, base, private, &confidential));
        if let Some(Some(dataset)) = read.get_mut(&name) {
            dataset.sample = sample;
        }
    }
    read
}

const PATH: &str = "a path in quotes";
const VOLUME: &str = "the name of a volume in quotes";

/// A dataset, and where its sample is said to be.
fn dataset<'a>(
    name: &str,
    item: Item<'a>,
    base: &Path,
    private: &Private,
) -> Option<(Dataset, Option<Item<'a>>)> {
    if let Err(error) = name.parse::<DatasetName>() {
        item.refuse(error);
    }
    let mut table = item.into_table()?;
    let place = match table.take("volume") {
        Some(volume) => {
            if let Some(path) = table.take("path") {
                path.refuse("data is in a folder or in a volume; keep one of `path` and `volume`");
            }
            volume.parse(VOLUME, str::parse).map(DataPlace::Volume)
        }
        None => table
            .require("path", "say in which folder the data is: path = \"/srv/data/…\"")
            .and_then(|item| item.parse(PATH, |text| dataset_path(text, base, private)))
            .map(DataPlace::Folder),
    };
    let sample = table.take("sample");
    table.finish();
    Some((Dataset::at(name, place?), sample))
}

/// What may be given away must hold nothing that may not.
fn sample_path(
    text: &str,
    base: &Path,
    private: &Private,
    confidential: &[Dataset],
) -> Result<PathBuf, String> {
    let path = dataset_path(text, base, private)?;
    let holds = |dataset: &&Dataset| dataset.place.as_folder().is_some_and(|data| data.starts_with(&path));
    match confidential.iter().find(holds) {
        Some(dataset) => Err(format!(
            "this folder holds the data of dataset `{}`, and a sample may be given away; use another",
            dataset.name
        )),
        None => Ok(path),
    }
}

/// A folder below a dataset, as a project names it.
pub(super) fn part_of(dataset: Dataset, part: Option<&str>) -> Result<Dataset, String> {
    let Some(part) = part else { return Ok(dataset) };
    let shown = part.escape_debug();
    let plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(char::is_control);
    if !part.split('/').all(plain) {
        return Err(format!(
            "`{shown}` is not a folder below `{}`; write names with a `/` between, without `.` or `..`",
            dataset.name
        ));
    }
    let DataPlace::Folder(whole) = &dataset.place else {
        return Err(format!(
            "`{}` is a volume of the engine's, which gives runs all of it or nothing; leave `/{shown}` away",
            dataset.name
        ));
    };
    let whole = whole.clone();
    let dataset = Dataset { part: Some(part.to_owned()), ..dataset };
    let sample = dataset.sample.as_ref().map(|sample| ("sample of dataset", sample));
    for (what, whole) in [Some(("dataset", &whole)), sample].into_iter().flatten() {
        let place = whole.join(part);
        // What this process cannot look at is looked at before each run.
        if fs::metadata(whole).is_err() {
            continue;
        }
        match place.canonicalize() {
            Ok(real) if real == place && real.is_dir() => {}
            Ok(_) => return Err(format!("`{shown}` of {what} `{}` is no folder, or a link", dataset.name)),
            Err(_) => return Err(format!("the {what} `{}` has no folder `{shown}`", dataset.name)),
        }
    }
    Ok(dataset)
}

/// The folder with every link followed: what is checked here is what is mounted later.
fn dataset_path(text: &str, base: &Path, private: &Private) -> Result<PathBuf, String> {
    let path = value::path(text, base)?;
    let shown = path.display();
    let real = match (path.canonicalize(), private.looks) {
        (Ok(real), _) => real,
        (Err(_), Looks::WhereFound) => return Ok(path),
        (Err(error), Looks::Everywhere) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound => format!("there is no folder {shown}; make it, or mend the path"),
                _ => format!("{shown} cannot be looked at: {error}"),
            });
        }
    };
    if !fs::metadata(&real).is_ok_and(|found| found.is_dir()) {
        return Err(format!("{shown} is not a folder; a dataset is a folder, whatever is in it"));
    }
    if real.parent().is_none() {
        return Err("this is the whole machine; name the folder that holds the data".into());
    }
    if real.starts_with(&private.data) {
        return Err(format!("{shown} lies inside the data directory of Torno; move it elsewhere"));
    }
    let inside = |path: &Path| value::resolve(path).starts_with(&real);
    let data = ("data directory", &private.data);
    let others = private.others.iter().map(|(what, path)| (*what, path));
    for (what, path) in std::iter::once(data).chain(others) {
        if inside(path) {
            return Err(format!(
                "{shown} holds Torno's own {what} ({}), which every run would see; use a folder with only the data",
                path.display()
            ));
        }
    }
    Ok(real)
}
