//! The registry without HTTP: runs, results and garbage, with real files and a real database.

mod backup;
mod existence;
mod expiry;
mod interleavings;
mod journal;
mod retention;
mod scrub;
mod sparse;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;
use torno_audit::Actor;
use torno_auth::{Identity, Policy, Project, PushPermit};
use torno_metadata::{Metadata, Sweep};
use torno_oci::{Digest, Platform, Reference, RepositoryName, RunId, UserName};
use torno_registry::{
    ClaimedRun, CollectionProgress, Given, GivenDataset, GivenLimits, Measured, Outcome, Progress,
    Publication, Reading, Registry, RegistryError, Resources, Retention, RunLog, RunState, Selection,
    Settings,
};

const NO_GRACE: Duration = Duration::ZERO;

struct Site {
    folder: TempDir,
    registry: Arc<Registry>,
}

fn ada() -> Identity {
    Identity::of("ada".parse().expect("name"))
}

/// What a run is given that may take so long.
fn given(time: Duration) -> Given {
    let limits = GivenLimits {
        nano_cpus: 1,
        memory_bytes: 1,
        pids: 1,
        millis: time.as_millis().try_into().expect("short"),
        output_bytes: 1,
        output_entries: 1,
        tmp_bytes: 1,
        log_bytes: 1,
        gpus: 1,
    };
    Given { datasets: Vec::new(), network: "none".into(), user: "1:1".into(), limits }
}

fn name(text: &str) -> RepositoryName {
    text.parse().expect("name")
}

fn tag(text: &str) -> Reference {
    text.parse().expect("tag")
}

fn open(path: &Path, settings: Settings) -> Arc<Registry> {
    let ada: UserName = "ada".parse().expect("name");
    let project = Project { researchers: [ada].into(), ..Project::default() };
    let policy = Policy { projects: [("p".parse().expect("project"), project)].into(), ..Policy::default() };
    Arc::new(Registry::open(path, policy, settings).expect("registry"))
}

impl Site {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let registry = open(folder.path(), settings);
        Self { folder, registry }
    }

    async fn permit(&self, repository: &str) -> PushPermit {
        self.registry.push_permit(&ada(), &name(repository)).await.expect("permit")
    }

    async fn push_blob(&self, permit: &PushPermit, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let id = self.registry.begin_upload(permit).expect("begin");
        let body = stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(bytes))]);
        self.registry.append(permit, &id, None, body).await.expect("append");
        self.registry.finish_upload(permit, &id, &digest).await.expect("finish");
        digest
    }

    /// An image whose layer is `seed`; its manifest.
    async fn image(&self, permit: &PushPermit, seed: &str) -> Vec<u8> {
        let platform = Platform::host();
        let config = json!({
            "os": platform.os, "architecture": platform.architecture, "config": {"Cmd": ["/x"]},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let config = config.to_string();
        let descriptor = |kind: &str, digest: &Digest, size: usize| json!({"mediaType": kind, "digest": digest.as_str(), "size": size});
        let config_digest = self.push_blob(permit, config.as_bytes()).await;
        let layer_digest = self.push_blob(permit, seed.as_bytes()).await;
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len()),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer_digest, seed.len())],
        })
        .to_string()
        .into_bytes()
    }

    async fn push(&self, repository: &str, to: &str, seed: &str) -> (Digest, Option<RunId>) {
        let permit = self.permit(repository).await;
        let manifest = self.image(&permit, seed).await;
        let pushed = self
            .registry
            .put_manifest(&permit, &Actor::torno(), &tag(to), Vec::new(), None, manifest, None)
            .await
            .expect("push");
        (pushed.digest, pushed.runs.first().copied())
    }

    async fn claim(&self) -> ClaimedRun {
        self.registry
            .claim(BTreeMap::new(), BTreeSet::new(), Resources::UNBOUNDED)
            .await
            .expect("claim")
            .expect("a run waits")
    }

    /// Ends a claimed run with a result whose layer is `seed`; the result's digest.
    async fn succeed(&self, claimed: &ClaimedRun, seed: &str) -> Digest {
        let permit = self.registry.publish_permit(&claimed.run).expect("permit");
        let publication = Publication::new(self.image(&permit, seed).await).expect("manifest");
        let digest = publication.digest().clone();
        let id = claimed.run.id;
        self.registry.starting(id, given(Duration::from_mins(1))).await.expect("starting");
        self.registry.started(id, Timestamp::now()).await.expect("started");
        self.registry.collecting(id, Measured::default()).await.expect("collecting");
        let log = RunLog::default();
        self.registry.finish(id, Outcome::Succeeded, log, Some(publication)).await.expect("finish");
        digest
    }

    async fn pull(&self, repository: &str, reference: &str) -> Result<Digest, RegistryError> {
        let permit = self.registry.pull_permit(&ada(), &name(repository)).await?;
        let found = self.registry.manifest(&permit, &tag(reference), Duration::ZERO).await?;
        Ok(found.digest)
    }

    async fn delete_tag(&self, repository: &str, which: &str) {
        let permit = self.registry.delete_permit(&ada(), &name(repository)).await.expect("permit");
        self.registry
            .delete_tag(&permit, &Actor::torno(), &which.parse().expect("tag"), None)
            .await
            .expect("delete");
    }

    fn blob_files(&self) -> usize {
        fn below(path: &Path) -> usize {
            let entries = std::fs::read_dir(path).expect("folder").map(|entry| entry.expect("entry").path());
            entries.map(|path| if path.is_dir() { below(&path) } else { 1 }).sum()
        }
        below(&self.folder.path().join("blobs"))
    }
}

