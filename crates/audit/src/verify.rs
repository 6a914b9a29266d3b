//! Is the chain whole?

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{
    AuditError, Hash, Segment, Segments,
    line::{Kind, Line, Link},
    read::Pieces,
};

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Lines that are in their place, or at least whole.
    pub lines: u64,
    /// Files.
    pub segments: usize,
    /// The number of the first line, and the hash that it continues: that of a line in a file that was moved away, or
    /// nothing but zeros for the very first.
    pub first: Option<(u64, Hash)>,
    /// The number of the last line, its hash, and its time.
    pub last: Option<(u64, Hash, String)>,
    /// Whether the last line says that the record goes on in another file.
    pub goes_on: bool,
    /// Whether the line was found whose hash was looked for, or is the one right before the first.
    pub head_found: bool,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A line that was not finished, as the one after it says: its process was killed. Nothing is wrong with that.
    Tear(Place),
    /// The last line is not finished. Either somebody writes it no more, and whoever writes next says so, or the end of the
    /// record was cut off.
    Unfinished(Place),
    /// What is no line: it was changed, or the power failed while it was written.
    Damaged(Place),
    /// A line that does not continue the one before.
    Broken {
        /// Where.
        place: Place,
        /// The number of the line before.
        after: u64,
        /// The number of this one.
        found: u64,
    },
    /// A file whose first line is not the one that its name tells of.
    Misnamed(Place),
    /// A file ends before the line that says where the record goes on.
    CutOff(Place),
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name.
    pub segment: String,
    /// Which line of it, from 1.
    pub line: u64,
}

impl Finding {
    /// Whether somebody has to ask why.
    pub fn is_problem(&self) -> bool {
        !matches!(self, Self::Tear(_) | Self::Unfinished(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.segment, self.line)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tear(place) => {
                write!(f, "{place}: was not finished when its process was killed, as the next says")
            }
            Self::Unfinished(place) => {
                write!(f, "{place}: is not finished; its process was killed, or the rest was cut off")
            }
            Self::Damaged(place) => write!(f, "{place}: is not what was written"),
            Self::Broken { place, after, found } if *found > after + 1 => {
                write!(f, "{place}: is number {found} after {after}; what was in between is missing")
            }
            Self::Broken { place, after, found } if *found == after + 1 => {
                write!(f, "{place}: number {found} does not continue {after} as that is now")
            }
            Self::Broken { place, after, found } => {
                write!(f, "{place}: is number {found} after {after}; it does not belong there")
            }
            Self::Misnamed(place) => write!(f, "{place}: does not fit the name of its file"),
            Self::CutOff(place) => write!(f, "{place}: the end of this file is missing"),
        }
    }
}

/// Looks whether every line continues the one before, and for the line with the hash `head`; `found` is told what is
/// strange. Blocks.
pub fn verify(
    segments: &Segments,
    head: Option<Hash>,
    mut found: impl FnMut(Finding),
) -> Result<Verified, AuditError> {
    let mut check = Check { verified: Verified::default(), last: None, head };
    let mut left = segments.0.len();
    for segment in segments {
        left -= 1;
        check.segment(segment, left == 0, &mut found)?;
    }
    Ok(check.verified)
}

/// How far a check is.
struct Check {
    verified: Verified,
    last: Option<Link>,
    head: Option<Hash>,
}

/// Bytes that are no line.
#[derive(Default)]
struct Strange {
    bytes: u64,
    ends: u64,
    hash: Sha256,
}

impl Strange {
    fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.ends += u64::from(piece.ends_with(b"\n"));
        self.hash.update(piece);
    }

    /// Whether a line tells of these very bytes.
    fn is_told_by(&self, line: &Line) -> bool {
        let told = Kind::Torn { bytes: self.bytes, sha256: hex::encode(self.hash.clone().finalize()) };
        line.kind == told
    }
}

impl Check {
    fn segment(
        &mut self,
        segment: &Segment,
        is_last: bool,
        found: &mut impl FnMut(Finding),
    ) -> Result<(), AuditError> {
        self.verified.segments += 1;
        let name = segment.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = |line| Place { segment: name.clone(), line };
        let (mut number, mut lines) = (0, 0);
        let mut strange = Strange::default();
        let mut pieces = Pieces::open(segment)?;
        let mut closed = false;
        while let Some(piece) = pieces.next_piece().map_err(AuditError::of(&segment.path))? {
            number += 1;
            let Some(line) = piece.strip_suffix(b"\n").and_then(Line::read) else {
                strange.add(piece);
                continue;
            };
            let strange = std::mem::take(&mut strange);
            let is_continued = self.last.is_none_or(|last| line.continues(&last));
            if strange.bytes > 0 {
                // One unfinished line has one end: the one that it was given by whoever came next.
                let torn = is_continued && strange.is_told_by(&line);
                let finding = if torn && strange.ends == 1 { Finding::Tear } else { Finding::Damaged };
                found(finding(place(number - 1)));
            } else if let (Some(last), false) = (self.last, is_continued) {
                found(Finding::Broken { place: place(number), after: last.seq, found: line.link.seq });
            }
            if self.last.is_none() {
                if line.link.seq <= 1 && !line.continues(&Link::START) {
                    found(Finding::Broken { place: place(number), after: 0, found: line.link.seq });
                }
                self.verified.head_found |= self.head == Some(line.prev);
                self.verified.first = Some((line.link.seq, line.prev));
            }
            if lines == 0 && strange.bytes == 0 && line.link.seq != segment.first {
                found(Finding::Misnamed(place(number)));
            }
            lines += 1;
            closed = line.kind == Kind::Closed;
            self.verified.head_found |= self.head == Some(line.link.hash);
            self.verified.last = Some((line.link.seq, line.link.hash, line.at));
            self.last = Some(line.link);
        }
        self.verified.lines += lines;
        if strange.bytes > 0 {
            let finding = if is_last && strange.ends == 0 { Finding::Unfinished } else { Finding::Damaged };
            found(finding(place(number)));
        }
        if !is_last && !closed {
            found(Finding::CutOff(place(number)));
        }
        if lines > 0 {
            self.verified.goes_on = closed;
        } else if is_last {
            // A file that has just been made has no line yet.
            self.verified.goes_on = false;
        }
        Ok(())
    }
}
