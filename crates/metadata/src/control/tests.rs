use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use torno_oci::Digest;

use super::*;
use crate::{
    Counted, FinishedRun, Given, GivenLimits, Measured, NewManifest, Resources, RunLog, manifest, repository,
};

fn open() -> (tempfile::TempDir, Metadata) {
    let folder = tempfile::tempdir().expect("folder");
    let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
    (folder, metadata)
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).expect("a time")
}

fn by(capacity: Capacity) -> Wanted {
    let by = (capacity != Capacity::Admin).then(|| "ada".parse().expect("a name"));
    Wanted { capacity, by, at: now() }
}

/// An image manifest without blobs: nothing here looks into it.
fn image(text: &str) -> NewManifest {
    NewManifest {
        digest: Digest::sha256(text.as_bytes()),
        bytes: text.into(),
        media_type: "application/vnd.oci.image.manifest.v1+json".parse().expect("a type"),
        names: Vec::new(),
        refers: None,
        only_if: None,
    }
}

/// Pushes an image in ada's name; the run.
async fn push(metadata: &Metadata, name: &str, tag: &str, text: &str) -> RunId {
    let (name, image): (RepositoryName, _) = (name.parse().expect("a name"), image(text));
    let (owner, tag): (UserName, Tag) = ("ada".parse().expect("a name"), tag.parse().expect("a tag"));
    let pushed = metadata.write(move |connection| {
        let repository = repository::ensure(connection, &name, &owner, now())?;
        manifest::insert(connection, repository, &image, now())?;
        manifest::point(connection, repository, &tag, &image.digest, now())?;
        let new = NewRun { image: image.digest.clone(), media_type: image.media_type.clone() };
        queue::queue(connection, &name, &tag, &owner, &new, now())
    });
    pushed.await.expect("pushed")
}

async fn claim(metadata: &Metadata) -> Option<RunId> {
    let claimed = metadata.claim_run([0; 32], BTreeMap::new(), BTreeSet::new(), Resources::UNBOUNDED).await;
    claimed.expect("claimed").map(|claim| claim.run.id)
}

fn given() -> Given {
    let limits = GivenLimits {
        nano_cpus: 1,
        memory_bytes: 1,
        pids: 1,
        millis: 1,
        output_bytes: 1,
        output_entries: 1,
        tmp_bytes: 1,
        log_bytes: 1,
        gpus: 1,
    };
    Given { limits, datasets: Vec::new(), user: "1:1".into(), network: "none".into() }
}

async fn finish(metadata: &Metadata, id: RunId, outcome: Outcome) -> Result<(), MetadataError> {
    let log = RunLog::default();
    let finished = FinishedRun { outcome, log, publish: None, attachments: Vec::new(), at: now() };
    metadata.finish_run(id, finished).await
}

async fn state(metadata: &Metadata, id: RunId) -> RunState {
    metadata.run(id).await.expect("read").expect("a run").state
}

#[tokio::test]
async fn what_waits_ends_at_once_and_what_is_over_stays_so() {
    let (_folder, metadata) = open();
    let run = push(&metadata, "run/p/x", "v", "a").await;
    let unknown = RunId::new(99).expect("a number");
    assert_eq!(metadata.cancel_run(unknown, by(Capacity::Admin)).await.expect("asked"), Err(Left::Unknown));
    let cancelled = metadata.cancel_run(run, by(Capacity::Owner)).await.expect("asked");
    assert_eq!(cancelled, Ok(Cancelled::AtOnce));
    let outcome = Outcome::Cancelled { by: Capacity::Owner };
    assert_eq!(state(&metadata, run).await, RunState::Finished(outcome.clone()));
    let again = metadata.cancel_run(run, by(Capacity::Custodian)).await.expect("asked");
    assert_eq!(again, Err(Left::Over(outcome)));
    assert_eq!(claim(&metadata).await, None);
    let untidy = metadata.runs(crate::Selection::Untidy, 9).await.expect("read");
    assert!(untidy.is_empty(), "the engine has never heard of it");
    let found = metadata.run(run).await.expect("read").expect("a run");
    assert_eq!(found.cancel, Some(by(Capacity::Owner)));
}