#[tokio::test]
async fn a_result_tag_never_speaks_of_an_earlier_push() {
    let site = Site::new();
    site.push("run/p/n", "1", "first").await;
    let first = site.claim().await;
    let first_result = site.succeed(&first, "first result").await;
    assert_eq!(site.pull("results/p/n", "1").await.expect("result"), first_result);

    let (_, second) = site.push("run/p/n", "1", "second").await;
    let Err(RegistryError::NoResult(reason)) = site.pull("results/p/n", "1").await else {
        panic!("the first push's result was given for the second");
    };
    assert_eq!(Some(reason.run), second);
    assert_eq!(reason.progress, Progress::Queued { before: 0, again: false });
    assert_eq!(site.pull("results/p/n", "run-1").await.expect("it never moves"), first_result);

    let second = site.claim().await;
    let second_result = site.succeed(&second, "second result").await;
    assert_eq!(site.pull("results/p/n", "1").await.expect("result"), second_result);
}

#[tokio::test]
async fn a_result_that_is_being_published_is_kept_from_gc() {
    let site = Site::new();
    site.push("run/p/n", "1", "image").await;
    let claimed = site.claim().await;
    let permit = site.registry.publish_permit(&claimed.run).expect("permit");
    let manifest = site.image(&permit, "result").await;
    let pushed = Timestamp::now();
    while Timestamp::now().as_millisecond() <= pushed.as_millisecond() {
        tokio::task::yield_now().await;
    }
    let collect =
        async || site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").blobs;
    assert_eq!(collect().await, 0, "nobody would push it again");
    let id = claimed.run.id;
    site.registry.starting(id, given(Duration::from_mins(1))).await.expect("starting");
    let publication = Some(Publication::new(manifest).expect("manifest"));
    site.registry.finish(id, Outcome::Succeeded, RunLog::default(), publication).await.expect("finish");
    site.pull("results/p/n", "1").await.expect("result");

    // What is not there is never published.
    site.push("run/p/n", "2", "image").await;
    let id = site.claim().await.run.id;
    let missing = Publication::new(site.image(&site.permit("tools/elsewhere").await, "elsewhere").await);
    let publication = Some(missing.expect("manifest"));
    let refused = site.registry.finish(id, Outcome::Succeeded, RunLog::default(), publication).await;
    assert!(refused.is_err(), "{refused:?}");
    site.registry
        .finish(id, Outcome::SiteFailure { attempts: 1 }, RunLog::default(), None)
        .await
        .expect("finish");
}

#[tokio::test]
async fn a_run_that_was_overtaken_leaves_the_tag_alone() {
    let site = Site::new();
    site.push("run/p/n", "1", "first").await;
    let first = site.claim().await;
    site.push("run/p/n", "1", "second").await;
    let first_result = site.succeed(&first, "first result").await;
    assert!(matches!(site.pull("results/p/n", "1").await, Err(RegistryError::NoResult(_))));
    assert_eq!(site.pull("results/p/n", "run-1").await.expect("result"), first_result);
}

#[tokio::test]
async fn a_pull_that_waits_is_woken_by_the_result() {
    let site = Site::new();
    site.push("run/p/n", "1", "image").await;
    let permit = site.registry.pull_permit(&ada(), &name("results/p/n")).await.expect("permit");
    let registry = Arc::clone(&site.registry);
    let waiting = tokio::spawn(async move {
        let found = registry.manifest(&permit, &tag("1"), Duration::from_mins(1)).await;
        found.expect("the result").digest
    });
    let claimed = site.claim().await;
    let result = site.succeed(&claimed, "result").await;
    assert_eq!(waiting.await.expect("no panic"), result);
}

