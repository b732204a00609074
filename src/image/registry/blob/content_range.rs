//! What a `Content-Range` says. Source: RFC 9110, 14.4.

use reqwest::{Response, header::CONTENT_RANGE};

/// The bytes that an answer says it has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    begin: u64,
    /// The first byte after it.
    end: u64,
    /// Of the whole, where it is known.
    size: Option<u64>,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (begin, last) = range.split_once('-')?;
        let size = match size {
            "*" => None,
            size => Some(size.parse().ok()?),
        };
        let (begin, last): (u64, u64) = (begin.parse().ok()?, last.parse().ok()?);
        (begin <= last).then_some(Self {
            begin,
            end: last.checked_add(1)?,
            size,
        })
    }

    /// Whether it is the range that was asked for, of a blob of this size.
    pub(super) fn is(&self, begin: u64, end: Option<u64>, size: u64) -> bool {
        self.begin == begin
            && end.is_none_or(|end| self.end == end)
            && self.end <= size
            && self.size.is_none_or(|whole| whole == size)
    }
}

pub(super) fn range_of(response: &Response) -> Option<Range> {
    Range::parse(response.headers().get(CONTENT_RANGE)?.to_str().ok()?)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_range_is_believed_only_if_it_is_the_one() {
        let of = |text: &str| Range::parse(text);
        let range = of("bytes 10-19/100").unwrap();
        assert_eq!((range.begin, range.end, range.size), (10, 20, Some(100)));
        assert!(range.is(10, None, 100) && range.is(10, Some(20), 100));
        assert!(!range.is(9, None, 100) && !range.is(10, Some(21), 100) && !range.is(10, None, 101));
        assert!(of("bytes 0-99/*").unwrap().is(0, None, 100));
        assert!(!of("bytes 0-100/*").unwrap().is(0, None, 100), "beyond the end");
        for none in [
            "",
            "bytes */100",
            "bytes 5-4/100",
            "items 0-1/2",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