#[tokio::test]
async fn what_is_under_way_goes_no_further() {
    let (_folder, metadata) = open();
    let run = push(&metadata, "run/p/x", "v", "a").await;
    assert_eq!(claim(&metadata).await, Some(run));
    assert_eq!(metadata.cancellation(run).await.expect("read"), None);
    let asked = metadata.cancel_run(run, by(Capacity::Custodian)).await.expect("asked");
    assert_eq!(asked, Ok(Cancelled::Asked));
    // Whoever came first is told of.
    let asked = metadata.cancel_run(run, by(Capacity::Owner)).await.expect("asked");
    assert_eq!(asked, Ok(Cancelled::Asked));
    assert_eq!(metadata.cancellation(run).await.expect("read"), Some(by(Capacity::Custodian)));
    let refused = |result| matches!(result, Err(MetadataError::Cancelled(Capacity::Custodian)));
    assert!(refused(metadata.starting_run(run, given()).await));
    assert!(refused(metadata.requeue_run(run).await));
    assert!(refused(metadata.lost_run(run, now()).await));
    assert!(refused(finish(&metadata, run, Outcome::Succeeded).await));
    assert!(refused(finish(&metadata, run, Outcome::SiteFailure { attempts: 1 }).await));
    assert_eq!(state(&metadata, run).await, RunState::Pulling);
    let outcome = Outcome::Cancelled { by: Capacity::Custodian };
    finish(&metadata, run, outcome.clone()).await.expect("over");
    assert_eq!(state(&metadata, run).await, RunState::Finished(outcome));
}

#[tokio::test]
async fn a_retry_is_a_new_run_of_the_same_image() {
    let (_folder, metadata) = open();
    let first = push(&metadata, "run/p/x", "v", "a").await;
    let retry = |id| metadata.retry_run(id, Vec::new(), now());
    assert_eq!(retry(first).await.expect("asked"), Err(Left::NotOver(RunState::Queued)));
    claim(&metadata).await.expect("claimed");
    finish(&metadata, first, Outcome::EngineGone { attempts: 1 }).await.expect("over");
    let retried = retry(first).await.expect("asked").expect("queued");
    assert_eq!((retried.repository.as_str(), retried.tag.as_str()), ("run/p/x", "v"));
    let second = metadata.run(retried.run).await.expect("read").expect("a run");
    assert_eq!((second.state, second.retry_of), (RunState::Queued, Some(first)));
    assert_eq!(second.image, image("a").digest);
    assert_eq!(
        state(&metadata, first).await,
        RunState::Finished(Outcome::EngineGone { attempts: 1 }),
        "as it was"
    );

    // It counts like a push.
    let quota = RunQuota { queued: Some(1), daily: None };
    let owner = Account::Owner("ada".parse().expect("a name"));
    let refused = metadata.retry_run(first, vec![(owner, quota)], now()).await.expect("asked");
    let Err(Left::TooMany(too_many)) = refused else { panic!("{refused:?}") };
    assert_eq!((too_many.counted, too_many.present, too_many.allowed), (Counted::Queued, 1, 1));

    // What the tag says now is another image.
    let third = push(&metadata, "run/p/x", "v", "b").await;
    assert_eq!(retry(first).await.expect("asked"), Err(Left::Superseded(third)));
    // Another tag's image that is gone.
    let other = push(&metadata, "run/p/x", "w", "c").await;
    metadata.cancel_run(other, by(Capacity::Owner)).await.expect("asked").expect("over");
    let name = "run/p/x".parse().expect("a name");
    metadata.delete_manifest(&name, &image("c").digest, None).await.expect("deleted");
    assert_eq!(retry(other).await.expect("asked"), Err(Left::ImageGone));
}

