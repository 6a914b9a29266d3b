//! Knowing the fingerprint of all data, in the background, again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytesize::ByteSize;
use tokio::time::Instant;

use crate::{ExecutorError, life::Site, walk::WalkError};

use super::{DataFolder, fingerprint, folders};

/// How fast files are read at most: a disk has more to give to those who work.
const RATE: ByteSize = ByteSize::mib(64);

/// How long is waited between two looks at all data, at least and at most: within that, looking takes one part in fifty
/// of one processor.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LAST_WAIT: Duration = Duration::from_hours(1);
const REST: u32 = 50;

/// Computes what is not known, one folder after another.
pub(crate) async fn keep(site: &Site) {
    let mut told: BTreeMap<DataFolder, String> = BTreeMap::new();
    loop {
        let since = Instant::now();
        for folder in configured(site) {
            match look(site, &folder).await {
                Ok(()) => drop(told.remove(&folder)),
                Err(error) => {
                    // Once for each cause, not at every look.
                    let words = error.to_string();
                    if told.get(&folder) != Some(&words) {
                        let dataset = &folder.source;
                        tracing::warn!(dataset, %error, "the fingerprint of data is not known; trying again");
                        told.insert(folder, words);
                    }
                }
            }
        }
        tokio::time::sleep((since.elapsed() * REST).clamp(FIRST_WAIT, LAST_WAIT)).await;
    }
}

/// The data and the samples that projects have.
fn configured(site: &Site) -> BTreeSet<DataFolder> {
    let projects = site.projects.load();
    let both = projects.values().flat_map(|policy| {
        let tried = policy.for_try().ok();
        folders(policy).into_iter().chain(tried.iter().flat_map(folders).collect::<Vec<_>>())
    });
    both.map(|(_, folder)| folder).collect()
}

async fn look(site: &Site, folder: &DataFolder) -> Result<(), ExecutorError> {
    let (stamp, all) = super::look(&folder.path).await?;
    if site.registry.fingerprint(&folder.source, &stamp).await?.is_some() {
        return Ok(());
    }
    let dataset = &folder.source;
    tracing::info!(dataset, bytes = all, "the fingerprint of data is computed");
    let tenths = Arc::new(AtomicU64::new(0));
    let name = folder.source.clone();
    let tell = move |advance: super::Advance| {
        let tenth = advance.bytes.saturating_mul(10) / advance.all.max(1);
        if tenths.fetch_max(tenth, Ordering::Relaxed) < tenth && tenth < 10 {
            tracing::info!(dataset = name, percent = tenth * 10, "the fingerprint of data is computed");
        }
    };
    match fingerprint(&site.registry, folder, RATE, tell).await {
        Ok(found) => {
            tracing::info!(dataset, fingerprint = %found.digest, files = found.files, "the fingerprint of data is known");
            Ok(())
        }
        // It is looked at again soon.
        Err(ExecutorError::Walk(WalkError::Changed(_))) => Ok(()),
        Err(error) => Err(error),
    }
}
