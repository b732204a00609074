//! Words of decimal numbers in a fixed buffer, and the checksum that ends a record's line.

/// A line under construction; what does not fit is a bug of the caller's sizes and is cut.
pub struct Line<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Line<N> {
    pub fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            if self.len < N {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
        self
    }

    pub fn number(&mut self, value: i64) -> &mut Self {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = value.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            self.push(b"-");
        }
        self.push(&digits[at..])
    }

    /// Ends the line with the checksum of all before it.
    pub fn seal(mut self) -> Self {
        let sum = crc32(self.as_bytes());
        self.push(b" ").number(i64::from(sum)).push(b"\n");
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The words of a sealed line without its checksum; `None` when anything of it is damaged.
pub fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let line = bytes.strip_suffix(b"\n")?;
    let space = line.iter().rposition(|&b| b == b' ')?;
    (number(&line[space + 1..])? == i64::from(crc32(&line[..space]))).then_some(&line[..space])
}

/// A decimal number and nothing else.
pub fn number(word: &[u8]) -> Option<i64> {
    core::str::from_utf8(word).ok()?.parse().ok()
}

/// CRC-32 (IEEE 802.3), bit by bit: records are a few dozen bytes.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
