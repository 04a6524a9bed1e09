//! Real servers on loopback, for the tests that need them.
//!
//! Every wait is for an event: a log line, an answer, the end of a process. Each is bounded by
//! [`PATIENCE`]; to exceed that fails the test. The system draws the ports, each test has a directory of
//! its own, and processes are ended by their handles, also if a test fails.

pub(crate) mod client;
pub(crate) mod process;

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use process::Process;

/// Longest wait before a test fails: far more than a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Configuration of a server unless its test sets another value.
const DEFAULTS: [(&str, &str); 4] =
    [("api_address", "127.0.0.1:0"), ("p2p_address", "127.0.0.1:0"), ("data_dir", "data"), ("pow_bits", "4")];

/// A port without a listener, outside the range from which the system draws ports: unlike those it stays
/// free after a server has released it.
pub(crate) fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let mut ports = (0..10_000).map(|_| {
        let at = start.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % 10_000;
        20_000 + u16::try_from(at).expect("it is below 10 000")
    });
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("one of ten thousand ports is free")
}

/// The first pause of [`eventually`] between two attempts; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Tries `attempt` until it returns something, which must happen within [`PATIENCE`].
///
/// This is for a state of a server that no event reports: a copy that reached another node, a contact
/// that became known, a record that expired, what the file on disk contains. The server writes no
/// line of its log for these, and sends no reply before it is asked. So the test has to ask again. It
/// pauses in between, because the servers under test need the processor. A pause decides only how
/// often the test asks; what the test expects depends on the state alone.
#[expect(clippy::disallowed_methods, reason = "a bound, and a pause between questions where no event says when to ask")]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        thread::sleep(pause);
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

// ── a directory ──────────────────────────────────────────────────────────────────────────────

/// The directory of one test; the drop removes it.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// An empty one.
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("server-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a directory for this test");
        Self { path }
    }

    /// Writes `text` to the file `name`; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, text).expect("a file for this test");
        path
    }

    /// Writes a configuration whose section `[dht]` has `lines`, and [`DEFAULTS`] for the keys that
    /// `lines` does not set.
    pub(crate) fn write_config(&self, lines: &str) -> PathBuf {
        let is_set = |key: &str| lines.lines().any(|line| line.trim_start().starts_with(key));
        let defaults = DEFAULTS.into_iter().filter(|(key, _)| !is_set(key));
        let mut all = vec!["[dht]".to_owned()];
        all.extend(defaults.map(|(key, value)| format!("{key} = {value}")));
        all.push(lines.to_owned());
        self.write("config.ini", &(all.join("\n") + "\n"))
    }

    /// The path of the file `name`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

// ── a server ─────────────────────────────────────────────────────────────────────────────────

/// The program under test, with the default log level.
pub(crate) fn dht_server() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dht-server"));
    command.env("RUST_LOG", "info");
    command
}

/// The course-compatible client, connected to `api`. Without python3 it returns nothing, and says so on
/// the real standard error: a test's own output is captured.
pub(crate) fn dht_client(api: SocketAddr, arguments: &[&str]) -> Option<Command> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/dht_client.py");
    if Command::new("python3").arg("--version").output().is_err() {
        let _ = writeln!(io::stderr(), "\nSKIPPED: no python3 here, so {script} {arguments:?} is not tested\n");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(script).arg("-p").arg(api.port().to_string()).args(arguments);
    Some(command)
}

/// A running `dht-server`; the drop kills it.
pub(crate) struct Server {
    process: Process,
    listening: String,
    _scratch: Option<Scratch>,
}

impl Server {
    /// Starts a server in a new directory; it listens when this returns. See [`Scratch::write_config`]
    /// for `lines`.
    pub(crate) fn start(lines: &str) -> Self {
        let scratch = Scratch::new();
        let server = Self::start_in(&scratch, lines);
        Self { _scratch: Some(scratch), ..server }
    }

    /// Starts a server in `scratch`, with the files of an earlier one if there are any.
    pub(crate) fn start_in(scratch: &Scratch, lines: &str) -> Self {
        Self::start_from(&scratch.write_config(lines))
    }

    /// Starts a server with the configuration file `config`.
    pub(crate) fn start_from(config: &Path) -> Self {
        Self::listen(dht_server().arg("-c").arg(config))
    }

    /// Starts a server through a shell that runs `preparation` first, such as `ulimit -n 40`.
    pub(crate) fn start_after(preparation: &str, lines: &str) -> Self {
        let scratch = Scratch::new();
        let mut shell = Command::new("sh");
        shell.env("RUST_LOG", "info").arg("-c").arg(format!("{preparation}; exec \"$0\" \"$@\""));
        shell.arg(env!("CARGO_BIN_EXE_dht-server")).arg("-c").arg(scratch.write_config(lines));
        let server = Self::listen(&mut shell);
        Self { _scratch: Some(scratch), ..server }
    }

    fn listen(command: &mut Command) -> Self {
        let process = Process::spawn(command);
        let listening = process.stderr().line_with("listening api=");
        Self { process, listening, _scratch: None }
    }

    /// The address of the module API.
    pub(crate) fn api(&self) -> SocketAddr {
        self.field("api=")
    }

    /// The address for peers; the first one, if there are several.
    pub(crate) fn p2p(&self) -> SocketAddr {
        self.field("p2p=")
    }

    /// The first digits of its node id, as the log has them.
    pub(crate) fn id(&self) -> String {
        self.field("id=")
    }

    fn field<T: std::str::FromStr>(&self, name: &str) -> T {
        let (_, after) = self.listening.split_once(name).expect("the line names it");
        let value = after.split([' ', ',']).next().expect("a split has a first part");
        value.parse().ok().unwrap_or_else(|| panic!("{name} of {:?}", self.listening))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for a line of its log that contains `text`; returns the first such line.
    pub(crate) fn log_line(&self, text: &str) -> String {
        self.process.stderr().line_with(text)
    }

    /// Waits for a line of its log that contains `text`, after `skipped` other such lines.
    pub(crate) fn nth_log_line(&self, text: &str, skipped: usize) -> String {
        self.process.stderr().nth_line_with(text, skipped)
    }

    /// The lines of its log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.process.stderr().lines()
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kilobytes")
    }

    /// Sends it the signal `name`, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// Stops it as an operator does, and waits for its end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill_hard(&mut self) {
        self.process.kill();
    }
}

// ── several servers ──────────────────────────────────────────────────────────────────────────

/// Servers that have joined one network.
pub(crate) struct Cluster {
    /// The first is the founder, and the bootstrap of the others.
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    /// Starts `count` servers; all but the first have joined when this returns. `lines` are configuration
    /// lines of each, besides its bootstrap.
    pub(crate) fn start(count: usize, lines: impl Fn(usize) -> String) -> Self {
        let mut servers = vec![Server::start(&lines(0))];
        for at in 1..count {
            let bootstrap = format!("bootstrap = {}\n", servers[0].p2p());
            servers.push(Server::start(&(bootstrap + &lines(at))));
        }
        for server in &servers[1..] {
            server.log_line("joined contacts=");
        }
        Self { servers }
    }
}