#[tokio::test]
async fn what_is_paused_waits_and_others_do_not() {
    let (_folder, metadata) = open();
    let project: ProjectName = "p".parse().expect("a name");
    let pause =
        |project: Option<&ProjectName>| Pause { project: project.cloned(), wanted: by(Capacity::Custodian) };
    let mine = push(&metadata, "run/p/x", "v", "a").await;
    let tried = push(&metadata, "try/p/x", "v", "a").await;
    let others = push(&metadata, "run/q/x", "v", "a").await;
    assert_eq!(metadata.pause(pause(Some(&project))).await.expect("paused"), None);
    let again = Pause { wanted: by(Capacity::Admin), ..pause(Some(&project)) };
    assert_eq!(metadata.pause(again).await.expect("paused"), Some(pause(Some(&project))), "the first stands");
    for (run, expected) in
        [(mine, Some(pause(Some(&project)))), (tried, Some(pause(Some(&project)))), (others, None)]
    {
        assert_eq!(metadata.pause_of(run).await.expect("read"), expected);
    }
    assert_eq!(claim(&metadata).await, Some(others));
    assert_eq!(claim(&metadata).await, None);
    assert_eq!(metadata.pause(pause(None)).await.expect("paused"), None);
    assert_eq!(
        metadata.pause_of(mine).await.expect("read"),
        Some(pause(None)),
        "the site's is told of first"
    );
    assert_eq!(metadata.pauses().await.expect("read"), [pause(None), pause(Some(&project))]);
    assert!(metadata.resume(Some(project.clone())).await.expect("resumed").is_some());
    assert_eq!(claim(&metadata).await, None, "the site is paused");
    assert!(metadata.resume(None).await.expect("resumed").is_some());
    assert_eq!(metadata.resume(None).await.expect("resumed"), None);
    assert_eq!(claim(&metadata).await, Some(mine));
    assert_eq!(claim(&metadata).await, Some(tried));
}

/// A run that is next and has no room keeps others waiting, but not while its project is paused.
#[tokio::test]
async fn a_paused_project_keeps_no_room_for_its_runs() {
    let (_folder, metadata) = open();
    let needs = |cpus| Resources { nano_cpus: cpus, memory: 0, gpus: 0 };
    let all: BTreeMap<ProjectName, Resources> =
        [("p", 4), ("q", 1)].map(|(name, cpus)| (name.parse().expect("a name"), needs(cpus))).into();
    let claim = || metadata.claim_run([0; 32], all.clone(), BTreeSet::new(), needs(4));
    let small = push(&metadata, "run/q/x", "v", "a").await;
    assert_eq!(claim().await.expect("claimed").map(|claim| claim.run.id), Some(small));
    let large = push(&metadata, "run/p/x", "v", "a").await;
    assert!(claim().await.expect("claimed").is_none(), "no room for {large}");
    let next = push(&metadata, "run/q/x", "w", "a").await;
    assert!(claim().await.expect("claimed").is_none(), "{large} is next");
    let wanted = by(Capacity::Admin);
    metadata.pause(Pause { project: "p".parse().ok(), wanted }).await.expect("paused");
    assert_eq!(claim().await.expect("claimed").map(|claim| claim.run.id), Some(next));
}

#[tokio::test]
async fn what_is_moved_up_goes_first() {
    let (_folder, metadata) = open();
    let first = push(&metadata, "run/p/x", "1", "a").await;
    let second = push(&metadata, "run/p/x", "2", "a").await;
    let third = push(&metadata, "run/p/x", "3", "a").await;
    metadata.prioritize_run(third, Priority::High).await.expect("asked").expect("it waits");
    metadata.prioritize_run(first, Priority::Low).await.expect("asked").expect("it waits");
    for (run, expected) in [(first, Priority::Low), (second, Priority::Normal), (third, Priority::High)] {
        assert_eq!(metadata.run(run).await.expect("read").expect("a run").priority, expected);
    }
    assert_eq!(claim(&metadata).await, Some(third));
    let begun = metadata.prioritize_run(third, Priority::Low).await.expect("asked");
    assert_eq!(begun, Err(Left::Begun(RunState::Pulling)));
    assert_eq!(claim(&metadata).await, Some(second));
    assert_eq!(claim(&metadata).await, Some(first));
    finish(&metadata, first, Outcome::EngineGone { attempts: 1 }).await.expect("over");
    let over = metadata.prioritize_run(first, Priority::High).await.expect("asked");
    assert_eq!(over, Err(Left::Over(Outcome::EngineGone { attempts: 1 })));
}

