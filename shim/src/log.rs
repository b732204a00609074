//! The CRI's log format: `<RFC 3339 stamp with nanoseconds> <stdout|stderr> <P|F> <content>` and a newline.
//!
//! A line of more than [`PIECE`] bytes is written in pieces: `P` says that no newline follows, `F` that one does. So an
//! unfinished line at the end of a stream is a piece too, and a reader gets what was written, with no newline added.
//!
//! Source: Kubernetes, "CRI: Log Management for Container Stdout/Stderr Streams" (kubelet-cri-logging).

/// Most content bytes of one entry.
pub const PIECE: usize = 16 * 1024;
/// Length of an entry's words before its content.
pub const HEADER: usize = 30 + 1 + 6 + 1 + 1 + 1;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// The words before an entry's content. `whole` is the tag `F`.
pub fn header(seconds: i64, nanos: u32, stream: Stream, whole: bool) -> [u8; HEADER] {
    let mut out = *b"0000-00-00T00:00:00.000000000Z stdout F ";
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    digits(&mut out[0..4], year.unsigned_abs());
    digits(&mut out[5..7], month);
    digits(&mut out[8..10], day);
    digits(&mut out[11..13], (second_of_day / 3600).unsigned_abs());
    digits(&mut out[14..16], (second_of_day / 60 % 60).unsigned_abs());
    digits(&mut out[17..19], (second_of_day % 60).unsigned_abs());
    digits(&mut out[20..29], u64::from(nanos));
    if stream == Stream::Stderr {
        out[31..37].copy_from_slice(b"stderr");
    }
    if !whole {
        out[38] = b'P';
    }
    out
}

/// The next entry at the front of `pending`: its content, its tag, and how many bytes it takes. `None`: wait for more.
///
/// `pending` holds at most [`PIECE`] bytes; a full buffer without a newline is a piece. At the `end` of the stream the
/// rest is one more piece.
pub fn entry(pending: &[u8], end: bool) -> Option<(&[u8], bool, usize)> {
    match pending.iter().position(|&b| b == b'\n') {
        Some(at) => Some((&pending[..at], true, at + 1)),
        None if pending.len() >= PIECE => Some((&pending[..PIECE], false, PIECE)),
        None if end && !pending.is_empty() => Some((pending, false, pending.len())),
        None => None,
    }
}

fn digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day after 1970-01-01 in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, u64, u64) {
    // Eras of 400 years that begin on 1 March, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month.unsigned_abs(), day.unsigned_abs())
}

#[cfg(test)]
mod test {
    use std::{string::String, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stamps_are_rfc_3339() {
        let table = [
            (0, 0, "1970-01-01T00:00:00.000000000Z stdout F "),
            (951_827_696, 123_456_789, "2000-02-29T12:34:56.123456789Z stdout F "),
            (4_102_444_799, 999_999_999, "2099-12-31T23:59:59.999999999Z stdout F "),
        ];
        for (seconds, nanos, text) in table {
            assert_eq!(
                String::from_utf8_lossy(&header(seconds, nanos, Stream::Stdout, true)),
                text
            );
        }
        assert!(header(0, 0, Stream::Stderr, false).ends_with(b"Z stderr P "));
    }

    /// Feeds `input` in reads of `step` bytes as the supervisor does, and puts the entries together again.
    fn round_trip(input: &[u8], step: usize) -> (Vec<u8>, Vec<usize>) {
        let (mut pending, mut out, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = input;
        loop {
            let room = (PIECE - pending.len()).min(step).min(rest.len());
            pending.extend_from_slice(&rest[..room]);
            rest = &rest[room..];
            let end = rest.is_empty();
            while let Some((content, whole, taken)) = entry(&pending, end) {
                sizes.push(content.len());
                out.extend_from_slice(content);
                if whole {
                    out.push(b'\n');
                }
                pending.drain(..taken);
            }
            if end {
                return (out, sizes);
            }
        }
    }

    proptest! {
        #[test]
        fn every_byte_comes_back_in_pieces_of_bounded_size(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>().prop_filter("newline", |b| *b != b'\n'), 0..40_000), 0..6),
            unfinished in any::<bool>(),
            step in 1usize..70_000,
        ) {
            let mut input = lines.join(&b'\n');
            if !unfinished && !lines.is_empty() {
                input.push(b'\n');
            }
            let (out, sizes) = round_trip(&input, step);
            prop_assert_eq!(out, input);
            prop_assert!(sizes.iter().all(|size| *size <= PIECE));
        }
    }

    #[test]
    fn an_unfinished_last_line_gets_no_newline() {
        assert_eq!(entry(b"abc", true), Some((&b"abc"[..], false, 3)));
        assert_eq!(entry(b"abc", false), None);
        assert_eq!(entry(b"", true), None);
    }
}
