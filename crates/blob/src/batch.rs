//! Gathering a body into batches: few and large, in memory that a direct write takes as it is.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::Instant;

/// Bytes gathered at most before they are handed to threads that hash and write them. While two batches are hashed
/// and written the next is received, so an upload holds at most three of them.
pub(crate) const MAX_BATCH: usize = 1024 * 1024;

/// The same at least, when very many uploads share [`BATCHES`].
const MIN_BATCH: usize = 64 * 1024;

/// What the batches that are gathered at one time have together, as long as none is below [`MIN_BATCH`].
const BATCHES: usize = 4 * 1024 * 1024;

/// What offset, length and memory of a direct write are multiples of: the largest logical block of common disks.
pub(crate) const BLOCK: usize = 4096;

/// Batches up to this size have memory of their own, as much as they need; larger ones use that of others again.
const OWN: usize = 64 * 1024;

/// Memory kept for later batches, in bytes: twice what is gathered at one time, since as much is hashed and written.
const SPARE: usize = 2 * BATCHES;

/// Memory that is used again and again, and how many uploads share it.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    spare: Mutex<Vec<Aligned>>,
    /// Requests that bring bytes just now.
    receiving: AtomicUsize,
}

impl Batches {
    /// How many bytes the next batch may have for a session that has `offset`: up to the next whole multiple, since
    /// aligned writes are the fast ones.
    fn room(&self, offset: u64) -> usize {
        let share = BATCHES / self.receiving.load(Ordering::Relaxed).max(1);
        let batch = share.next_power_of_two().clamp(MIN_BATCH, MAX_BATCH);
        let past = usize::try_from(offset % batch as u64).unwrap_or(0);
        batch - past
    }

    fn take(&self, size: usize) -> Aligned {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = spare.iter().enumerate().filter(|(_, aligned)| aligned.room() >= size);
        match fits.min_by_key(|(_, aligned)| aligned.room()) {
            Some((at, _)) => spare.swap_remove(at),
            None => Aligned::of(size),
        }
    }

    fn give_back(&self, aligned: Aligned) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = spare.iter().map(Aligned::room).sum();
        if kept + aligned.room() <= SPARE {
            spare.push(aligned);
        }
    }
}

/// Bytes of a body that follow one another.
#[derive(Debug)]
pub(crate) struct Batch {
    memory: Memory,
    length: usize,
    batches: Arc<Batches>,
}

#[derive(Debug)]
enum Memory {
    Own(Vec<u8>),
    Aligned(Aligned),
}

impl Batch {
    fn new(batches: &Arc<Batches>) -> Self {
        Self { memory: Memory::Own(Vec::new()), length: 0, batches: Arc::clone(batches) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Own(bytes) => bytes,
            Memory::Aligned(aligned) => aligned.bytes(self.length),
        }
    }

    /// Adds bytes; the batch will have at most `room` of them.
    fn add(&mut self, bytes: &[u8], room: usize) {
        if let Memory::Own(own) = &mut self.memory {
            if own.len() + bytes.len() <= OWN.min(room) {
                own.extend_from_slice(bytes);
                self.length = own.len();
                return;
            }
            let own = mem::take(own);
            self.length = 0;
            self.memory = Memory::Aligned(self.batches.take(room));
            self.copy(&own);
        }
        self.copy(bytes);
    }

    fn copy(&mut self, bytes: &[u8]) {
        if let Memory::Aligned(aligned) = &mut self.memory {
            self.length += aligned.put(self.length, bytes);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Memory::Aligned(aligned) = mem::replace(&mut self.memory, Memory::Own(Vec::new())) {
            self.batches.give_back(aligned);
        }
    }
}

/// Memory that begins at a block's boundary.
#[derive(Debug)]
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn of(size: usize) -> Self {
        let memory = vec![0; size + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, start }
    }

    fn room(&self) -> usize {
        self.memory.len() - BLOCK
    }

    fn bytes(&self, length: usize) -> &[u8] {
        self.memory.get(self.start..self.start + length).unwrap_or_default()
    }

    /// Copies bytes to `at`, where they must fit; how many.
    fn put(&mut self, at: usize, bytes: &[u8]) -> usize {
        /// The system's library copies more than one or two kilobytes with `rep movsb`, which here takes several times as
        /// long (`docs/PERFORMANCE.md`).
        const PIECE: usize = 1024;
        let start = self.start + at;
        let Some(room) = self.memory.get_mut(start..start + bytes.len()) else { return 0 };
        for (to, from) in room.chunks_mut(PIECE).zip(bytes.chunks(PIECE)) {
            to.copy_from_slice(from);
        }
        bytes.len()
    }
}

