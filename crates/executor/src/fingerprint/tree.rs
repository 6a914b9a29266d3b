//! Reading a whole folder, but for the files that are known.

use std::{
    collections::VecDeque,
    io::Read as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use tokio::runtime::Handle;
use torno_oci::{Algorithm, Digest, Hasher};
use torno_registry::{DataFile, Registry};

use crate::{
    ExecutorError,
    walk::{Entry, Opener, Seen, WalkError, walk},
};

/// What begins every folder's digest, so that a later way to compute it gives others.
const VERSION: &[u8] = b"torno data 1\n";

/// Known files read from the database, and found ones written to it, at a time.
const PAGE: usize = 500;

/// Bytes of a file read at a time.
const CHUNK: usize = 256 * 1024;

/// What was read.
#[derive(Debug)]
pub(super) struct ReadAll {
    pub(super) digest: Digest,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// What is known of the files of a folder, gone through in the same order as the folder.
#[derive(Debug)]
pub(super) struct Ledger {
    registry: Arc<Registry>,
    source: String,
    runtime: Handle,
    known: VecDeque<DataFile>,
    /// The last that was read from the database; `None` when there are no more.
    after: Option<Vec<u8>>,
    found: Vec<DataFile>,
    gone: Vec<Vec<u8>>,
}

impl Ledger {
    /// From within a runtime, to be used on a thread outside of it.
    pub(super) fn new(registry: &Arc<Registry>, source: &str) -> Self {
        Self {
            registry: Arc::clone(registry),
            source: source.to_owned(),
            runtime: Handle::current(),
            known: VecDeque::new(),
            after: Some(Vec::new()),
            found: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn refill(&mut self) -> Result<(), ExecutorError> {
        if let (true, Some(after)) = (self.known.is_empty(), &self.after) {
            let files = self.registry.data_files(&self.source, after.clone(), PAGE);
            self.known = self.runtime.block_on(files)?.into();
            let more = self.known.len() == PAGE;
            self.after = self.known.back().filter(|_| more).map(|file| file.path.clone());
        }
        Ok(())
    }

    /// What is known of the file at `path`. Those before it are gone.
    fn recall(&mut self, path: &[u8], seen: Seen) -> Result<Option<Digest>, ExecutorError> {
        loop {
            self.refill()?;
            let Some(next) = self.known.front() else { return Ok(None) };
            if next.path.as_slice() > path {
                return Ok(None);
            }
            let Some(file) = self.known.pop_front() else { return Ok(None) };
            if file.path == path {
                let same = (file.size, file.modified, file.changed, file.inode)
                    == (seen.size, seen.modified, seen.changed, seen.inode);
                return Ok(same.then_some(file.digest));
            }
            self.gone.push(file.path);
            self.save(PAGE)?;
        }
    }

    /// Writes what is new when it is as much as `enough`.
    fn save(&mut self, enough: usize) -> Result<(), ExecutorError> {
        if self.found.len() + self.gone.len() < enough.max(1) {
            return Ok(());
        }
        let (found, gone) = (std::mem::take(&mut self.found), std::mem::take(&mut self.gone));
        Ok(self.runtime.block_on(self.registry.note_data_files(&self.source, found, gone))?)
    }

    /// Whatever is left is gone.
    fn finish(mut self) -> Result<(), ExecutorError> {
        loop {
            self.refill()?;
            let Some(file) = self.known.pop_front() else { return self.save(1) };
            self.gone.push(file.path);
            self.save(PAGE)?;
        }
    }
}

/// A folder being read.
pub(super) struct Tree<G, T> {
    ledger: Ledger,
    pace: Pace,
    go_on: G,
    tell: T,
    files: u64,
    bytes: u64,
}

impl<G: Fn() -> Result<(), WalkError>, T: Fn(u64)> Tree<G, T> {
    pub(super) fn new(ledger: Ledger, rate: ByteSize, go_on: G, tell: T) -> Self {
        Self { ledger, pace: Pace::new(rate), go_on, tell, files: 0, bytes: 0 }
    }

    /// Reads everything below `root`. Blocks.
    pub(super) fn read(mut self, root: &Path) -> Result<ReadAll, ExecutorError> {
        let mut folders = vec![begun()];
        // A failure that is none of the walk's.
        let mut failed = None;
        let walked = walk(root, |path, entry| {
            (self.go_on)()?;
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
            let (kind, text, size) = match entry {
                Entry::Folder => {
                    folders.push(begun());
                    return Ok(());
                }
                Entry::Left => {
                    let folder = folders.pop().map(|hasher| hasher.finish().to_string());
                    (b'd', folder.unwrap_or_default().into_bytes(), 0)
                }
                Entry::File(seen, opener) => match self.file(path, seen, &opener) {
                    Ok(digest) => (b'f', digest.to_string().into_bytes(), seen.size),
                    Err(ExecutorError::Walk(error)) => return Err(error),
                    Err(error) => {
                        failed = Some(error);
                        return Err(WalkError::Stopped);
                    }
                },
                Entry::Link(target) => (b'l', target, 0),
                Entry::Other => (b'o', Vec::new(), 0),
            };
            if let Some(folder) = folders.last_mut() {
                folder.update(&[kind]);
                for number in [name.len() as u64, size, text.len() as u64] {
                    folder.update(&number.to_be_bytes());
                }
                folder.update(name);
                folder.update(&text);
            }
            Ok(())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if let Err(error) = walked {
            // What was read need not be read again.
            self.ledger.save(1)?;
            return Err(error.into());
        }
        self.ledger.finish()?;
        let root = folders.pop().unwrap_or_else(begun);
        Ok(ReadAll { digest: root.finish(), files: self.files, bytes: self.bytes })
    }

    fn file(&mut self, path: &[u8], seen: Seen, opener: &Opener<'_>) -> Result<Digest, ExecutorError> {
        let key: Vec<u8> = path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect();
        self.files += 1;
        if let Some(known) = self.ledger.recall(&key, seen)? {
            self.bytes += seen.size;
            (self.tell)(self.bytes);
            return Ok(known);
        }
        let mut file = opener.open()?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut chunk = vec![0; CHUNK];
        loop {
            (self.go_on)()?;
            let read = file.read(&mut chunk).map_err(WalkError::Told)?;
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            self.bytes += read as u64;
            (self.tell)(self.bytes);
            self.pace.after(read as u64);
        }
        if !opener.is_unchanged(&file) {
            return Err(opener.changed().into());
        }
        let digest = hasher.finish();
        let Seen { size, modified, changed, inode, .. } = seen;
        self.ledger.found.push(DataFile {
            path: key,
            size,
            modified,
            changed,
            inode,
            digest: digest.clone(),
        });
        self.ledger.save(PAGE)?;
        Ok(digest)
    }
}

fn begun() -> Hasher {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(VERSION);
    hasher
}

/// Keeps reading below a rate.
struct Pace {
    rate: u64,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(rate: ByteSize) -> Self {
        Self { rate: rate.as_u64().max(1), since: Instant::now(), bytes: 0 }
    }

    /// Waits until so many more bytes are not too many.
    fn after(&mut self, bytes: u64) {
        self.bytes += bytes;
        let nanos = u128::from(self.bytes) * 1_000_000_000 / u128::from(self.rate);
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        std::thread::sleep(due.saturating_sub(self.since.elapsed()));
    }
}
