//! Database and engine side by side, at the start and again and again: what is under way in the one and in nobody's hands is
//! taken up, and what the other holds and nobody needs is removed.
//!
//! The engine is asked what it holds before the database is asked who needs it, and nothing of a run is removed but by whoever
//! has that run in hand: a run makes nothing before it is claimed, and nothing out of hand.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::{MissedTickBehavior, interval};
use torno_oci::RunId;
use torno_registry::{RegistryError, Run, RunState, Selection};

use crate::{
    ExecutorError, cache,
    executor::UnderWay,
    life::{Life, Site, given, take_back},
};

/// Takes up every run that is under way and that nobody works on. Asks the database alone.
pub(crate) async fn take_up(site: &Arc<Site>, under_way: &mut UnderWay) -> Result<(), RegistryError> {
    for run in site.registry.runs(Selection::Unfinished, usize::MAX).await? {
        // Whoever has ended one since it was listed is still known here.
        if run.state == RunState::Queued || under_way.works_on(run.id) {
            continue;
        }
        let (id, state) = (run.id, run.state.clone());
        tracing::info!(run = %id, %state, "a run that nobody works on is taken up");
        let life = Life::new(site, run);
        match state {
            RunState::Queued | RunState::Finished(_) => {}
            RunState::Pulling => under_way.begin(site, id, life.cut_off()),
            RunState::Starting | RunState::Running => under_way.begin(site, id, life.resumed()),
            RunState::Collecting => under_way.begin(site, id, life.collected_again()),
        }
    }
    Ok(())
}

/// Removes again and again what the engine holds and nobody needs. Cancelling it is harmless.
pub(crate) async fn keep(site: &Arc<Site>) {
    let mut often = interval(site.reconcile);
    often.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        often.tick().await;
        site.reach().await;
        if let Err(error) = sweep(site).await {
            tracing::warn!(%error, "what nobody needs in the engine could not be looked for; trying again later");
        }
    }
}

/// Something that the engine holds.
#[derive(Debug)]
enum Thing {
    Container(String),
    Volume(String),
    /// What no disk may hold; not in the engine, but made and removed with the rest.
    Given(RunId),
}

impl Thing {
    /// Whether there was something.
    async fn remove(&self, site: &Arc<Site>) -> Result<bool, ExecutorError> {
        Ok(match self {
            Self::Container(name) => site.engine.remove_container(name).await?,
            Self::Volume(name) => site.engine.remove_volume(name).await?,
            Self::Given(run) => take_back(site, *run).await.map(|()| true)?,
        })
    }
}

async fn sweep(site: &Arc<Site>) -> Result<(), ExecutorError> {
    // In this order: a container is in the way of what it uses.
    let mut held: BTreeMap<Option<RunId>, Vec<Thing>> = BTreeMap::new();
    for container in site.engine.containers(&site.instance).await? {
        held.entry(container.run).or_default().push(Thing::Container(container.name));
    }
    for volume in site.engine.volumes(&site.instance).await? {
        held.entry(volume.run).or_default().push(Thing::Volume(volume.name));
    }
    for run in given(site).await? {
        held.entry(Some(run)).or_default().push(Thing::Given(run));
    }
    for run in site.registry.runs(Selection::Untidy, usize::MAX).await? {
        tidy(site, run).await?;
    }
    for run in site.registry.keeping_gpus().await? {
        free_gpus(site, run).await?;
    }
    for (run, things) in held {
        let _hand = match run {
            None => None,
            Some(run) => {
                let Some(hand) = site.hands.take(run) else { continue };
                if needed(site.registry.run(run).await?.as_ref()) {
                    continue;
                }
                Some(hand)
            }
        };
        for thing in things {
            // One that somebody else uses does not keep the others.
            match thing.remove(site).await {
                Ok(true) => tracing::info!(?thing, "what nobody needs was removed from the engine"),
                // Its run has removed it since the engine was asked.
                Ok(false) => {}
                Err(error) => tracing::warn!(?thing, %error, "what nobody needs is still in the engine"),
            }
        }
    }
    cache::trim(site, None).await
}

/// Whether what the engine holds of a run is needed, once nobody has it in hand. One that waits makes everything anew, and of
/// one that is not known there is nobody who could need it.
fn needed(run: Option<&Run>) -> bool {
    match run.map(|run| &run.state) {
        None | Some(RunState::Queued | RunState::Finished(_)) => false,
        Some(RunState::Pulling | RunState::Starting | RunState::Running | RunState::Collecting) => true,
    }
}

/// Removes what the engine holds of an attempt that was lost, so that others may have its GPUs, unless somebody has its run
/// in hand.
async fn free_gpus(site: &Arc<Site>, id: RunId) -> Result<(), RegistryError> {
    let Some(_hand) = site.hands.take(id) else { return Ok(()) };
    let Some(run) = site.registry.run(id).await? else { return Ok(()) };
    if !needed(Some(&run)) {
        Life::new(site, run).leave().await;
    }
    Ok(())
}

/// Removes what the engine holds of a run that is over, unless somebody is about to.
async fn tidy(site: &Arc<Site>, run: Run) -> Result<(), RegistryError> {
    let id = run.id;
    let Some(_hand) = site.hands.take(id) else { return Ok(()) };
    if !needed(site.registry.run(id).await?.as_ref())
        && let Err(error) = Life::new(site, run).try_to_tidy().await
    {
        tracing::warn!(run = %id, %error, "the engine still holds something of a run");
    }
    Ok(())
}