/// What may happen to one run, by whoever does it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Claim,
    Start,
    Started,
    Collect,
    Requeue,
    Lose,
    Succeed,
    Fail,
    EndCancelled,
    Cancel,
}

const STEPS: [Step; 10] = [
    Step::Claim,
    Step::Start,
    Step::Started,
    Step::Collect,
    Step::Requeue,
    Step::Lose,
    Step::Succeed,
    Step::Fail,
    Step::EndCancelled,
    Step::Cancel,
];

async fn take(metadata: &Metadata, run: RunId, step: Step) -> bool {
    match step {
        Step::Claim => claim(metadata).await.is_some(),
        Step::Start => metadata.starting_run(run, given()).await.is_ok(),
        Step::Started => metadata.started_run(run, now()).await.is_ok(),
        Step::Collect => metadata.collecting_run(run, Measured::default()).await.is_ok(),
        Step::Requeue => metadata.requeue_run(run).await.is_ok(),
        Step::Lose => metadata.lost_run(run, now()).await.is_ok(),
        Step::Succeed => finish(metadata, run, Outcome::Succeeded).await.is_ok(),
        Step::Fail => finish(metadata, run, Outcome::EngineGone { attempts: 1 }).await.is_ok(),
        Step::EndCancelled => match metadata.cancellation(run).await.expect("read") {
            Some(wanted) => finish(metadata, run, wanted.outcome()).await.is_ok(),
            None => false,
        },
        Step::Cancel => metadata.cancel_run(run, by(Capacity::Owner)).await.expect("asked").is_ok(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happens to a run in whatever order, and two things at a time: it has one outcome at most, which stays, and
    /// that is "cancelled" if anybody was told that it would be; and nothing starts after that.
    #[test]
    fn a_run_has_one_outcome(steps in prop::collection::vec((0..10usize, 0..10usize), 1..24)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("runtime").block_on(async {
            let (_folder, metadata) = open();
            let run = push(&metadata, "run/p/x", "v", "a").await;
            let (mut promised, mut over) = (false, None);
            for (one, other) in steps {
                let (one, other) = (STEPS[one], STEPS[other]);
                let before = promised;
                let done = {
                    let (first, second) = (metadata.clone(), metadata.clone());
                    let first = tokio::spawn(async move { take(&first, run, one).await });
                    let second = tokio::spawn(async move { take(&second, run, other).await });
                    [(one, first.await.expect("no panic")), (other, second.await.expect("no panic"))]
                };
                for (step, done) in done {
                    promised |= matches!(step, Step::Cancel) && done;
                    let moves = matches!(step, Step::Claim | Step::Start | Step::Requeue | Step::Lose | Step::Succeed | Step::Fail);
                    assert!(!(before && moves && done), "{step:?} after the promise");
                }
                match (state(&metadata, run).await, &over) {
                    (RunState::Finished(outcome), Some(before)) => assert_eq!(&outcome, before, "it has changed"),
                    (RunState::Finished(outcome), None) => {
                        let cancelled = matches!(outcome, Outcome::Cancelled { .. });
                        assert_eq!(cancelled, promised, "{outcome}");
                        over = Some(outcome);
                    }
                    (state, Some(_)) => panic!("it is {state} after its end"),
                    (_, None) => {}
                }
            }
        });
    }
}
