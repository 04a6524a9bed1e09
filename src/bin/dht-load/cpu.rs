//! CPU time that processes have used, as the scheduler counts it: nanoseconds, unlike the ticks
//! of `/proc/PID/stat`. Linux only; elsewhere there is nothing to read.

use std::fs;
use std::io;
use std::time::Duration;

/// What the threads of the processes `pids` that run now have used since they began.
///
/// # Errors
///
/// If there is no such process, or the system does not tell.
pub(crate) fn used(pids: &[u32]) -> Result<Duration, CpuError> {
    pids.iter().map(|&pid| used_by(pid).map_err(|cause| CpuError { pid, cause })).sum()
}

fn used_by(pid: u32) -> io::Result<Duration> {
    let mut sum = 0_u64;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(task?.path().join("schedstat")) {
            Ok(text) => sum = sum.saturating_add(nanoseconds(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // a thread that has just ended
            Err(error) => return Err(error),
        }
    }
    Ok(Duration::from_nanos(sum))
}

/// The first of the numbers in `schedstat`: time on a CPU.
fn nanoseconds(text: &str) -> io::Result<u64> {
    let first = text.split(' ').next().and_then(|digits| digits.parse().ok());
    first.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "schedstat holds no number"))
}

/// The CPU time of a process cannot be read.
#[derive(Debug)]
pub(crate) struct CpuError {
    pub(crate) pid: u32,
    pub(crate) cause: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_has_used_some_and_more_later() {
        let me = std::process::id();
        let first = used(&[me]).expect("it runs");
        assert!(first > Duration::ZERO);
        assert!(used(&[me, me]).expect("it runs") >= first * 2, "the sum over all");
    }

    #[test]
    fn a_process_that_is_none_is_named() {
        assert_eq!(used(&[u32::MAX]).expect_err("no such process").pid, u32::MAX);
        assert_eq!(nanoseconds("12345 6 7\n").expect("a number"), 12_345);
        assert!(nanoseconds("").is_err());
    }
}
