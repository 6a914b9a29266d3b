//! Adding lines to the record, beside other processes that do.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use crate::{
    Actor, AuditError, Event, Locked, Rotation, Segment, folder,
    line::{Content, Kind, Link, seal},
    tail::{Ended, Mend, Tail},
};

/// Whoever adds lines. The hash of the last line is remembered, and read again when another process has added some.
#[derive(Debug)]
pub(crate) struct Writer {
    folder: PathBuf,
    rotation: Rotation,
    open: Option<Open>,
}

/// The segment that is written to.
#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    inode: u64,
    length: u64,
    link: Link,
    mend: Mend,
}

impl Writer {
    pub(crate) fn new(folder: PathBuf, rotation: Rotation) -> Self {
        Self { folder, rotation, open: None }
    }

    /// Adds lines, durably, all or none; the number of the first. Blocks.
    pub(crate) fn write(&mut self, contents: &[Content<'_>]) -> Result<u64, AuditError> {
        let _lock = Locked::exclusive(&self.folder)?;
        let mut open = match self.open.take() {
            Some(open) if open.is_current() => open,
            _ => Open::find(&self.folder)?,
        };
        if open.length >= self.rotation.size {
            open = self.rotate(open)?;
        }
        let first = open.add(contents)?;
        self.open = Some(open);
        Ok(first)
    }

    /// Goes on in another segment. Stopped in between, the next writer makes that.
    fn rotate(&self, mut open: Open) -> Result<Open, AuditError> {
        let actor = Actor::torno();
        let expired = self.expired(&open)?;
        let mut events: Vec<Event> = expired
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .map(|segment| Event::SegmentExpired { segment })
            .collect();
        // The closing line has a number too, and so has a line that mends.
        let torn = u64::from(matches!(open.mend, Mend::Tear { .. }));
        let next = open.link.seq + torn + events.len() as u64 + 2;
        events.push(Event::Closed { next: folder::name(next) });
        let now = Timestamp::now();
        let contents: Vec<Content<'_>> =
            events.iter().map(|event| Content { at: now, event, actor: &actor, repeated: None }).collect();
        open.add(&contents)?;
        let made = Open::make(&self.folder, open.link)?;
        for path in expired {
            fs::remove_file(&path).map_err(AuditError::of(&path))?;
        }
        Ok(made)
    }

    /// The segments that were last written to too long ago.
    fn expired(&self, open: &Open) -> Result<Vec<PathBuf>, AuditError> {
        let Some(keep) = self.rotation.keep else { return Ok(Vec::new()) };
        let mut expired = Vec::new();
        for Segment { path, .. } in folder::list(&self.folder)? {
            let written = fs::metadata(&path).and_then(|found| found.modified());
            let age = written.map_err(AuditError::of(&path))?.elapsed().unwrap_or_default();
            if path != open.path && age > keep {
                expired.push(path);
            }
        }
        Ok(expired)
    }
}

impl Open {
    /// The segment to write to, found or made.
    fn find(folder: &Path) -> Result<Self, AuditError> {
        let mut segments = folder::list(folder)?;
        let Some(newest) = segments.pop() else { return Self::make(folder, Link::START) };
        let (path, length) = (newest.path, newest.length);
        let opened = File::options().read(true).append(true).open(&path);
        let mut file = opened.map_err(AuditError::of(&path))?;
        let Tail { last, mend } = Tail::find(&mut file, length).map_err(AuditError::of(&path))?;
        if let (Some(line), Mend::Nothing) = (&last, &mend)
            && line.kind == Kind::Closed
        {
            return Self::make(folder, line.link);
        }
        let link = match last {
            Some(line) => line.link,
            None => link_before(newest.first, segments)?,
        };
        let inode = file.metadata().map_err(AuditError::of(&path))?.ino();
        Ok(Self { file, path, inode, length, link, mend })
    }

    fn make(folder: &Path, after: Link) -> Result<Self, AuditError> {
        let (file, path) = folder::make(folder, after.seq + 1)?;
        let inode = file.metadata().map_err(AuditError::of(&path))?.ino();
        Ok(Self { file, path, inode, length: 0, link: after, mend: Mend::Nothing })
    }

    /// Whether nobody else has written since, nor taken the file away.
    fn is_current(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.ino() == self.inode && found.len() == self.length)
    }

    fn add(&mut self, contents: &[Content<'_>]) -> Result<u64, AuditError> {
        let actor = Actor::torno();
        let (mut link, mut bytes) = (self.link, Vec::new());
        let mend = match &self.mend {
            Mend::Nothing => None,
            Mend::End => {
                bytes.push(b'\n');
                None
            }
            Mend::Tear { bytes: count, sha256, ended: Ended::No } => {
                bytes.push(b'\n');
                Some(Event::Torn { bytes: *count, sha256: sha256.clone() })
            }
            // A writer that is killed never gets so far.
            Mend::Tear { bytes, sha256, ended: Ended::Yes } => {
                Some(Event::Damaged { bytes: *bytes, sha256: sha256.clone() })
            }
        };
        let begun = (link == Link::START).then_some(Event::Begun);
        for event in mend.iter().chain(begun.iter()) {
            let content = Content { at: Timestamp::now(), event, actor: &actor, repeated: None };
            seal(&content, &mut link, &mut bytes).map_err(json(&self.path))?;
        }
        let first = link.seq + 1;
        for content in contents {
            seal(content, &mut link, &mut bytes).map_err(json(&self.path))?;
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Best effort: what stays is torn, and mended by the next line.
            let _ = self.file.set_len(self.length);
            return Err(AuditError::of(&self.path)(error));
        }
        self.length += bytes.len() as u64;
        self.link = link;
        self.mend = Mend::Nothing;
        Ok(first)
    }
}

/// Where the segments before `first` end.
fn link_before(first: u64, mut older: Vec<Segment>) -> Result<Link, AuditError> {
    while let Some(Segment { path, length, .. }) = older.pop() {
        let mut file = File::open(&path).map_err(AuditError::of(&path))?;
        if let Some(line) = Tail::find(&mut file, length).map_err(AuditError::of(&path))?.last {
            return Ok(line.link);
        }
    }
    // What was before it is not here: its own name tells how much.
    Ok(Link { seq: first.saturating_sub(1), ..Link::START })
}

fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> AuditError + use<> {
    let of = AuditError::of(path);
    move |error| of(error.into())
}