#[tokio::test]
async fn a_failure_is_told_and_ends_the_wait() {
    let site = Site::new();
    site.push("run/p/n", "1", "image").await;
    let claimed = site.claim().await;
    let outcome = Outcome::ExitStatus { status: 3 };
    site.registry.finish(claimed.run.id, outcome, RunLog::default(), None).await.expect("finish");
    let permit = site.registry.pull_permit(&ada(), &name("results/p/n")).await.expect("permit");
    let answer = site.registry.manifest(&permit, &tag("1"), Duration::from_mins(10)).await;
    let Err(RegistryError::NoResult(reason)) = answer else { panic!("{answer:?}") };
    assert_eq!(reason.message("host"), "run 1 failed: exit status 3");
    let again = site.registry.finish(claimed.run.id, Outcome::Succeeded, RunLog::default(), None).await;
    assert!(again.is_err(), "a run ends once");
}

#[tokio::test]
async fn whoever_waits_is_told_of_an_outage_and_of_an_attempt_that_was_lost() {
    let site = Site::new();
    site.push("run/p/n", "1", "image").await;
    let permit = site.registry.pull_permit(&ada(), &name("results/p/n")).await.expect("permit");
    let told = async || {
        let answer = site.registry.manifest(&permit, &tag("1"), Duration::ZERO).await;
        let Err(RegistryError::NoResult(reason)) = answer else { panic!("{answer:?}") };
        reason.message("host")
    };
    assert_eq!(told().await, "run 1 is queued, next of its project");
    site.registry.note_outage(Some(Timestamp::UNIX_EPOCH)).await.expect("noted");
    let since = "the site's container engine has not answered since 1970-01-01 00:00:00Z: runs go on when it does, tell its admin";
    assert_eq!(told().await, format!("run 1 is queued, next of its project; {since}"));
    site.registry.note_outage(None).await.expect("noted");
    let project = || BTreeSet::from(["p".parse().expect("a project")]);
    site.registry.note_unfit(project()).await.expect("noted");
    let words = told().await;
    assert!(words.starts_with("run 1 is queued, and no run of its project is started: since 20"), "{words}");
    assert!(words.ends_with("tell its admin, whom `torno doctor` shows why"), "{words}");
    let held = site.registry.claim(BTreeMap::new(), project(), Resources::UNBOUNDED).await;
    assert!(held.expect("claim").is_none());
    site.registry.note_unfit(BTreeSet::new()).await.expect("noted");
    let run = site.claim().await.run.id;
    assert_eq!(told().await, "run 1 is being prepared");
    site.registry.lost(run, Timestamp::now(), "a test").await.expect("lost");
    assert_eq!(told().await, "run 1 is queued again after a failure of the site, next of its project");
    site.registry.note_outage(Some(Timestamp::UNIX_EPOCH)).await.expect("noted");
    let run = site.claim().await.run.id;
    let outcome = Outcome::SiteFailure { attempts: 2 };
    site.registry.finish(run, outcome, RunLog::default(), None).await.expect("finish");
    let failed = "run 1 failed: something failed at this site, and it was tried 2 times; tell its admin the run's number";
    assert_eq!(told().await, failed, "it waits for no engine");
}

#[tokio::test]
async fn a_run_keeps_its_image_though_the_tag_and_the_manifest_are_deleted() {
    let site = Site::new();
    let (digest, run) = site.push("run/p/n", "1", "image").await;
    let permit = site.registry.delete_permit(&ada(), &name("run/p/n")).await.expect("permit");
    site.registry.delete_manifest(&permit, &Actor::torno(), &digest, None).await.expect("delete");
    let collected = site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc");
    assert_eq!((collected.blobs, collected.manifests), (0, 0), "the queued run needs them");

    let claimed = site.claim().await;
    let image = site.registry.claimed_image(&claimed.run).await.expect("read").expect("image");
    assert_eq!(image.digest, digest);
    site.registry.run_config(&claimed.run, &image).await.expect("its configuration");
    let run = run.expect("a run");
    let wrong = site.registry.image_permit(run, "wrong").await.expect("asked");
    assert!(wrong.is_none());
    let permit =
        site.registry.image_permit(run, claimed.token.secret()).await.expect("asked").expect("right");
    assert!(site.registry.run_manifest(&permit).await.expect("read").is_some());
    let layer = Digest::sha256(b"image");
    assert_eq!(site.registry.run_blob(&permit, &layer, Reading::Copied).await.expect("blob").size(), 5);
    assert!(site.registry.run_blob(&permit, &Digest::sha256(b"other"), Reading::Copied).await.is_err());

    site.registry.starting(run, given(Duration::from_secs(1))).await.expect("starting");
    let late = site.registry.image_permit(run, claimed.token.secret()).await.expect("asked");
    assert!(late.is_none(), "the token ends before the container starts");
    site.registry
        .finish(run, Outcome::EngineGone { attempts: 1 }, RunLog::default(), None)
        .await
        .expect("finish");
    let collected = site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc");
    assert_eq!((collected.blobs, collected.manifests), (2, 1), "now nobody does");
    assert_eq!(site.blob_files(), 0);
}

