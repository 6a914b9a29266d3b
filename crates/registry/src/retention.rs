//! Retention: which tags and untagged manifests are let go of, and by which rule.
//!
//! Judging is pure; `metadata` takes away what was judged, if it is still so.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use torno_auth::{Patterns, ProjectName};
use torno_metadata::{Among, Expiring, LatestRun, TagUse};
use torno_oci::{Digest, Namespace, Reference, RepositoryName, Tag};

use crate::{Registry, RegistryError};

/// What is kept, and for how long.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    /// The first whose pattern fits a repository judges it; where none does, everything is kept.
    pub rules: Vec<Rule>,
    /// Which images of a project are kept once they have run; those of others always.
    pub images: BTreeMap<ProjectName, KeepImages>,
}

/// What is kept of some repositories. A tag is let go of when there is a condition on tags and it meets none.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which repositories.
    pub repositories: Patterns,
    /// Tags are kept that are among so many that were pushed last.
    pub newest: Option<usize>,
    /// Tags are kept that fit.
    pub tags: Option<Patterns>,
    /// Tags are kept that were pulled, or pushed, within this time.
    pub pulled_within: Option<Duration>,
    /// Manifests that have had no tag for so long go, unless something needs them.
    pub untagged_after: Option<Duration>,
}

/// Which images of a project are kept once they have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepImages {
    /// None: each goes when its run has ended.
    None,
    /// The one pushed last to each repository.
    Last,
    /// Each for so long after its run has ended.
    For(Duration),
}

/// Why something is let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(String);

/// Something that retention lets go of.
#[derive(Clone, Debug)]
pub struct Expired {
    /// What.
    pub what: Expiring,
    /// By which rule.
    pub reason: Reason,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Rule {
    /// Which tags of a repository are let go of, and why. `tags` has the one pushed last first.
    fn judge(&self, name: &str, tags: &[TagUse], now: Timestamp) -> Vec<(TagUse, Reason)> {
        let mut missed = Vec::new();
        if let Some(newest) = self.newest {
            missed.push(format!("not among the newest {newest}"));
        }
        if let Some(patterns) = &self.tags {
            missed.push(format!("not like {patterns}"));
        }
        if let Some(time) = self.pulled_within {
            missed.push(format!("not used for {}", humantime::format_duration(time)));
        }
        if missed.is_empty() {
            return Vec::new();
        }
        let reason = Reason(format!("{name} ({}): {}", self.repositories, missed.join(", ")));
        let is_kept = |(place, used): &(usize, &TagUse)| {
            self.newest.is_some_and(|newest| *place < newest)
                || self.tags.as_ref().is_some_and(|patterns| patterns.fit(used.tag.as_str()))
                || self.pulled_within.is_some_and(|time| {
                    let last = used.pulled.map_or(used.pushed, |pulled| pulled.max(used.pushed));
                    !is_older(last, time, now)
                })
        };
        let judged = tags.iter().enumerate().filter(|place| !is_kept(place));
        judged.map(|(_, used)| (used.clone(), reason.clone())).collect()
    }
}

impl KeepImages {
    /// Which tags under `run/` and `try/` are let go of. `tags` has the one pushed last first.
    fn judge<'a>(
        self,
        tags: &'a [TagUse],
        runs: &BTreeMap<Tag, LatestRun>,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a TagUse> {
        let skipped = usize::from(self == Self::Last);
        tags.iter().skip(skipped).filter(move |used| match (runs.get(&used.tag), self) {
            (Some(LatestRun::Finished(at)), Self::For(time)) => is_older(*at, time, now),
            (Some(LatestRun::Finished(_)), Self::None | Self::Last) => true,
            (Some(LatestRun::Unfinished) | None, _) => false,
        })
    }

    /// How long an image without a tag, whose place another one took, is kept.
    fn untagged(self) -> Duration {
        match self {
            Self::None | Self::Last => Duration::ZERO,
            Self::For(time) => time,
        }
    }
}

impl fmt::Display for KeepImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Last => f.write_str("last"),
            Self::For(time) => humantime::format_duration(*time).fmt(f),
        }
    }
}

fn is_older(at: Timestamp, time: Duration, now: Timestamp) -> bool {
    now.duration_since(at).unsigned_abs() > time && at <= now
}

impl Registry {
    /// What is to be let go of. Nothing changes.
    pub async fn expirable(&self, retention: &Retention) -> Result<Vec<Expired>, RegistryError> {
        /// Repositories looked at together.
        const PAGE: usize = 1000;
        let mut expired = Vec::new();
        let mut after: Option<String> = None;
        if retention.is_empty() {
            return Ok(expired);
        }
        self.flush_pulls().await?;
        loop {
            let page = self.metadata.repositories(Among::All, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(expired) };
            after = Some(last.name.to_string());
            for owned in page {
                self.judge(&owned.name, retention, &mut expired).await?;
            }
        }
    }