/// Why a batch has no successor, or that it has.
#[derive(Debug)]
pub(crate) enum End {
    NotYet,
    Complete,
    Cut(Box<dyn std::error::Error + Send + Sync>),
}

/// A body on its way into batches. It counts among those that bring bytes for as long as it is there.
pub(crate) struct Gathering<S> {
    body: S,
    /// What came with the batch before and had no room in it.
    rest: Bytes,
    /// How long a batch may take from its first byte on.
    patience: Duration,
    batches: Arc<Batches>,
}

impl<S> Gathering<S> {
    pub(crate) fn new(body: S, patience: Duration, batches: &Arc<Batches>) -> Self {
        batches.receiving.fetch_add(1, Ordering::Relaxed);
        Self { body, rest: Bytes::new(), patience, batches: Arc::clone(batches) }
    }
}

impl<S> Drop for Gathering<S> {
    fn drop(&mut self) {
        self.batches.receiving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S, E> Gathering<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// As many bytes as there is room for behind `offset`, or what there is left, or what came in time.
    ///
    /// Each piece is copied when it comes, so that the connection can use its memory for the next one.
    pub(crate) async fn batch(&mut self, offset: u64) -> (Batch, End) {
        let room = self.batches.room(offset);
        let mut batch = Batch::new(&self.batches);
        let mut until = Instant::now() + self.patience;
        loop {
            let mut chunk = mem::take(&mut self.rest);
            let left = room - batch.length;
            if chunk.len() >= left {
                self.rest = chunk.split_off(left);
                batch.add(&chunk, room);
                return (batch, End::NotYet);
            }
            if !chunk.is_empty() {
                batch.add(&chunk, room);
            }
            drop(chunk);
            match tokio::time::timeout_at(until, self.body.next()).await {
                Ok(Some(Ok(next))) => self.rest = next,
                Ok(Some(Err(error))) => return (batch, End::Cut(error.into())),
                Ok(None) => return (batch, End::Complete),
                Err(_) if batch.length == 0 => until = Instant::now() + self.patience,
                Err(_) => return (batch, End::NotYet),
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "patterns of bytes are cut on purpose")]
mod tests {
    use std::io;

    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the pieces, the batches are the body; all but the last are as large as they may be, and memory that
        /// is used again is aligned.
        #[test]
        fn batches_are_the_body(sizes in prop::collection::vec(0..700_000_usize, 0..8), before in 0..100_000_u64) {
            let pieces: Vec<Bytes> =
                sizes.iter().map(|size| (0..*size).map(|at| (at * 31 + size) as u8).collect()).collect();
            let body = stream::iter(pieces.clone().into_iter().map(Ok::<_, io::Error>));
            let batches = Arc::new(Batches::default());
            let mut gathering = Gathering::new(body, Duration::from_mins(1), &batches);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
            let mut found = Vec::new();
            runtime.block_on(async {
                loop {
                    let offset = before + found.len() as u64;
                    let (batch, end) = gathering.batch(offset).await;
                    found.extend_from_slice(batch.bytes());
                    if batch.bytes().len() > OWN {
                        assert_eq!(batch.bytes().as_ptr().align_offset(BLOCK), 0);
                    }
                    match end {
                        End::NotYet => assert_eq!(batch.bytes().len(), batches.room(offset)),
                        End::Complete => return,
                        End::Cut(error) => panic!("{error}"),
                    }
                }
            });
            prop_assert!(found == pieces.concat());
            drop(gathering);
            prop_assert_eq!(batches.receiving.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn many_uploads_share_memory() {
        let batches = Arc::new(Batches::default());
        let bodies =
            |count| (0..count).map(|_| Gathering::new((), Duration::ZERO, &batches)).collect::<Vec<_>>();
        assert_eq!(batches.room(0), MAX_BATCH);
        let few = bodies(8);
        assert_eq!(batches.room(0), BATCHES / 8);
        let many = bodies(10_000);
        assert_eq!(batches.room(0), MIN_BATCH);
        drop((few, many));
        assert_eq!(batches.room(4096), MAX_BATCH - 4096);
    }
}