#[tokio::test]
async fn runs_are_claimed_in_their_order_and_only_once() {
    let site = Site::new();
    for seed in ["a", "b"] {
        site.push("run/p/n", seed, seed).await;
    }
    let (first, second) = (site.claim().await, site.claim().await);
    assert_eq!((first.run.id.number(), second.run.id.number()), (1, 2));
    assert!(
        site.registry
            .claim(BTreeMap::new(), BTreeSet::new(), Resources::UNBOUNDED)
            .await
            .expect("claim")
            .is_none()
    );
    site.registry.requeue(first.run.id).await.expect("requeue");
    let again = site.claim().await;
    assert_eq!((again.run.id.number(), again.run.attempt), (1, 2));
    site.registry.starting(again.run.id, given(Duration::from_secs(1))).await.expect("starting");
    assert!(site.registry.requeue(again.run.id).await.is_err(), "something of it may have run");
    let unfinished = site.registry.runs(Selection::Unfinished, 10).await.expect("list");
    let states: Vec<_> = unfinished.iter().map(|run| run.state.clone()).collect();
    assert_eq!(states, [RunState::Starting, RunState::Pulling]);
}

#[tokio::test]
async fn gc_takes_what_deletion_freed_and_nothing_else() {
    let site = Site::new();
    site.push("tools/a", "1", "shared").await;
    site.push("tools/b", "1", "shared").await;
    let permit = site.permit("tools/c").await;
    site.push_blob(&permit, b"no manifest yet").await;
    assert_eq!(site.blob_files(), 3);

    let hour = Duration::from_hours(1);
    site.delete_tag("tools/a", "1").await;
    assert_eq!(
        site.registry.garbage(&Retention::default(), hour).await.expect("dry").1.blobs.len(),
        0,
        "b has them still"
    );
    site.delete_tag("tools/b", "1").await;
    let (_, dry) = site.registry.garbage(&Retention::default(), hour).await.expect("dry");
    assert_eq!((dry.blobs.len(), dry.manifests), (2, 1));
    assert_eq!(site.blob_files(), 3, "a dry run changes nothing");
    let mut gone = Vec::new();
    let collected = site
        .registry
        .collect(&Retention::default(), hour, |progress| {
            if let CollectionProgress::Removed(garbage) = progress {
                gone.push(garbage.blob.clone());
            }
        })
        .await
        .expect("gc");
    assert_eq!((collected.blobs, collected.manifests), (2, 1));
    assert_eq!(gone.len(), 2);
    assert_eq!(site.blob_files(), 1, "what was just pushed has time for its manifest");
    // Without grace a blob is garbage from the millisecond after the one that brought it.
    let pushed = Timestamp::now();
    while Timestamp::now().as_millisecond() == pushed.as_millisecond() {
        tokio::task::yield_now().await;
    }
    assert_eq!(site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").blobs, 1);
}

#[tokio::test]
async fn a_deletion_that_was_cut_off_is_ended_by_the_next_push() {
    let site = Site::new();
    site.push("tools/a", "1", "bytes").await;
    site.delete_tag("tools/a", "1").await;
    // What a gc leaves that dies between marking and removing.
    let other = Metadata::open(&site.folder.path().join("torno.db")).expect("open");
    let (mut next, mut blobs) = (Some(Sweep::default()), 0);
    while let Some(from) = next {
        let swept = other.sweep(from, NO_GRACE, Timestamp::now()).await.expect("sweep");
        (next, blobs) = (swept.next, blobs + swept.blobs.len());
    }
    assert_eq!(blobs, 2);
    assert_eq!(site.blob_files(), 2);
    let (digest, _) = site.push("tools/a", "1", "bytes").await;
    assert_eq!(site.pull("tools/a", "1").await.expect("pull"), digest);
    assert_eq!(site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").blobs, 0);
    assert_eq!(site.blob_files(), 2);
}

#[tokio::test]
async fn a_push_cut_off_between_its_bytes_and_its_link_leaves_garbage_only() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    // What a push leaves that dies between placing and linking: bytes, and the hold of a process that is no more.
    let metadata = Metadata::open(&site.folder.path().join("torno.db")).expect("open");
    let digest = Digest::sha256(b"bytes");
    metadata.hold(&digest, 5, "dead", Timestamp::now()).await.expect("hold");
    let path = site.folder.path().join("blobs/sha256").join(&digest.hex()[..2]);
    std::fs::create_dir_all(&path).expect("folder");
    std::fs::write(path.join(digest.hex()), b"bytes").expect("write");
    let pull = site.registry.pull_permit(&ada(), permit.repository()).await;
    assert!(pull.is_err(), "there is no such repository yet");
    assert_eq!(site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").blobs, 1);
    assert_eq!(site.blob_files(), 0);
    assert!(metadata.holders().await.expect("holders").is_empty());
}

#[tokio::test]
async fn gc_keeps_away_from_what_a_living_process_holds() {
    let site = Site::new();
    let metadata = Metadata::open(&site.folder.path().join("torno.db")).expect("open");
    let store = torno_blob::BlobStore::open(site.folder.path(), Duration::ZERO).expect("open");
    let digest = Digest::sha256(b"bytes");
    let alive = store.sign_in("alive".into()).await.expect("signed");
    metadata.hold(&digest, 5, alive.name(), Timestamp::now()).await.expect("hold");
    assert_eq!(site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").blobs, 0);
    assert_eq!(metadata.holders().await.expect("holders"), ["alive"]);
    drop(alive);
    assert_eq!(
        site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").blobs,
        1,
        "it is looked at again"
    );
}

#[tokio::test]
async fn an_index_keeps_its_manifests_until_it_goes() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let child = site.image(&permit, "child").await;
    let digest = Digest::sha256(&child);
    let by_digest = Reference::Digest(digest.clone());
    let length = child.len();
    site.registry
        .put_manifest(&permit, &Actor::torno(), &by_digest, Vec::new(), None, child, None)
        .await
        .expect("child");
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.as_str(), "size": length,
        }],
    });
    let bytes = index.to_string().into_bytes();
    site.registry
        .put_manifest(&permit, &Actor::torno(), &tag("1"), Vec::new(), None, bytes, None)
        .await
        .expect("index");
    assert_eq!(site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").blobs, 0);
    site.delete_tag("tools/a", "1").await;
    let collected = site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc");
    assert_eq!((collected.blobs, collected.manifests), (2, 2));
}

