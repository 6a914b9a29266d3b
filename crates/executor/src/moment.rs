//! Times as they are let out: a run decides when it prints and ends, so what a time can tell is bounded.

use std::time::Duration;

use jiff::Timestamp;

/// In whole seconds, the part of a second that has begun left away.
pub(crate) fn rounded(at: Timestamp) -> Timestamp {
    // Rounding towards the past of what is in range stays in range.
    Timestamp::from_second(at.as_second() - i64::from(at.subsec_nanosecond() < 0)).unwrap_or(at)
}

/// The same as text (RFC 3339, in UTC).
pub(crate) fn shown(at: Timestamp) -> String {
    rounded(at).to_string()
}

/// From one time to a later one, both as they are shown.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Option<Duration> {
    Duration::try_from(rounded(to).duration_since(rounded(from))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_to_the_second() {
        let cases = [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.999999999Z", "2026-01-02T03:04:05Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z"),
        ];
        for (time, expected) in cases {
            assert_eq!(shown(time.parse().expect("time")), expected);
        }
        let time = |text: &str| text.parse().expect("time");
        let took = between(time("2026-01-01T00:00:00.9Z"), time("2026-01-01T00:00:02.1Z"));
        assert_eq!(took, Some(Duration::from_secs(2)));
        assert_eq!(between(time("2026-01-01T00:00:01Z"), time("2026-01-01T00:00:00Z")), None);
    }
}
