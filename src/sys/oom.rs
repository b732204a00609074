//! How willing the kernel is to kill a process for want of memory. Source: proc_pid_oom_score_adj(5).

use std::{fs, io};

/// Sets a process's `oom_score_adj` and answers whether that changed it; a process that has ended is none.
///
/// Without CAP_SYS_RESOURCE nobody can go below what such a process set last: then it gets our own, which is what a new
/// container has here, or keeps what it has when that is refused too.
///
/// # Errors
/// Those of the file, but for a refusal.
pub fn set_score_adj(pid: u32, score: i32) -> io::Result<bool> {
    let file = format!("/proc/{pid}/oom_score_adj");
    let own = fs::read_to_string("/proc/self/oom_score_adj")?
        .trim()
        .parse()
        .unwrap_or(0);
    for wanted in [score, own.max(score)] {
        let outcome = fs::read_to_string(&file).and_then(|now| {
            let changes = now.trim() != wanted.to_string();
            if changes {
                fs::write(&file, wanted.to_string())?;
            }
            Ok(changes)
        });
        match outcome {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(false),
            result => return result,
        }
    }
    Ok(false)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_score_is_raised_and_told_once() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let raised = set_score_adj(child.id(), 900).unwrap();
        let again = set_score_adj(child.id(), 900).unwrap();
        let text = fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).unwrap();
        // Refused on some nodes, never an error.
        let lowered = set_score_adj(child.id(), -999);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((raised, again, text.trim()), (true, false, "900"));
        assert!(lowered.is_ok());
        assert!(!set_score_adj(child.id(), 900).unwrap());
    }
}