#[tokio::test]
async fn of_two_first_pushes_of_a_name_only_one_goes_on() {
    let site = Site::new();
    let bob = Identity::of("bob".parse().expect("name"));
    let ada = site.permit("tools/new").await;
    let bobs = site.registry.push_permit(&bob, &name("tools/new")).await.expect("it is nobody's yet");
    site.push_blob(&ada, b"first").await;
    let upload = site.registry.begin_upload(&bobs).expect("a session is nothing yet");
    let finished = site.registry.finish_upload(&bobs, &upload, &Digest::sha256(b"")).await;
    assert!(matches!(finished, Err(RegistryError::Taken)));
    let manifest = site.image(&ada, "image").await;
    let pushed =
        site.registry.put_manifest(&bobs, &Actor::torno(), &tag("1"), Vec::new(), None, manifest, None).await;
    assert!(matches!(pushed, Err(RegistryError::Taken)));
}

#[tokio::test]
async fn what_a_run_was_given_and_used_is_kept() {
    let site = Site::new();
    let (_, id) = site.push("run/p/n", "1", "image").await;
    let id = id.expect("a run");
    let run = async || site.registry.run(id).await.expect("read").expect("there");
    site.claim().await;
    assert_eq!(run().await.given, None);
    let mut given = given(Duration::from_millis(1500));
    let digest = Some(Digest::sha256(b"eyes"));
    given.datasets = vec![GivenDataset { name: "eyes".into(), mount: "/input".into(), digest }];
    site.registry.starting(id, given.clone()).await.expect("starting");
    assert_eq!((run().await.given, run().await.time_limit), (Some(given), Some(Duration::from_millis(1500))));
    let measured = Measured { peak_memory: Some(5), cpu: Some(Duration::from_millis(7)) };
    site.registry.collecting(id, measured).await.expect("collecting");
    // A process that takes it up then has seen nothing of it, or less.
    let later = Measured { peak_memory: None, cpu: Some(Duration::from_millis(8)) };
    site.registry.collecting(id, later).await.expect("collecting again");
    assert_eq!(run().await.measured, Measured { cpu: later.cpu, ..measured });
}
