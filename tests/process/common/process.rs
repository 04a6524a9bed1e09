//! A child process: its output and its end.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::PATIENCE;

/// Log lines to print of a process that a failed test leaves behind.
const TAIL_LINES: usize = 40;

/// How a program ended, and what it printed.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// Runs `command` to its end, with `input` to read.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Finished {
    let mut process = Process::spawn(command);
    if let Some(mut stdin) = process.stdin.take() {
        let _ = stdin.write_all(input); // a program that rejects its arguments reads nothing
    }
    let code = process.wait().code();
    Finished { code, stdout: process.stdout.to_end(), stderr: process.stderr.text() }
}

/// A running process; the drop kills and reaps it.
pub(crate) struct Process {
    child: Child,
    name: String,
    stdin: Option<ChildStdin>,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
}

impl Process {
    /// Starts `command`.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdin = child.stdin.take();
        let stdout = Output::collect(child.stdout.take().expect("it is a pipe"));
        let stderr = Output::collect(child.stderr.take().expect("it is a pipe"));
        Self { child, name, stdin, stdout, stderr }
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output.
    pub(crate) fn stdout(&self) -> &Output {
        &self.stdout
    }

    /// Its standard error: the log.
    pub(crate) fn stderr(&self) -> &Output {
        &self.stderr
    }

    /// Writes to its standard input.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its input was not ended");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("it reads");
    }

    /// Closes its standard input.
    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Sends it the signal `name`, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").arg("-c").arg(&kill).status().expect("a shell");
        assert!(status.success(), "{kill}");
    }

    /// Waits for its end: until it has closed its outputs and exited.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.stdout.to_end();
        self.stderr.to_end();
        self.child.wait().expect("it is our child")
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let lines = self.stderr.lines();
            eprintln!("── the last words of {}", self.name);
            for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

// ── output ───────────────────────────────────────────────────────────────────────────────────

/// What a process has printed to one of its outputs.
pub(crate) struct Output {
    printed: Mutex<Printed>,
    more: Condvar,
}

#[derive(Default)]
struct Printed {
    bytes: Vec<u8>,
    ended: bool,
}

impl Printed {
    /// The complete lines; after the end also the rest.
    fn lines(&self) -> Vec<String> {
        let whole = self.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let bytes = if self.ended { &self.bytes[..] } else { &self.bytes[..whole] };
        String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
    }
}

impl Output {
    fn collect(mut source: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self { printed: Mutex::default(), more: Condvar::new() });
        let collected = Arc::clone(&output);
        thread::spawn(move || {
            let mut chunk = vec![0; 16 << 10];
            loop {
                let count = source.read(&mut chunk).unwrap_or(0);
                let mut printed = collected.lock();
                printed.bytes.extend_from_slice(&chunk[..count]);
                printed.ended = count == 0;
                collected.more.notify_all();
                if printed.ended {
                    return;
                }
            }
        });
        output
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lock().lines()
    }

    /// Waits for a line that contains `text`; returns the first one.
    pub(crate) fn line_with(&self, text: &str) -> String {
        self.nth_line_with(text, 0)
    }

    /// Waits for a line that contains `text`, after `skipped` other such lines.
    pub(crate) fn nth_line_with(&self, text: &str, skipped: usize) -> String {
        let find = |printed: &Printed| printed.lines().into_iter().filter(|line| line.contains(text)).nth(skipped);
        let printed = self.lock();
        let waits = |printed: &mut Printed| !printed.ended && find(printed).is_none();
        let (printed, _) =
            self.more.wait_timeout_while(printed, PATIENCE, waits).unwrap_or_else(PoisonError::into_inner);
        find(&printed)
            .unwrap_or_else(|| panic!("no line with {text:?} (after {skipped}) in:\n{}", printed.lines().join("\n")))
    }

    /// Waits for the end; returns all of it.
    pub(crate) fn to_end(&self) -> Vec<u8> {
        let waits = |printed: &mut Printed| !printed.ended;
        let (printed, _) =
            self.more.wait_timeout_while(self.lock(), PATIENCE, waits).unwrap_or_else(PoisonError::into_inner);
        assert!(printed.ended, "no end after:\n{}", printed.lines().join("\n"));
        printed.bytes.clone()
    }

    /// Waits for the end; returns all of it as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.to_end()).into_owned()
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
