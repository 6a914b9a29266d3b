//! The images of earlier runs, which the engine keeps for the next run that shares layers with them.
//!
//! All that is known of them is what the engine holds: the name of an image has the number of the run it was pulled for, and
//! of two runs the later one used its image later. Layers that images share are counted with each, so that more is never
//! kept than is allowed.

use std::{collections::BTreeSet, sync::Arc};

use torno_oci::RunId;
use torno_registry::{RegistryError, RunState};

use crate::{ExecutorError, engine::Pulled, life::Site};

/// Removes the images that are not to be kept: those of more than `keep_cache` bytes, those that are in the registry no more,
/// and every other name of an image. Those of runs under way stay. `mine` is the run that the caller has in hand.
pub(crate) async fn trim(site: &Arc<Site>, mine: Option<RunId>) -> Result<(), ExecutorError> {
    let pulled = site.engine.images(&site.instance).await?;
    let kept = kept(&pulled, site.keep_cache.as_u64());
    for image in pulled {
        let _hand = match mine {
            Some(run) if run == image.run => None,
            _ => match site.hands.take(image.run) {
                Some(hand) => Some(hand),
                // Somebody is about to need it, or has just pulled it.
                None => continue,
            },
        };
        if is_wanted(site, &image, kept.contains(&image.name)).await? {
            continue;
        }
        match site.engine.remove_image(&image.name).await {
            Ok(true) => tracing::debug!(name = image.name, "an image was removed from the engine"),
            Ok(false) => {}
            Err(error) if mine == Some(image.run) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(name = image.name, %error, "an image nobody needs is still in the engine");
            }
        }
    }
    Ok(())
}

/// Whether an image must or may stay.
async fn is_wanted(site: &Site, image: &Pulled, kept: bool) -> Result<bool, RegistryError> {
    let Some(run) = site.registry.run(image.run).await? else { return Ok(false) };
    Ok(match run.state {
        RunState::Pulling | RunState::Starting | RunState::Running | RunState::Collecting => true,
        RunState::Queued | RunState::Finished(_) => {
            kept && site.registry.claimed_image(&run).await?.is_some()
        }
    })
}

/// The names of what may be kept: of each image the one of its last run, and of the images those that were used last, as many
/// as have room. One that is too large for what is left does not keep smaller ones from being kept.
fn kept(pulled: &[Pulled], keep: u64) -> BTreeSet<String> {
    let mut latest: Vec<&Pulled> = pulled.iter().collect();
    latest.sort_unstable_by(|one, other| (other.run, &one.name).cmp(&(one.run, &other.name)));
    let (mut seen, mut left) = (BTreeSet::new(), keep);
    let room = |image: &&Pulled| {
        let fits = seen.insert(image.id.clone()) && image.size <= left;
        if fits {
            left -= image.size;
        }
        fits
    };
    latest.into_iter().filter(room).map(|image| image.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulled(run: u64, name: &str, id: &str, size: u64) -> Pulled {
        let run = RunId::new(run).expect("a number");
        Pulled { name: name.into(), run, id: id.into(), size }
    }

    #[test]
    fn what_was_used_last_is_kept_as_far_as_there_is_room() {
        let held = [pulled(1, "a", "A", 40), pulled(2, "b", "B", 50), pulled(3, "c", "C", 30)];
        let kept = |keep| kept(&held, keep).into_iter().collect::<String>();
        assert_eq!(kept(0), "");
        assert_eq!(kept(29), "");
        assert_eq!(kept(30), "c");
        assert_eq!(kept(70), "ac", "what is too large keeps nothing else out");
        assert_eq!(kept(80), "bc");
        assert_eq!(kept(119), "bc");
        assert_eq!(kept(120), "abc");
    }

    #[test]
    fn an_image_keeps_the_name_of_its_last_run_and_counts_once() {
        let held = [pulled(1, "a", "A", 60), pulled(2, "b", "B", 40), pulled(9, "c", "A", 60)];
        assert_eq!(kept(&held, 100), ["b", "c"].map(str::to_owned).into());
        let twice = [pulled(1, "y", "A", 0), pulled(1, "x", "A", 0)];
        assert_eq!(kept(&twice, 0), ["x".to_owned()].into());
    }
}
