//! The end of a segment: its last line, and what a writer that was killed has left behind it.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
};

use sha2::{Digest as _, Sha256};

use crate::line::Line;

/// What is looked at first: many lines. If none of them is whole, more.
const WINDOW: u64 = 4 * crate::line::MAX_LINE as u64;

/// How a segment ends.
#[derive(Debug)]
pub(crate) struct Tail {
    /// The last line that is whole; `None` if there is none.
    pub(crate) last: Option<Line>,
    /// What is to be done before another is added.
    pub(crate) mend: Mend,
}

/// What is behind the last whole line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mend {
    /// Nothing.
    Nothing,
    /// Only its end is missing.
    End,
    /// Bytes that are no line. They stay, and the next line says so.
    Tear {
        /// How many, with the end that they are given if they have none.
        bytes: u64,
        /// The hash of these.
        sha256: String,
        /// Whether they have an end of their own.
        ended: Ended,
    },
}

/// Whether bytes end as a line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Yes,
    No,
}

impl Tail {
    /// Looks at a segment of so many bytes.
    pub(crate) fn find(file: &mut File, length: u64) -> io::Result<Self> {
        let mut window = WINDOW;
        loop {
            let from = length.saturating_sub(window);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            Read::take(&mut *file, length - from).read_to_end(&mut bytes)?;
            if let Some(tail) = Self::of(&bytes, from == 0) {
                return Ok(tail);
            }
            window = window.saturating_mul(4);
        }
    }

    /// The same for the last bytes of a segment, `None` if it takes more of them.
    fn of(bytes: &[u8], whole: bool) -> Option<Self> {
        let mut end = bytes.len();
        let mut ended = false;
        // Backwards over all that end where a line could, the bytes behind the last end first.
        loop {
            let before = bytes.get(..end)?.iter().rposition(|byte| *byte == b'\n');
            let from = before.map_or(0, |place| place + 1);
            let complete = before.is_some() || whole;
            if let Some(line) = bytes.get(from..end).filter(|_| complete).and_then(Line::read) {
                let rest = bytes.get(end..)?;
                let mend = if ended { Mend::of(rest.get(1..)?) } else { Mend::End };
                return Some(Self { last: Some(line), mend });
            }
            match before {
                Some(place) => end = place,
                None if whole => return Some(Self { last: None, mend: Mend::of(bytes) }),
                None => return None,
            }
            ended = true;
        }
    }
}

impl Mend {
    fn of(rest: &[u8]) -> Self {
        if rest.is_empty() {
            return Self::Nothing;
        }
        let (ended, end): (_, &[u8]) =
            if rest.ends_with(b"\n") { (Ended::Yes, b"") } else { (Ended::No, b"\n") };
        let sha256 = hex::encode(Sha256::new().chain_update(rest).chain_update(end).finalize());
        Self::Tear { bytes: (rest.len() + end.len()) as u64, sha256, ended }
    }
}
