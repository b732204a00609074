//! The few formats of cgroup files.

use crate::model::{DeviceIo, Pressure, Stall};

/// The number after `key` in a text of `key value` lines.
pub fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A pressure file: a line `some`, and a line `full` unless the kernel is older than 5.13 and the resource is the CPU.
pub fn pressure(text: &str) -> Option<Pressure> {
    let line = |name: &str| text.lines().find_map(|line| stall(line.strip_prefix(name)?));
    Some(Pressure {
        some: line("some ")?,
        full: line("full ").unwrap_or_default(),
    })
}

fn stall(fields: &str) -> Option<Stall> {
    let value = |key: &str| fields.split(' ').find_map(|field| field.strip_prefix(key));
    Some(Stall {
        total_us: value("total=")?.parse().ok()?,
        avg10: value("avg10=")?.parse().ok()?,
        avg60: value("avg60=")?.parse().ok()?,
        avg300: value("avg300=")?.parse().ok()?,
    })
}

/// v2 `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`. A device that did nothing may have no fields.
pub fn io_stat(text: &str) -> Vec<DeviceIo> {
    let device = |line: &str| {
        let mut fields = line.split_whitespace();
        let mut io = device(fields.next()?)?;
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(device).collect()
}

/// v1 `blkio` files, one of bytes and one of operations: `8:0 Read 1` and so on for each device.
pub fn blkio(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            let (Some(numbers), Some(operation), Some(value)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let (Some(empty), Ok(value)) = (device(numbers), value.parse()) else {
                continue;
            };
            let same = |io: &DeviceIo| (io.major, io.minor) == (empty.major, empty.minor);
            let at = devices.iter().position(same).unwrap_or_else(|| {
                devices.push(empty.clone());
                devices.len() - 1
            });
            let io = &mut devices[at];
            match (operation, is_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.written_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    devices
}

fn device(numbers: &str) -> Option<DeviceIo> {
    let (major, minor) = numbers.split_once(':')?;
    Some(DeviceIo {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..DeviceIo::default()
    })
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_makes_any_of_them_panic(text in "[a-z0-9:= .\n-]{0,200}") {
            field(&text, "some");
            pressure(&text);
            io_stat(&text);
            blkio(&text, &text);
        }

        #[test]
        fn a_pressure_line_comes_back(total in any::<u64>(), avg in 0.0f64..100.0) {
            let line = format!("avg10={avg} avg60={avg} avg300={avg} total={total}");
            let expected = Stall { total_us: total, avg10: avg, avg60: avg, avg300: avg };
            let pressure = pressure(&format!("some {line}\nfull {line}\n")).unwrap();
            prop_assert_eq!(pressure, Pressure { some: expected, full: expected });
        }
    }

    #[test]
    fn a_key_that_begins_another_is_not_taken_for_it() {
        let text = "total_rss_huge 1\ntotal_rss 2\n";
        assert_eq!(field(text, "total_rss"), Some(2));
        assert_eq!(field(text, "rss"), None);
    }

    #[test]
    fn cpu_pressure_without_a_full_line_is_zero_there() {
        let pressure = pressure("some avg10=1.50 avg60=0.10 avg300=0.00 total=7\n").unwrap();
        assert_eq!((pressure.some.total_us, pressure.some.avg10), (7, 1.5));
        assert_eq!(pressure.full, Stall::default());
    }
}
