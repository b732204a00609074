//! Names of block devices.

use std::fs;

/// The device with these numbers, such as `/dev/vda`; `major:minor` when it has no name, as a file system without a
/// device has none.
pub fn block_device_name(major: u32, minor: u32) -> String {
    let uevent = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
    match uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")) {
        Some(name) => format!("/dev/{name}"),
        None => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_has_no_name_keeps_its_numbers() {
        assert_eq!(block_device_name(0, 4711), "0:4711");
    }
}
