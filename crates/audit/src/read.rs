//! Reading the record back.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Take},
};

use serde_json::{Map, Value};

use crate::{
    AuditError, Hash, Segment, Segments,
    line::{Line, MAX_LINE},
    tail::Tail,
};

/// A line of the record.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it is written, without its end.
    pub text: String,
    /// What it says.
    pub fields: Map<String, Value>,
}

/// What is read of a file.
#[derive(Clone, Debug)]
pub enum Span {
    /// A line whose hash is that of its text.
    Entry(Entry),
    /// Something else.
    Strange {
        /// Where.
        segment: Segment,
    },
}

impl Entry {
    /// What a field says, if that is text.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// What a field says, if that is a number.
    pub fn number_of(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.as_u64()
    }
}

/// Every line, the oldest first. Whether the chain is whole, [`crate::verify`] tells.
pub fn read(segments: &Segments) -> impl Iterator<Item = Result<Span, AuditError>> + '_ {
    segments.iter().flat_map(|segment| match Pieces::open(segment) {
        Ok(pieces) => Of::Pieces(segment, pieces),
        Err(error) => Of::Error(Some(error)),
    })
}

enum Of<'a> {
    Pieces(&'a Segment, Pieces),
    Error(Option<AuditError>),
}

impl Iterator for Of<'_> {
    type Item = Result<Span, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Error(error) => error.take().map(Err),
            Self::Pieces(segment, pieces) => match pieces.next_piece() {
                Ok(piece) => {
                    let piece = piece?;
                    let line = piece.strip_suffix(b"\n").filter(|line| Line::read(line).is_some());
                    let entry = line.and_then(|line| {
                        let text = String::from_utf8(line.to_vec()).ok()?;
                        Some(Entry { fields: serde_json::from_str(&text).ok()?, text })
                    });
                    Some(Ok(entry.map_or(Span::Strange { segment: segment.clone() }, Span::Entry)))
                }
                Err(error) => {
                    let error = AuditError::of(&segment.path)(error);
                    *self = Self::Error(None);
                    Some(Err(error))
                }
            },
        }
    }
}

/// The number and the hash of the last line; `None` if there is none. Whether the rest is whole, [`crate::verify`] tells.
pub fn head(segments: &Segments) -> Result<Option<(u64, Hash)>, AuditError> {
    for Segment { path, length, .. } in segments.iter().rev() {
        let mut file = File::open(path).map_err(AuditError::of(path))?;
        if let Some(line) = Tail::find(&mut file, *length).map_err(AuditError::of(path))?.last {
            return Ok(Some((line.link.seq, line.link.hash)));
        }
    }
    Ok(None)
}

/// A segment, piece by piece: a line with its end each, or what is too long for one.
pub(crate) struct Pieces {
    reader: Take<BufReader<File>>,
    piece: Vec<u8>,
}

impl Pieces {
    pub(crate) fn open(segment: &Segment) -> Result<Self, AuditError> {
        let file = File::open(&segment.path).map_err(AuditError::of(&segment.path))?;
        Ok(Self { reader: BufReader::new(file).take(segment.length), piece: Vec::new() })
    }

    /// The next piece; `None` at the end.
    pub(crate) fn next_piece(&mut self) -> io::Result<Option<&[u8]>> {
        self.piece.clear();
        (&mut self.reader).take(MAX_LINE as u64).read_until(b'\n', &mut self.piece)?;
        Ok(if self.piece.is_empty() { None } else { Some(&self.piece) })
    }
}
