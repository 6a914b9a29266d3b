//! A tar archive from someone who may lie, read block by block (POSIX.1-2008, pax; the GNU tar manual).
//!
//! The engine writes plain archives; whatever is not plain ends the reading, because two readers that understand
//! a doubtful archive differently are how one smuggles something past the other.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{Bounds, CollectError};

const BLOCK: usize = 512;

/// The longest extended header read, in bytes: room for a path and a link of 4096 bytes each, and for the
/// attributes a file system keeps beside a file. A run cannot write longer ones.
const MAX_EXTENSION: u64 = 1024 * 1024;

/// What the archive may hold of headers and padding for each entry: an extended header of a usual size, its
/// header, the entry's header and the padding of both.
const OVERHEAD: u64 = 64 * 1024;

/// What an archive may hold beside its entries: its end is padded.
const SLACK: u64 = 4 * 1024 * 1024;

/// A member of the archive. Its bytes come next.
#[derive(Debug)]
pub(super) struct Member {
    /// The path as it stands there.
    pub path: Vec<u8>,
    pub kind: EntryType,
    pub mode: u32,
    /// How many bytes follow.
    pub size: u64,
    /// Whether an extended header says that those bytes are not the file's.
    pub sparse: bool,
}

/// The archive.
pub(super) struct Archive<R> {
    source: io::Take<R>,
}

/// What extended headers say of the member behind them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
    /// How many bytes of extended headers stood before this member.
    bytes: u64,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(source: R, bounds: Bounds) -> Self {
        let entries = bounds.entries.saturating_add(2).saturating_mul(OVERHEAD);
        let most = bounds.bytes.saturating_add(entries).saturating_add(SLACK);
        Self { source: source.take(most) }
    }

    /// The next member, or `None` at the end of the archive. The bytes of the one before must have been read.
    pub(super) fn next(&mut self) -> Result<Option<Member>, CollectError> {
        let mut extension = Extension::default();
        loop {
            let mut block = [0; BLOCK];
            self.read(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                // An archive that was cut off does not get here: it has no block of zeros.
                return if extension.bytes == 0 {
                    Ok(None)
                } else {
                    Err(malformed("it ends in an extended header"))
                };
            }
            let header = Header::from_byte_slice(&block);
            check(header)?;
            let size = header.entry_size().map_err(|_| malformed("a size is not a number"))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let text = self.extension(size, &mut extension)?;
                    pax(&text, &mut extension)?;
                }
                EntryType::GNULongName => {
                    let mut text = self.extension(size, &mut extension)?;
                    if let Some(end) = text.iter().position(|byte| *byte == 0) {
                        text.truncate(end);
                    }
                    extension.path = Some(text);
                }
                // A link's target is of no use here, and neither is what holds for all members: the engine says
                // nothing of that kind that matters.
                EntryType::GNULongLink => {
                    self.extension(size, &mut extension)?;
                }
                EntryType::XGlobalHeader => {
                    let text = self.extension(size, &mut extension)?;
                    let mut global = Extension::default();
                    pax(&text, &mut global)?;
                    if global.path.is_some() || global.size.is_some() || global.sparse {
                        return Err(malformed("a header for all members names one"));
                    }
                }
                _ => return self.member(header, size, extension).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, size: u64, extension: Extension) -> Result<Member, CollectError> {
        let kind = match header.entry_type() {
            // Another name for the same thing.
            EntryType::Continuous => EntryType::Regular,
            kind => kind,
        };
        if kind == EntryType::GNUSparse {
            self.skip_map(header)?;
        }
        let size = extension.size.unwrap_or(size);
        let has_bytes = !matches!(
            kind,
            EntryType::Directory
                | EntryType::Link
                | EntryType::Symlink
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo
        );
        if size > 0 && !has_bytes {
            return Err(malformed("something that has no bytes claims to have some"));
        }
        Ok(Member {
            path: extension.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            kind,
            mode: header.mode().map_err(|_| malformed("a mode is not a number"))?,
            size,
            sparse: extension.sparse,
        })
    }

    /// The map of a sparse file may go on behind its header.
    fn skip_map(&mut self, header: &Header) -> Result<(), CollectError> {
        let mut more = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        while more {
            let mut map = tar::GnuExtSparseHeader::new();
            self.read(map.as_mut_bytes())?;
            more = map.is_extended();
        }
        Ok(())
    }

    fn extension(&mut self, size: u64, extension: &mut Extension) -> Result<Vec<u8>, CollectError> {
        extension.bytes = extension.bytes.saturating_add(size).saturating_add(BLOCK as u64);
        let length = usize::try_from(size).ok().filter(|_| extension.bytes <= MAX_EXTENSION);
        let length = length.ok_or(malformed("an extended header is too long"))?;
        let mut text = vec![0; length];
        self.read(&mut text)?;
        self.pad(size)?;
        Ok(text)
    }

    /// Fills `into` with the bytes that come next.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<(), CollectError> {
        self.source.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => malformed("it ends too early or is too long"),
            _ => CollectError::Io(error),
        })
    }

    /// Passes over the bytes of a member and what fills its last block.
    pub(super) fn skip(&mut self, size: u64) -> Result<(), CollectError> {
        let skipped = io::copy(&mut (&mut self.source).take(size), &mut io::sink())?;
        if skipped < size {
            return Err(malformed("it ends too early or is too long"));
        }
        self.pad(size)
    }

    /// Passes over what fills the last block of a member of this size.
    pub(super) fn pad(&mut self, size: u64) -> Result<(), CollectError> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
        let mut padding = [0; BLOCK];
        let length = if over == 0 { 0 } else { BLOCK - over };
        self.read(padding.get_mut(..length).unwrap_or_default())
    }
}

/// The sum of a header's bytes, with its own field counted as blanks.
fn check(header: &Header) -> Result<(), CollectError> {
    let bytes = header.as_bytes().iter().enumerate();
    let sum: u32 = bytes.map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    let right = header.cksum().is_ok_and(|claimed| claimed == sum);
    if right { Ok(()) } else { Err(malformed("a header's sum is wrong")) }
}

/// Records are `LENGTH KEY=VALUE` and a line break, which a value may hold as well: only the length tells.
fn pax(mut text: &[u8], extension: &mut Extension) -> Result<(), CollectError> {
    while !text.is_empty() {
        let (key, value, rest) = record(text).ok_or(malformed("an extended header cannot be read"))?;
        match key {
            b"path" => extension.path = Some(value.to_owned()),
            b"size" => {
                let number = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                extension.size = Some(number.ok_or(malformed("a size is not a number"))?);
            }
            key if key.starts_with(b"GNU.sparse.") => extension.sparse = true,
            _ => {}
        }
        text = rest;
    }
    Ok(())
}

/// The key and value of the first record and what comes behind it.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = text.iter().position(|byte| *byte == b' ')?;
    let digits = text.get(..blank).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair.get(..equals)?, pair.get(equals + 1..)?, rest))
}

fn malformed(what: &'static str) -> CollectError {
    CollectError::Malformed(what)
}
