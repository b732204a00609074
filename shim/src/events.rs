//! What a v2 cgroup tells of its memory.

use crate::text::number;

/// The count behind `oom_kill` in a `memory.events` file. Source: kernel "Control Group v2", "Memory Interface Files".
pub fn oom_kills(text: &[u8]) -> Option<u32> {
    let mut lines = text.split(|&b| b == b'\n');
    let count = lines.find_map(|line| line.strip_prefix(b"oom_kill "))?;
    u32::try_from(number(count)?).ok()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_count_is_found_among_the_others() {
        let text = b"low 0\nhigh 1\nmax 22\noom 3\noom_kill 4\noom_group_kill 5\nsock_throttled 6\n";
        assert_eq!(oom_kills(text), Some(4));
        for text in [b"".as_slice(), b"oom 3\noom_group_kill 5\n", b"oom_kill x\n"] {
            assert_eq!(oom_kills(text), None);
        }
    }
}
