//! Columns, and numbers and digests that are easy to read.

use std::fmt;

/// Text in columns as wide as they have to be; the last is as long as it is.
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(head: &[&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Bytes with three digits and a unit of 1000, as other tools for images show them.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// As much of a digest as tells it from others.
pub fn short(digest: &str) -> String {
    match digest.strip_prefix("sha256:") {
        Some(hex) => hex.chars().take(12).collect(),
        None => digest.to_owned(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_996, "10.0 kB"),
            (123_456, "123 kB"),
            (999_600, "1.00 MB"),
            (4_200_000_000, "4.20 GB"),
            (u64::MAX, "18446744 TB"),
        ];
        for (count, text) in table {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let mut table = Table::new(&["IMAGE", "ID", "PINNED"]);
        table.row(["a".into(), short("sha256:0123456789abcdef"), "yes".into()]);
        table.row(["registry.test/b:1".into(), "é".into(), String::new()]);
        let text = "IMAGE              ID            PINNED\n\
                    a                  0123456789ab  yes\n\
                    registry.test/b:1  é\n";
        assert_eq!(table.to_string(), text);
    }
}
