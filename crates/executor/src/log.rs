//! What a run printed, as it is let out: text that commands no terminal and deceives no reader.

use jiff::Timestamp;
use serde_json::json;
use torno_registry::RunLog;

use crate::moment;

/// One of the files of a log: `stdout.log` or `stderr.log`.
pub(crate) fn file(printed: &[u8]) -> Vec<u8> {
    // The limit may have cut a character in two.
    let cut = printed.iter().take(3).take_while(|byte| is_continuation(**byte)).count();
    text(printed.get(cut..).unwrap_or_default()).into_bytes()
}

/// `log.jsonl`: a line of JSON for each line of both streams whose time is known. The engine writes down when it read a
/// line, and only after a start that a container has started: what was printed while a run ran is told so.
pub(crate) fn timed(log: &RunLog, started: Option<Timestamp>, finished: Timestamp) -> Vec<u8> {
    let mut file = Vec::new();
    for line in log.lines() {
        let at = started.map_or(line.at, |started| line.at.max(started)).min(finished);
        let record = json!({
            "time": moment::shown(at),
            "stream": line.stream.to_string(),
            "text": text(&line.text),
        });
        file.extend(record.to_string().into_bytes());
        file.push(b'\n');
    }
    file
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// UTF-8 in which only line feeds and tabs are control characters. Colours and other control sequences (ECMA-48,
/// section 5.4) go; a carriage return, with which progress bars begin anew, ends a line.
fn text(printed: &[u8]) -> String {
    let printed = String::from_utf8_lossy(printed);
    let mut text = String::with_capacity(printed.len());
    let mut rest = printed.chars();
    while let Some(character) = rest.next() {
        match character {
            '\n' | '\t' => text.push(character),
            '\r' if rest.as_str().starts_with('\n') => {}
            '\r' => text.push('\n'),
            '\u{1b}' => match behind_sequence(rest.as_str()) {
                Some(behind) => rest = behind.chars(),
                None => text.push(char::REPLACEMENT_CHARACTER),
            },
            _ if character.is_control() || turns_around(character) => {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            _ => text.push(character),
        }
    }
    text
}

/// What follows a control sequence whose escape character has been read; `None` when it is none.
fn behind_sequence(rest: &str) -> Option<&str> {
    let parameters = rest.strip_prefix('[')?.trim_start_matches(|character| ('0'..='?').contains(&character));
    let last = parameters.trim_start_matches(|character| (' '..='/').contains(&character));
    last.strip_prefix(|character| ('@'..='~').contains(&character))
}

/// Whether a character changes the order in which others are shown (Unicode: UAX 9, Explicit Formatting).
fn turns_around(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use torno_registry::{Printed, Stream};

    use super::*;

    #[test]
    fn what_is_let_out_is_text() {
        let cases: [(&[u8], &str); 10] = [
            ("plain ä\n\tok\n".as_bytes(), "plain ä\n\tok\n"),
            (b"\xff\xfeab", "\u{fffd}\u{fffd}ab"),
            // The end of a character that was cut, at most three bytes of it.
            (b"\x82\x98a", "a"),
            (b"\x82\x82\x82\x82a", "\u{fffd}a"),
            (b"10%\r20%\r\ndone\r", "10%\n20%\ndone\n"),
            (b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[?25l", "red"),
            (b"\x1b]0;title\x07\x1b[12", "\u{fffd}]0;title\u{fffd}\u{fffd}[12"),
            ("\u{202e}evil\u{2069}\u{9b}".as_bytes(), "\u{fffd}evil\u{fffd}\u{fffd}"),
            (b"a\0b\x08c\x7f", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            (b"", ""),
        ];
        for (printed, expected) in cases {
            assert_eq!(String::from_utf8(file(printed)).expect("UTF-8"), expected);
        }
    }

    #[test]
    fn every_line_has_its_second() {
        let piece = |at: &str, stream, length| Printed { at: time(at), stream, length };
        let log = RunLog {
            stdout: b"no time\n{\"time\": \"1999\"}\n".to_vec(),
            stderr: b"\x1b[31moh\n".to_vec(),
            pieces: vec![
                piece("2026-01-02T03:04:05.999Z", Stream::Stderr, 8),
                piece("2026-01-02T03:04:06Z", Stream::Stdout, 17),
            ],
        };
        let expected = concat!(
            r#"{"stream":"stderr","text":"oh","time":"2026-01-02T03:04:05Z"}"#,
            "\n",
            r#"{"stream":"stdout","text":"{\"time\": \"1999\"}","time":"2026-01-02T03:04:06Z"}"#,
            "\n"
        );
        let file = timed(&log, None, time("2026-01-02T03:04:06Z"));
        assert_eq!(String::from_utf8(file).expect("UTF-8"), expected);
    }

    #[test]
    fn no_line_is_older_or_younger_than_its_run() {
        let second = |number: i64| Timestamp::from_second(number).expect("time");
        let told = |printed, started, finished| {
            let piece = Printed { at: second(printed), stream: Stream::Stdout, length: 1 };
            let log = RunLog { stdout: b"\n".to_vec(), stderr: Vec::new(), pieces: vec![piece] };
            let file = timed(&log, started, second(finished));
            let record: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
            record["time"].as_str().expect("time").parse::<Timestamp>().expect("time").as_second()
        };
        assert_eq!([4, 5, 7, 8].map(|printed| told(printed, Some(second(5)), 7)), [5, 5, 7, 7]);
        assert_eq!(told(4, None, 7), 4);
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("time")
    }
}
