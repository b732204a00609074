//! The exit record: written by the shim first thing after init's end, read by whichever daemon comes next.

use crate::text::{Line, number, unseal};

/// Name of the record in the container's folder.
pub const NAME: &str = "exit";
const MAGIC: &[u8] = b"inro-exit-1";

/// How init ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    /// 0 to 255; 128 + signal when a signal ended it.
    pub code: i32,
    /// Nanoseconds since the Unix epoch.
    pub finished_at_ns: i64,
    /// How many of its processes were killed for want of memory; `None` when the cgroup could not be asked any more.
    pub oom_kills: Option<u32>,
}

impl ExitRecord {
    /// `inro-exit-1 <code> <ns> <kills or -1> <checksum>` and a newline.
    pub fn encode(&self) -> Line<64> {
        let mut line = Line::new();
        line.push(MAGIC)
            .push(b" ")
            .number(i64::from(self.code))
            .push(b" ")
            .number(self.finished_at_ns)
            .push(b" ")
            .number(self.oom_kills.map_or(-1, i64::from));
        line.seal()
    }

    /// The record in `bytes`; `None` when they are damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = unseal(bytes)?.split(|&b| b == b' ');
        (words.next()? == MAGIC).then_some(())?;
        let record = Self {
            code: i32::try_from(number(words.next()?)?).ok()?,
            finished_at_ns: number(words.next()?)?,
            // Shims of older daemons do not count.
            oom_kills: words
                .next()
                .map_or(Some(-1), number)
                .map(|kills| u32::try_from(kills).ok())?,
        };
        words.next().is_none().then_some(record)
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parse_after_encode_is_the_identity(code in 0..256, finished_at_ns: i64, oom_kills: Option<u32>) {
            let record = ExitRecord { code, finished_at_ns, oom_kills };
            prop_assert_eq!(ExitRecord::parse(record.encode().as_bytes()), Some(record));
        }

        #[test]
        fn any_changed_byte_is_noticed(at in 0usize..30, flip in 1u8..) {
            let line = ExitRecord { code: 3, finished_at_ns: 1_700_000_000_000_000_000, oom_kills: None }.encode();
            let mut bytes = std::vec::Vec::from(line.as_bytes());
            bytes[at] ^= flip;
            prop_assert_eq!(ExitRecord::parse(&bytes), None);
        }
    }

    #[test]
    fn a_record_without_a_count_is_read() {
        let mut line = Line::<64>::new();
        line.push(b"inro-exit-1 137 5");
        let record = ExitRecord {
            code: 137,
            finished_at_ns: 5,
            oom_kills: None,
        };
        assert_eq!(ExitRecord::parse(line.seal().as_bytes()), Some(record));
    }

    #[test]
    fn a_cut_record_is_none() {
        let line = ExitRecord {
            code: 0,
            finished_at_ns: 5,
            oom_kills: Some(1),
        }
        .encode();
        for end in 0..line.as_bytes().len() {
            assert_eq!(ExitRecord::parse(&line.as_bytes()[..end]), None);
        }
    }
}
