//! Capability sets as masks (capabilities(7)); rustix knows them by name, one at a time.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities};

/// Effective, permitted and inheritable sets of this thread.
pub fn current() -> io::Result<(u64, u64, u64)> {
    let sets = capabilities(None)?;
    Ok((sets.effective.bits(), sets.permitted.bits(), sets.inheritable.bits()))
}

/// Sets effective, permitted and inheritable sets at once.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Takes everything that is not in `keep` out of the bounding set.
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for number in 0..64 {
        if keep & (1 << number) != 0 {
            continue;
        }
        // SAFETY: PR_CAPBSET_READ and PR_CAPBSET_DROP take one number and touch no memory.
        let dropped = unsafe {
            match libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) {
                // Above the last capability of this kernel.
                -1 => return Ok(()),
                0 => continue,
                _ => libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0),
            }
        };
        if dropped != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Makes the ambient set exactly `mask`; each must be permitted and inheritable.
pub fn set_ambient(mask: u64) -> io::Result<()> {
    clear_ambient_capability_set()?;
    for number in (0..64).filter(|number| mask & (1 << number) != 0) {
        // SAFETY: PR_CAP_AMBIENT_RAISE takes one number and touches no memory.
        if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
