//! What a run's container printed: the end of each stream, and when its lines were printed.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::MetadataError;

/// The end of what a container printed, as the engine kept it, for the admin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunLog {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// When it was printed, in that order. The pieces of a stream lie behind each other, the last at its end; what is
    /// before the first has no time.
    pub pieces: Vec<Printed>,
}

/// Some bytes of a stream that were printed at one time: a line or, of a long one, a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Printed {
    /// When, by the engine's clock.
    pub at: Timestamp,
    /// To where.
    pub stream: Stream,
    /// How many bytes.
    pub length: usize,
}

/// Where something is printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// A line that was printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When its first piece was.
    pub at: Timestamp,
    /// To where.
    pub stream: Stream,
    /// What it says, without its end.
    pub text: Cow<'a, [u8]>,
}

impl RunLog {
    /// The lines whose time is known, in the order in which they began.
    pub fn lines(&self) -> Vec<Line<'_>> {
        let mut lines: Vec<Line<'_>> = Vec::new();
        // Where the next piece of each stream begins, and which line it goes on with.
        let mut rest =
            [(Stream::Stdout, &*self.stdout), (Stream::Stderr, &*self.stderr)].map(|(stream, bytes)| {
                let timed = self.pieces.iter().filter(|piece| piece.stream == stream);
                let timed: usize = timed.map(|piece| piece.length).sum();
                (bytes.get(bytes.len().saturating_sub(timed)..).unwrap_or_default(), None::<usize>)
            });
        for piece in &self.pieces {
            let [stdout, stderr] = &mut rest;
            let (bytes, open) = match piece.stream {
                Stream::Stdout => stdout,
                Stream::Stderr => stderr,
            };
            let (text, behind) = bytes.split_at(piece.length.min(bytes.len()));
            *bytes = behind;
            let (text, ends) = match text.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (text, false),
            };
            let line = open.and_then(|open| lines.get_mut(open));
            if let Some(line) = line {
                line.text.to_mut().extend_from_slice(text);
            } else {
                lines.push(Line { at: piece.at, stream: piece.stream, text: text.into() });
                *open = lines.len().checked_sub(1);
            }
            if ends {
                *open = None;
            }
        }
        lines
    }

    /// The times as they are kept.
    pub(crate) fn times(&self) -> Result<String, MetadataError> {
        let kept = self.pieces.iter().map(|piece| {
            Kept(piece.at.as_millisecond(), u8::from(piece.stream == Stream::Stderr), piece.length)
        });
        serde_json::to_string(&kept.collect::<Vec<_>>()).map_err(|_| MetadataError::Corrupt("log_times"))
    }

    /// With times that were kept.
    pub(crate) fn with_times(mut self, times: Option<&str>) -> Result<Self, MetadataError> {
        let corrupt = || MetadataError::Corrupt("log_times");
        let kept: Vec<Kept> = serde_json::from_str(times.unwrap_or("[]")).map_err(|_| corrupt())?;
        let pieces = kept.into_iter().map(|Kept(at, stream, length)| {
            let stream = match stream {
                0 => Stream::Stdout,
                1 => Stream::Stderr,
                _ => return Err(corrupt()),
            };
            Ok(Printed { at: Timestamp::from_millisecond(at).map_err(|_| corrupt())?, stream, length })
        });
        self.pieces = pieces.collect::<Result<_, _>>()?;
        Ok(self)
    }
}

/// A piece as it is kept: milliseconds since 1970, 0 or 1, bytes.
#[derive(Serialize, Deserialize)]
struct Kept(i64, u8, usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).expect("in range")
    }

    fn log() -> RunLog {
        let piece = |millis, stream, length| Printed { at: at(millis), stream, length };
        RunLog {
            stdout: b"old\nab\ncd-ef\n".to_vec(),
            stderr: b"x\ny".to_vec(),
            pieces: vec![
                piece(1, Stream::Stdout, 3),
                piece(2, Stream::Stdout, 3),
                piece(3, Stream::Stderr, 2),
                piece(4, Stream::Stdout, 3),
                piece(5, Stream::Stderr, 1),
            ],
        }
    }

    #[test]
    fn lines_are_put_together_from_their_pieces() {
        let log = log();
        let lines: Vec<_> =
            log.lines().into_iter().map(|line| (line.at, line.stream, line.text.into_owned())).collect();
        let expected = [
            (1, Stream::Stdout, "ab"),
            (2, Stream::Stdout, "cd-ef"),
            (3, Stream::Stderr, "x"),
            (5, Stream::Stderr, "y"),
        ];
        assert_eq!(lines, expected.map(|(millis, stream, text)| (at(millis), stream, text.into())));
    }

    #[test]
    fn times_are_kept() {
        let log = log();
        let times = log.times().expect("JSON");
        let without = RunLog { pieces: Vec::new(), ..log.clone() };
        assert_eq!(without.clone().with_times(Some(&times)).expect("as written"), log);
        assert_eq!(without.clone().with_times(None).expect("none"), without);
        for wrong in ["[[1,2,3]]", "[[1,0,-1]]", "x"] {
            assert!(without.clone().with_times(Some(wrong)).is_err(), "{wrong}");
        }
        // Pieces that are longer than their stream do no harm.
        let short = RunLog { stdout: b"a".to_vec(), ..log };
        assert_eq!(short.lines().first().map(|line| line.text.clone()), Some(Cow::Borrowed(&b"a"[..])));
    }
}
