//! The end of what a container printed, gathered from the engine's frames, each of which has its time.

use std::collections::VecDeque;

use jiff::Timestamp;
use torno_registry::{Printed, RunLog, Stream};

/// Pieces of each stream whose times are kept: enough to see where the time went, and a bound on what a container that
/// prints empty lines only makes the host remember.
const TIMED: usize = 32 * 1024;

/// What is kept of both streams.
pub(super) struct Tails {
    stdout: Tail,
    stderr: Tail,
    /// Frames seen.
    seen: u64,
}

/// The last bytes of a stream.
struct Tail {
    keep: usize,
    bytes: VecDeque<u8>,
    /// Bytes before the first piece.
    untimed: usize,
    pieces: VecDeque<Piece>,
}

struct Piece {
    number: u64,
    at: Timestamp,
    length: usize,
}

impl Tails {
    /// At most `keep` bytes of each.
    pub(super) fn new(keep: usize) -> Self {
        Self { stdout: Tail::new(keep), stderr: Tail::new(keep), seen: 0 }
    }

    /// Adds what the engine read from a stream at one time.
    pub(super) fn push(&mut self, stream: Stream, frame: &[u8]) {
        self.seen += 1;
        let (at, text) = split(frame);
        let tail = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        tail.push(self.seen, at, text);
    }

    pub(super) fn into_log(self) -> RunLog {
        let streams = [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)];
        let mut pieces: Vec<_> = streams
            .into_iter()
            .flat_map(|(stream, tail)| tail.pieces.iter().map(move |piece| (piece, stream)))
            .collect();
        pieces.sort_by_key(|(piece, _)| piece.number);
        let printed = |(piece, stream): &(&Piece, Stream)| Printed {
            at: piece.at,
            stream: *stream,
            length: piece.length,
        };
        let pieces = pieces.iter().map(printed).collect();
        RunLog { stdout: self.stdout.bytes.into(), stderr: self.stderr.bytes.into(), pieces }
    }
}

/// The time that the engine writes before what was printed. Without one it belongs to what came before.
fn split(frame: &[u8]) -> (Option<Timestamp>, &[u8]) {
    /// The longest that RFC 3339 allows, with a nanosecond and an offset.
    const LONGEST: usize = 35;
    let blank = frame.iter().take(LONGEST + 1).position(|byte| *byte == b' ');
    let Some((time, text)) = blank.and_then(|blank| frame.split_at_checked(blank)) else {
        return (None, frame);
    };
    let time = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
    match time {
        Some(_) => (time, text.get(1..).unwrap_or_default()),
        None => (None, frame),
    }
}

impl Tail {
    fn new(keep: usize) -> Self {
        Self { keep, bytes: VecDeque::new(), untimed: 0, pieces: VecDeque::new() }
    }

    fn push(&mut self, number: u64, at: Option<Timestamp>, text: &[u8]) {
        let text = text.get(text.len().saturating_sub(self.keep)..).unwrap_or_default();
        let over = (self.bytes.len() + text.len()).saturating_sub(self.keep).min(self.bytes.len());
        self.bytes.drain(..over);
        self.forget(over);
        self.bytes.extend(text);
        match (at, self.pieces.back_mut()) {
            (Some(at), _) => self.pieces.push_back(Piece { number, at, length: text.len() }),
            (None, Some(last)) => last.length += text.len(),
            (None, None) => self.untimed += text.len(),
        }
        if self.pieces.len() > TIMED {
            self.untimed += self.pieces.pop_front().map_or(0, |first| first.length);
        }
    }

    /// Takes bytes away from the front of the pieces.
    fn forget(&mut self, mut over: usize) {
        let untimed = over.min(self.untimed);
        self.untimed -= untimed;
        over -= untimed;
        while over > 0 {
            let Some(first) = self.pieces.front_mut() else { return };
            if first.length > over {
                first.length -= over;
                return;
            }
            over -= first.length;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log of frames, which begin with `1 ` for standard output and with `2 ` for standard error.
    fn log(keep: usize, frames: &[&str]) -> RunLog {
        let mut tails = Tails::new(keep);
        for frame in frames {
            let stream = if frame.starts_with('1') { Stream::Stdout } else { Stream::Stderr };
            tails.push(stream, frame.get(2..).expect("a frame").as_bytes());
        }
        tails.into_log()
    }

    fn lines(log: &RunLog) -> Vec<String> {
        let shown = |line: &torno_registry::Line<'_>| {
            format!("{} {} {}", line.at, line.stream, String::from_utf8_lossy(&line.text))
        };
        log.lines().iter().map(shown).collect()
    }

    #[test]
    fn each_stream_keeps_its_end_and_its_times() {
        let frames = [
            "1 2026-01-02T03:04:05.000000001Z abc\n",
            "2 2026-01-02T03:04:06Z e\n",
            "1 2026-01-02T03:04:07Z de",
            "1 2026-01-02T03:04:08Z f\n",
        ];
        let whole = log(100, &frames);
        assert_eq!((&*whole.stdout, &*whole.stderr), (&b"abc\ndef\n"[..], &b"e\n"[..]));
        let expected = [
            "2026-01-02T03:04:05.000000001Z stdout abc",
            "2026-01-02T03:04:06Z stderr e",
            "2026-01-02T03:04:07Z stdout def",
        ];
        assert_eq!(lines(&whole), expected);
        // At the limit, and one below it.
        assert_eq!(log(8, &frames), whole);
        let cut = log(7, &frames);
        assert_eq!(cut.stdout, b"bc\ndef\n");
        assert_eq!(lines(&cut)[0], "2026-01-02T03:04:05.000000001Z stdout bc");
        let cut = log(3, &frames);
        assert_eq!(cut.stdout, b"ef\n");
        assert_eq!(lines(&cut), ["2026-01-02T03:04:06Z stderr e", "2026-01-02T03:04:07Z stdout ef"]);
        let cut = log(1, &["1 2026-01-02T03:04:05Z abc"]);
        assert_eq!((&*cut.stdout, cut.pieces.len()), (&b"c"[..], 1));
    }

    #[test]
    fn what_has_no_time_belongs_to_what_came_before() {
        let found =
            log(100, &["1 no time\n", "1 2026-01-02T03:04:05Z a", "1 b\n", "1 2026-01-02T03:04:06Z \n"]);
        assert_eq!(found.stdout, b"no time\nab\n\n");
        assert_eq!(lines(&found), ["2026-01-02T03:04:05Z stdout ab", "2026-01-02T03:04:06Z stdout "]);
        assert_eq!(log(100, &["1 2026-01-02T03:04:05Z"]).stdout, b"2026-01-02T03:04:05Z");
    }

    #[test]
    fn of_very_many_lines_the_last_have_their_times() {
        let frames = vec!["1 2026-01-02T03:04:05Z \n"; TIMED + 1];
        let found = log(TIMED * 2, &frames);
        assert_eq!((found.stdout.len(), found.pieces.len()), (TIMED + 1, TIMED));
        assert_eq!(log(TIMED * 2, &frames[1..]).pieces.len(), TIMED);
        // What is forgotten is first what has no time.
        assert_eq!(log(TIMED, &frames).pieces.len(), TIMED);
    }
}
