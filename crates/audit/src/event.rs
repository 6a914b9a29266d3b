//! What can be done that is recorded. What is none of the record's business has no place here: no password, no token,
//! no byte of data, no line that a container printed.

use serde::Serialize;
use torno_oci::{Digest, Reference, RepositoryName, RunId, Tag, UserName};

use crate::actor::{Text, all_shown, shown, shown_if_any};

/// Something that was done, or was about to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The record begins here.
    Begun,
    /// The record goes on in another file.
    Closed {
        /// Which.
        next: String,
    },
    /// The line before is not finished: its process was killed while it was written. Whatever it was to tell had not been
    /// answered.
    Torn {
        /// How many bytes it has, with its end.
        bytes: u64,
        /// Their SHA-256.
        sha256: String,
    },
    /// What lies between the record before and this one is none: the power failed while it was written, or it was changed.
    Damaged {
        /// How many bytes lie there.
        bytes: u64,
        /// Their SHA-256.
        sha256: String,
    },
    /// Nothing could be recorded for a while; or more was read than could be remembered.
    Gap {
        /// Since when.
        since: String,
        /// How much was done that no line tells of.
        unrecorded: u64,
    },
    /// A file of the record is as old as the configuration lets it get, and is about to go.
    SegmentExpired {
        /// Which.
        segment: String,
    },

    /// `torno serve` begins.
    Started {
        /// Its version.
        version: &'static str,
    },
    /// `torno serve` ends in good order.
    Stopped,
    /// `torno execute` begins.
    ExecutorStarted {
        /// Its version.
        version: &'static str,
    },
    /// `torno execute` ends in good order.
    ExecutorStopped,
    /// The configuration was read again.
    ConfigurationReloaded,
    /// It was read again, is wrong, and changed nothing.
    ConfigurationRefused,
    /// Somebody was given a password, or lost the right to log in.
    User {
        /// What was done: `add`, `passwd` or `remove`.
        action: &'static str,
        /// To whom.
        #[serde(serialize_with = "shown")]
        name: UserName,
    },

    /// Somebody logged in, as `docker login` does.
    Login,
    /// Somebody tried to.
    LoginFailed {
        /// The name that was given, if whoever tries many is slowed down.
        #[serde(skip_serializing_if = "Option::is_none")]
        claimed: Option<Text>,
        /// Why not: the name or password was `wrong`, there had been `too many`, the `token` was not good, the name is
        /// that of a `robot`, or what an identity `provider` said of somebody did not do.
        why: &'static str,
    },
    /// A token is about to be given out.
    TokenIssued {
        /// Its name.
        token: Text,
        /// Whose it is.
        #[serde(serialize_with = "shown")]
        owner: UserName,
        /// What it is good for.
        scope: Text,
        /// Until when.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<Text>,
    },
    /// A token is about to become worthless.
    TokenRevoked {
        /// Its name.
        token: Text,
        /// Whose it was.
        #[serde(serialize_with = "shown")]
        owner: UserName,
    },
    /// Somebody may not do what they asked for, or has no room left for it.
    Refused {
        /// What they asked for, such as `GET`.
        method: Text,
        /// Of what.
        path: Text,
        /// Why not.
        reason: Text,
    },

    /// A manifest was pushed.
    Push {
        /// Where to.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Under which tags.
        #[serde(serialize_with = "all_shown")]
        tags: Vec<Tag>,
        /// Which.
        #[serde(serialize_with = "shown")]
        digest: Digest,
        /// Whose the repository is.
        #[serde(serialize_with = "shown")]
        owner: UserName,
    },
    /// A blob was pushed.
    BlobPush {
        /// Where to.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Which.
        #[serde(serialize_with = "shown")]
        digest: Digest,
    },
    /// A blob of one repository is in another one too.
    BlobMount {
        /// The other one.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Which.
        #[serde(serialize_with = "shown")]
        digest: Digest,
    },
    /// A manifest was read.
    Pull {
        /// Where.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// By which name.
        #[serde(serialize_with = "shown")]
        reference: Reference,
        /// Which.
        #[serde(serialize_with = "shown")]
        digest: Digest,
    },
    /// A blob was read, or a part of it.
    BlobPull {
        /// Where.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Which.
        #[serde(serialize_with = "shown")]
        digest: Digest,
    },
    /// A tag, or a manifest with all its tags, is about to be deleted.
    Delete {
        /// Where.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Which.
        #[serde(serialize_with = "shown")]
        reference: Reference,
    },
    /// A blob is about to be taken out of a repository.
    BlobDelete {
        /// Which.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Which.
        #[serde(serialize_with = "shown")]
        digest: Digest,
    },
    /// What an earlier record said was about to be done was not done.
    NotDone {
        /// The number of that record.
        of: u64,
        /// Why not.
        reason: Text,
    },

    /// A push has queued a run.
    RunQueued {
        /// Which.
        #[serde(serialize_with = "number")]
        run: RunId,
        /// Of which image.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Its tag.
        #[serde(serialize_with = "shown")]
        tag: Tag,
        /// The image itself.
        #[serde(serialize_with = "shown")]
        digest: Digest,
    },
    /// A run's container is about to start.
    RunStarted {
        /// Which.
        #[serde(serialize_with = "number")]
        run: RunId,
        /// Of which image.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Its tag.
        #[serde(serialize_with = "shown")]
        tag: Tag,
        /// The image itself.
        #[serde(serialize_with = "shown")]
        digest: Digest,
        /// Whose it is.
        #[serde(serialize_with = "shown")]
        owner: UserName,
    },
    /// What a run exchanged with the services of the site that it could reach.
    RunExchanged {
        /// Which.
        #[serde(serialize_with = "number")]
        run: RunId,
        /// Of which image.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Whose it is.
        #[serde(serialize_with = "shown")]
        owner: UserName,
        /// With each.
        services: Vec<Exchanged>,
    },
    /// An attempt at a run was lost to a failure of the site; it is about to be queued again, to begin anew.
    RunLost {
        /// Which.
        #[serde(serialize_with = "number")]
        run: RunId,
        /// Of which image.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Its tag.
        #[serde(serialize_with = "shown")]
        tag: Tag,
        /// The image itself.
        #[serde(serialize_with = "shown")]
        digest: Digest,
        /// Whose it is.
        #[serde(serialize_with = "shown")]
        owner: UserName,
        /// The attempt that was lost.
        attempt: u64,
        /// What failed.
        reason: Text,
    },
    /// A run is over, and what it leaves is about to be released.
    RunEnded {
        /// Which.
        #[serde(serialize_with = "number")]
        run: RunId,
        /// Of which image.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Its tag.
        #[serde(serialize_with = "shown")]
        tag: Tag,
        /// The image itself.
        #[serde(serialize_with = "shown")]
        digest: Digest,
        /// Whose it is.
        #[serde(serialize_with = "shown")]
        owner: UserName,
        /// How it ended.
        outcome: Text,
        /// What its owner can read now.
        #[serde(serialize_with = "shown_if_any", skip_serializing_if = "Option::is_none")]
        result: Option<Digest>,
    },

    /// Somebody wants a run to end, and it is about to be.
    RunCancelled {
        /// Which.
        #[serde(serialize_with = "number")]
        run: RunId,
        /// Of which image.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Its tag.
        #[serde(serialize_with = "shown")]
        tag: Tag,
        /// Whose it is.
        #[serde(serialize_with = "shown")]
        owner: UserName,
        /// As what they had a say: `owner`, `custodian` or `admin`.
        #[serde(rename = "as")]
        capacity: &'static str,
    },
    /// Somebody has the image of a run that is over run again.
    RunRetried {
        /// The run that is over.
        #[serde(serialize_with = "number")]
        run: RunId,
        /// The new one.
        again: u64,
        /// Of which image.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// As what they had a say.
        #[serde(rename = "as")]
        capacity: &'static str,
    },
    /// A run that waits is about to get another place in the queue.
    RunPrioritized {
        /// Which.
        #[serde(serialize_with = "number")]
        run: RunId,
        /// Of which image.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Which place: `high`, `normal` or `low`.
        priority: &'static str,
        /// As what they had a say.
        #[serde(rename = "as")]
        capacity: &'static str,
    },
    /// Nothing new is about to be started of a project any more, or at all.
    Paused {
        /// Which; the whole site if it is missing.
        #[serde(skip_serializing_if = "Option::is_none")]
        project: Option<Text>,
        /// As what they had a say.
        #[serde(rename = "as")]
        capacity: &'static str,
    },
    /// It is about to go on.
    Resumed {
        /// Which; the whole site if it is missing.
        #[serde(skip_serializing_if = "Option::is_none")]
        project: Option<Text>,
        /// As what they had a say.
        #[serde(rename = "as")]
        capacity: &'static str,
    },

    /// Something is about to go by a rule of retention.
    Expired {
        /// Where.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// The tag, or the digest of a manifest without one.
        #[serde(serialize_with = "shown")]
        reference: Reference,
        /// Which manifest.
        #[serde(serialize_with = "shown")]
        digest: Digest,
        /// By which rule.
        rule: Text,
    },
    /// The bytes of blobs that nothing needs are about to be removed.
    Collected {
        /// Which.
        #[serde(serialize_with = "all_shown")]
        digests: Vec<Digest>,
    },
    /// An image was copied to a folder of the machine.
    Exported {
        /// Where from.
        #[serde(serialize_with = "shown")]
        repository: RepositoryName,
        /// Its tag.
        #[serde(serialize_with = "shown")]
        tag: Tag,
    },
    /// Everything was copied to a folder of the machine.
    BackedUp,
    /// Everything was made from a backup, with the record up to here.
    Restored,
}

/// What a run exchanged with a service of the site, of which a record holds no byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Exchanged {
    /// The service, as the run knows it.
    pub service: Text,
    /// How many connections there were.
    pub connections: u64,
    /// How many there were not: too many at once, or nobody answered.
    pub refused: u64,
    /// How many bytes went to the service.
    pub sent: u64,
    /// How many came from it.
    pub received: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn number<S: serde::Serializer>(run: &RunId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(run.number())
}
