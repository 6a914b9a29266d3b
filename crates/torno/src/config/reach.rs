//! `allow` and `secrets` of a project: the services its runs may reach, and what they show there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use torno_executor::{Dataset, MAX_SECRETS, MAX_SERVICES, Service};

use super::{
    project::Private,
    reader::{Item, TableReader},
    value,
};

const SERVICES: &str = "a list of services, such as [\"db.internal:5432\"]";
const SERVICE: &str = "a service in quotes, such as \"db.internal:5432\"";

/// The services, each name and port once.
pub(super) fn services(item: Item<'_>) -> Vec<Service> {
    let refuse = item.refusal();
    let mut services: Vec<Service> = Vec::new();
    for item in item.into_list(SERVICES) {
        let Some(service) = item.parse(SERVICE, str::parse::<Service>) else { continue };
        let same = |other: &Service| (other.name(), other.port()) == (service.name(), service.port());
        if services.iter().any(same) {
            item.refuse(format_args!("`{service}` is in this list already"));
        } else {
            services.push(service);
        }
    }
    if services.len() > MAX_SERVICES {
        refuse(&format!("these are {}, and a project may have at most {MAX_SERVICES}", services.len()));
    }
    services
}

/// The files that secrets are kept in. They are read when a run begins, by whoever starts it.
pub(super) fn secrets(
    item: Item<'_>,
    base: &Path,
    private: &Private,
    datasets: &[Dataset],
) -> BTreeMap<String, PathBuf> {
    let refuse = item.refusal();
    let mut secrets = BTreeMap::new();
    for (name, item) in item.into_table().into_iter().flat_map(TableReader::into_entries) {
        if !value::is_name(&name) {
            item.refuse(value::name_rule());
        }
        let Some(mut table) = item.into_table() else { continue };
        let file = table
            .require("file", "say in which file the secret is: { file = \"/etc/torno/secrets/…\" }")
            .and_then(|item| {
                item.parse("a path in quotes", |text| secret_path(text, base, private, datasets))
            });
        table.finish();
        secrets.extend(file.map(|file| (name, file)));
    }
    if secrets.len() > MAX_SECRETS {
        refuse(&format!("these are {}, and a project may have at most {MAX_SECRETS}", secrets.len()));
    }
    secrets
}

/// It need not be readable here: the server that reads the configuration may be another than who starts runs.
fn secret_path(text: &str, base: &Path, private: &Private, datasets: &[Dataset]) -> Result<PathBuf, String> {
    let path = value::path(text, base)?;
    let real = value::resolve(&path);
    if real.starts_with(&private.data) {
        return Err(
            "this file lies inside the data directory of Torno, and every run would be given it".into()
        );
    }
    if let Some((what, _)) = private.others.iter().find(|(_, own)| real.starts_with(value::resolve(own))) {
        return Err(format!("this is Torno's own {what}, and every run would be given it; use another file"));
    }
    let holds = |dataset: &&Dataset| dataset.place.as_folder().is_some_and(|data| real.starts_with(data));
    match datasets.iter().find(holds) {
        Some(dataset) => Err(format!(
            "this file is part of dataset `{}`, where every run sees it; keep it elsewhere",
            dataset.name
        )),
        None => Ok(path),
    }
}
