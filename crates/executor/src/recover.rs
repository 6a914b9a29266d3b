//! What an earlier process left: runs to take up where they are, and things in the engine that nobody needs.

use std::{collections::BTreeSet, sync::Arc};

use torno_registry::{Run, RunState, Selection};

use crate::{
    ExecutorError,
    executor::UnderWay,
    life::{Life, Site, given, take_back},
};

/// Takes up every run that is not over, then removes what the engine holds of others. May be repeated.
pub(crate) async fn recover(site: &Arc<Site>, under_way: &mut UnderWay) -> Result<(), ExecutorError> {
    let unfinished = site.registry.runs(Selection::Unfinished, usize::MAX).await?;
    let mut needed = BTreeSet::new();
    for run in unfinished {
        if under_way.works_on(run.id) || take_up(site, under_way, &run).await? {
            needed.insert(run.id);
        }
    }
    for run in site.registry.runs(Selection::Untidy, usize::MAX).await? {
        if !under_way.works_on(run.id) {
            Life::new(site, run).tidy().await;
        }
    }
    for held in site.engine.containers(&site.instance).await? {
        if !held.run.is_some_and(|run| needed.contains(&run)) {
            tracing::info!(container = held.name, "a container of no run is removed");
            site.engine.remove_container(&held.name).await?;
        }
    }
    for run in given(site).await? {
        if !needed.contains(&run) {
            tracing::info!(%run, "what a run was given is taken back");
            take_back(site, run).await?;
        }
    }
    for held in site.engine.volumes(&site.instance).await? {
        if !held.run.is_some_and(|run| needed.contains(&run)) {
            tracing::info!(volume = held.name, "a volume of no run is removed");
            site.engine.remove_volume(&held.name).await?;
        }
    }
    for held in site.engine.images(&site.instance).await? {
        if !held.run.is_some_and(|run| needed.contains(&run)) {
            tracing::info!(image = held.name, "an image of no run is removed");
            site.engine.remove_image(&held.name).await?;
        }
    }
    Ok(())
}

/// Takes up a run from its state; whether what the engine holds of it is needed.
async fn take_up(site: &Arc<Site>, under_way: &mut UnderWay, run: &Run) -> Result<bool, ExecutorError> {
    let life = Life::new(site, run.clone());
    match run.state {
        RunState::Queued | RunState::Finished(_) => return Ok(false),
        RunState::Pulling => {
            let container = site.engine.inspect(&life.name()).await?;
            let Some(started) = container.and_then(|container| container.started) else {
                tracing::info!(run = %run.id, "the preparation of a run was cut off; it is queued again");
                life.clear().await?;
                site.registry.requeue(run.id).await?;
                return Ok(false);
            };
            // The state is noted before the engine is told to start, so this is a database put back from a backup.
            site.registry.started(run.id, started).await?;
            under_way.begin(run.id, life.resumed());
        }
        RunState::Starting | RunState::Running => {
            tracing::info!(run = %run.id, "a run that has begun is taken up");
            under_way.begin(run.id, life.resumed());
        }
        RunState::Collecting => {
            tracing::info!(run = %run.id, "a run that has ended is collected again");
            under_way.begin(run.id, life.collected_again());
        }
    }
    Ok(true)
}
