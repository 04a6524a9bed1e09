//! CPU time of processes, as the scheduler counts it: in nanoseconds, unlike the ticks of
//! `/proc/PID/stat`. Linux only; on other systems the files do not exist.

use std::fs;
use std::io;
use std::time::Duration;

/// The CPU time that the running threads of the processes `pids` have used since they started.
///
/// # Errors
///
/// If a process does not exist, or the system does not report its time.
pub(crate) fn used(pids: &[u32]) -> Result<Duration, CpuError> {
    pids.iter().map(|&pid| used_by(pid).map_err(|cause| CpuError { pid, cause })).sum()
}

fn used_by(pid: u32) -> io::Result<Duration> {
    let mut sum = 0_u64;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(task?.path().join("schedstat")) {
            Ok(text) => sum = sum.saturating_add(nanoseconds(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // the thread has just ended
            Err(error) => return Err(error),
        }
    }
    Ok(Duration::from_nanos(sum))
}

/// The first of the numbers in `schedstat`: time on a CPU.
fn nanoseconds(text: &str) -> io::Result<u64> {
    let first = text.split(' ').next().and_then(|digits| digits.parse().ok());
    first.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "schedstat contains no number"))
}

/// The CPU time of a process cannot be read.
#[derive(Debug)]
pub(crate) struct CpuError {
    pub(crate) pid: u32,
    pub(crate) cause: io::Error,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpu_time_is_the_sum_over_all_processes() {
        // A process that waits for input uses no more time. The threads of this process come and go.
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a program");
        cat.stdin.as_mut().expect("a pipe").write_all(b"x").expect("it reads");
        cat.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("it has started");
        let pid = cat.id();
        let is_sum = || {
            let (one, two) = (used(&[pid]).expect("it runs"), used(&[pid, pid]).expect("it runs"));
            one > Duration::ZERO && two == one * 2
        };
        let found = (0..1_000).any(|_| is_sum());
        drop(cat.stdin.take());
        cat.wait().expect("it ends with its input");
        assert!(found, "the time of one process, twice");
    }

    #[test]
    fn an_error_names_the_process() {
        assert_eq!(used(&[u32::MAX]).expect_err("no such process").pid, u32::MAX);
    }

    #[test]
    fn the_first_number_of_schedstat_is_the_cpu_time() {
        assert_eq!(nanoseconds("12345 6 7\n").expect("a number"), 12_345);
        assert!(nanoseconds("").is_err());
    }
}