    async fn judge(
        &self,
        name: &RepositoryName,
        retention: &Retention,
        expired: &mut Vec<Expired>,
    ) -> Result<(), RegistryError> {
        let now = Timestamp::now();
        if let Some((project, keep)) = retention.images_of(name) {
            let reason = Reason(format!("projects.{project}.keep_images = \"{keep}\""));
            let (tags, runs) = (self.metadata.tag_uses(name).await?, self.metadata.latest_runs(name).await?);
            let judged = keep.judge(&tags, &runs, now);
            expired.extend(judged.map(|used| Expired::tag(name, used.clone(), reason.clone())));
            return self.judge_untagged(name, keep.untagged(), &reason, expired).await;
        }
        let rule = retention.rules.iter().enumerate().find(|(_, rule)| rule.repositories.fit(name.as_str()));
        let Some((number, rule)) = rule else { return Ok(()) };
        let place = format!("retention {}", number + 1);
        let tags = self.metadata.tag_uses(name).await?;
        let judged = rule.judge(&place, &tags, now).into_iter();
        expired.extend(judged.map(|(used, reason)| Expired::tag(name, used, reason)));
        let Some(time) = rule.untagged_after else { return Ok(()) };
        let words = humantime::format_duration(time);
        let reason = Reason(format!("{place} ({}): no tag for {words}", rule.repositories));
        self.judge_untagged(name, time, &reason, expired).await
    }

    async fn judge_untagged(
        &self,
        name: &RepositoryName,
        time: Duration,
        reason: &Reason,
        expired: &mut Vec<Expired>,
    ) -> Result<(), RegistryError> {
        let before = Timestamp::now().checked_sub(time).unwrap_or(Timestamp::MIN);
        for manifest in self.metadata.untagged(name, before).await? {
            let what = Expiring::Untagged(name.clone(), manifest);
            expired.push(Expired { what, reason: reason.clone() });
        }
        Ok(())
    }

    /// Lets go of what was judged, if it is still as it was; what went. Each is logged with its rule.
    pub async fn expire(&self, expired: Vec<Expired>) -> Result<Vec<Expired>, RegistryError> {
        /// In one transaction.
        const STEP: usize = 500;
        let mut gone = Vec::with_capacity(expired.len());
        for some in expired.chunks(STEP) {
            let recorded = self.record_expired(some).await?;
            let expire = || self.metadata.expire(some.iter().map(|one| one.what.clone()).collect());
            let done = self.even_when_full(expire).await?;
            for (one, record) in some.iter().zip(recorded) {
                if !done.contains(&one.what) {
                    self.record_kept(record).await;
                    continue;
                }
                tracing::info!(repository = %one.repository(), what = %one.name(), rule = %one.reason, "expired");
                gone.push(one.clone());
            }
        }
        Ok(gone)
    }

    /// Notes in the database which tags were pulled.
    pub async fn flush_pulls(&self) -> Result<(), RegistryError> {
        let pulls = self.pulls.take();
        if pulls.is_empty() {
            return Ok(());
        }
        self.even_when_full(|| self.metadata.note_pulls(pulls.clone())).await
    }
}

impl Retention {
    /// Whether everything is kept.
    fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.images.is_empty()
    }

    fn images_of(&self, name: &RepositoryName) -> Option<(&ProjectName, KeepImages)> {
        let (Namespace::Run { project, .. } | Namespace::Try { project, .. }) = name.namespace() else {
            return None;
        };
        let (project, keep) = self.images.iter().find(|(found, _)| found.as_str() == project)?;
        Some((project, *keep))
    }
}

impl Expired {
    fn tag(name: &RepositoryName, used: TagUse, reason: Reason) -> Self {
        Self { what: Expiring::Tag(name.clone(), used), reason }
    }

    /// Where it is, or was.
    pub fn repository(&self) -> &RepositoryName {
        self.what.repository()
    }

    /// The tag, or the digest of a manifest without one.
    pub fn name(&self) -> &str {
        match &self.what {
            Expiring::Tag(_, used) => used.tag.as_str(),
            Expiring::Untagged(_, manifest) => manifest.as_str(),
        }
    }

    /// The same as a reference.
    pub(crate) fn reference(&self) -> Reference {
        match &self.what {
            Expiring::Tag(_, used) => Reference::Tag(used.tag.clone()),
            Expiring::Untagged(_, manifest) => Reference::Digest(manifest.clone()),
        }
    }

    /// The manifest that the tag named, or that had none.
    pub fn manifest(&self) -> &Digest {
        match &self.what {
            Expiring::Tag(_, used) => &used.manifest,
            Expiring::Untagged(_, manifest) => manifest,
        }
    }
}

/// Which tags were pulled since the database was told. Lost with the process: at worst a tag seems to have been pulled a
/// minute earlier.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<HashMap<RepositoryName, HashMap<Tag, Timestamp>>>);

impl Pulls {
    /// Notes a pull, or that somebody asked whether the tag is there, as Docker does before it pulls by digest.
    pub(crate) fn note(&self, repository: &RepositoryName, tag: &Tag) {
        let now = Timestamp::now();
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked for first, since a hot tag is there and nothing need be copied.
        let Some(tags) = pulls.get_mut(repository) else {
            pulls.insert(repository.clone(), HashMap::from([(tag.clone(), now)]));
            return;
        };
        match tags.get_mut(tag) {
            Some(at) => *at = now,
            None => drop(tags.insert(tag.clone(), now)),
        }
    }

    fn take(&self) -> Vec<(RepositoryName, Tag, Timestamp)> {
        let pulls = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let tags = |(name, tags): (RepositoryName, HashMap<Tag, Timestamp>)| {
            tags.into_iter().map(move |(tag, at)| (name.clone(), tag, at))
        };
        pulls.into_iter().flat_map(tags).collect()
    }
}
