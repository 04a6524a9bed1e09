//! `dht-server -c FILE`: assembles a node and runs it. All decisions are in the library.
//!
//! Reads the command line and the configuration, locks the data directory, restores the node from
//! its store and runs the event loop.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use dht::cli::{self, EXIT_USAGE, UsageError};
use dht::config::{ConfigError, Settings};
use dht::disk::store::{Store, StoreError, StoreId};
use dht::disk::writer::DiskWriter;
use dht::disk::{self, DataDir, DiskError, Dropped, HostKey, Salvaged};
use dht::identity::{Identity, Puzzle};
use dht::net::clock::Clock;
use dht::net::entropy::{self, EntropyError};
use dht::net::{self, BindError, Ended, EventLoop, Listeners, LoopError};
use dht::node::params::{Durability, Serving};
use dht::node::persisted::Batch;
use dht::node::{Me, Node};
use dht::time::Time;
use getopts::Options;
use log::{error, info, warn};

const BRIEF: &str = "\
usage: dht-server -c FILE [--check-config|--salvage]

A node of a Kademlia DHT with the VoidPhone module API.";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// Validate the configuration, warnings included, and exit.
    CheckConfig { config: PathBuf },
    /// Replace a damaged store by what is intact of it, and exit.
    Salvage { config: PathBuf },
    /// Run a node.
    Run { config: PathBuf },
}

fn main() -> ExitCode {
    match read_args(std::env::args_os().skip(1)) {
        Ok(Command::CheckConfig { config }) => check_config(&config),
        Ok(Command::Salvage { config }) => start(&config, |settings| salvage(&settings).map(|()| ExitCode::SUCCESS)),
        Ok(Command::Run { config }) => start(&config, |settings| run(settings).map(exit_code)),
        Err(error) => error.report("dht-server"),
    }
}

/// Reads the arguments, without the program's own name.
fn read_args<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Command, UsageError> {
    let mut options = Options::new();
    options
        .optopt("c", "config", "the configuration; config.ini explains every key", "FILE")
        .optflag("", "check-config", "validate FILE and exit: 0 if it has no errors and no warnings, else 2")
        .optflag("", "salvage", "if the store on disk is damaged, keep what is intact of it, and exit");
    let matches = cli::parse("dht-server", BRIEF, options, arguments)?;
    if let Some(word) = matches.free.first() {
        return Err(UsageError::value("arguments", word, "-c FILE [--check-config|--salvage]"));
    }
    let config = matches.opt_str("config").map(PathBuf::from);
    let config = config.ok_or_else(|| UsageError::invalid("-c", "nothing", "the configuration FILE"))?;
    match (matches.opt_present("check-config"), matches.opt_present("salvage")) {
        (true, true) => Err(UsageError::invalid("--salvage", "--check-config", "one of them")),
        (true, false) => Ok(Command::CheckConfig { config }),
        (false, true) => Ok(Command::Salvage { config }),
        (false, false) => Ok(Command::Run { config }),
    }
}

fn check_config(config: &Path) -> ExitCode {
    match Settings::load(config) {
        Ok((_, warnings)) if warnings.is_empty() => {
            println!("{}: OK", config.display());
            ExitCode::SUCCESS
        }
        Ok((_, mistakes)) | Err(mistakes) => refuse(&mistakes),
    }
}

fn refuse(mistakes: &[ConfigError]) -> ExitCode {
    for mistake in mistakes {
        eprintln!("{mistake}");
    }
    ExitCode::from(EXIT_USAGE)
}

/// Does `task` with the settings in `config`.
fn start(config: &Path, task: impl FnOnce(Settings) -> Result<ExitCode, RunError>) -> ExitCode {
    let (settings, warnings) = match Settings::load(config) {
        Ok(loaded) => loaded,
        Err(mistakes) => return refuse(&mistakes),
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .init();
    for warning in warnings {
        warn!("{warning}");
    }
    task(settings).unwrap_or_else(|error| {
        error!("{error}");
        ExitCode::FAILURE
    })
}

fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Left => ExitCode::SUCCESS,
        Ended::Forced => ExitCode::FAILURE,
    }
}

fn run(settings: Settings) -> Result<Ended, RunError> {
    if !settings.api_address.ip().is_loopback() {
        warn!("the module API has no authentication, and other hosts can reach it api={}", settings.api_address);
    }
    // Locked until the end of the process.
    let data_dir = DataDir::open(&settings.data_dir, std::process::id())?;
    let puzzle = Puzzle::new(settings.pow_bits);
    let identity = identity(&settings, &data_dir, puzzle)?;
    let store = store(&data_dir, settings.params.durability)?;
    let options = net_options(&settings, puzzle);
    let listeners = Listeners::bind(&options).map_err(RunError::Bind)?;
    let api = listeners.api_address();
    let p2p: Vec<String> = listeners.p2p_addresses().map(|address| address.to_string()).collect();
    let bound = listeners.p2p_addresses().next().map_or(0, |address| address.port());
    let me = Me { id: identity.id(), port: settings.advertise_port.map_or(bound, Into::into) };

    let clock = Clock::start();
    let mut node = Node::new(me, settings.params, entropy::seed().map_err(RunError::Entropy)?, clock.now());
    if let Some(boot) = clock.boot() {
        node.booted(boot);
    }
    load(&store, clock, &mut node)?;
    let mut event_loop = EventLoop::new(options, listeners, &identity, clock, node).map_err(RunError::Loop)?;
    let (batches, results) = event_loop.attach_disk_writer();
    let disk_writer = DiskWriter::start(store, batches, results, event_loop.waker()).map_err(RunError::Io)?;
    event_loop.watch_signals().map_err(RunError::Io)?;
    info!("listening api={api} p2p={} id={:.8}", p2p.join(","), me.id);
    let ended = event_loop.run().map_err(RunError::Loop)?;
    info!("stopped {} {}", event_loop.service().counters(), event_loop.counters());
    if ended == Ended::Left {
        let lost = event_loop.service().lost_records();
        drop(event_loop); // closes the channels, which ends the disk writer
        disk_writer.join().map_err(|_| RunError::DiskWriter)?;
        if lost > 0 {
            return Err(RunError::Lost { records: lost });
        }
    }
    Ok(ended)
}

/// Replaces a damaged store by what is intact of it.
fn salvage(settings: &Settings) -> Result<(), RunError> {
    let data_dir = DataDir::open(&settings.data_dir, std::process::id())?;
    match data_dir.salvage(store_id()?)? {
        None => info!("the store is intact data_dir={}", settings.data_dir.display()),
        Some(Salvaged { keys, dropped: Dropped { files, bytes }, original }) => {
            let original = original.display();
            info!("salvaged keys={keys} dropped_files={files} dropped_bytes={bytes} original={original}");
        }
    }
    Ok(())
}

/// The store of this node. With `durability = none` records are not persisted, so a store that
/// contains records is moved aside, and the node continues with its contacts alone.
fn store(data_dir: &DataDir, durability: Durability) -> Result<Store, RunError> {
    let store = data_dir.store(store_id()?)?;
    if durability != Durability::None || store.is_empty() {
        return Ok(store);
    }
    let contacts = store.contacts()?;
    drop(store);
    let aside = data_dir.set_store_aside()?;
    warn!("durability is none: moved the records of an earlier run aside path={}", aside.display());
    let mut fresh = data_dir.store(store_id()?)?;
    fresh.write(&Batch { sync: true, contacts: Some(contacts), ..Batch::default() })?;
    Ok(fresh)
}

/// The id of a new store.
fn store_id() -> Result<StoreId, RunError> {
    let seed = entropy::seed().map_err(RunError::Entropy)?;
    Ok(*seed.first_chunk().expect("16 of 32 bytes"))
}

/// Keys that are prefetched and restored together.
const KEYS_AT_A_TIME: usize = 32;

/// Restores the records and contacts of the previous run.
fn load(store: &Store, clock: Clock, node: &mut Node) -> Result<(), RunError> {
    let begun = clock.now();
    let (mut records, mut keys, mut progress) = (0, 0, Progress::new(begun.mono));
    store.read_packs(|pack| node.restore_pack(begun, pack))?;
    node.expect_restored(store.len());
    store.read_keys(|some| {
        if progress.is_due(clock.now().mono) {
            info!("loading keys={keys} of={}", store.len());
        }
        keys += some.len();
        let mut some = some.into_iter();
        while let Some(next) = some.as_slice().chunks(KEYS_AT_A_TIME).next() {
            node.prefetch_for_restoring(next);
            for persisted in some.by_ref().take(KEYS_AT_A_TIME) {
                records += usize::from(persisted.record.is_some());
                node.restore(begun, persisted);
            }
        }
    })?;
    let records = records - node.storage().without_room().records;
    let contacts = store.contacts()?;
    let known = contacts.len();
    for contact in contacts {
        node.remember(begun, contact);
    }
    info!("loaded records={records} contacts={known} took_ms={}", (clock.now().mono - begun.mono).as_millis());
    node.restored(begun);
    Ok(())
}

/// When the progress of a long start is logged.
struct Progress {
    next: Time,
}

impl Progress {
    /// A start of this duration is not long.
    const FIRST: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_secs(1);

    fn new(begun: Time) -> Self {
        Self { next: begun + Self::FIRST }
    }

    /// Whether a line is due; then the next one is due a second later.
    fn is_due(&mut self, now: Time) -> bool {
        let is_due = self.next <= now;
        if is_due {
            self.next = now + Self::PAUSE;
        }
        is_due
    }
}

/// The node's key: the host key if it is an Ed25519 key, otherwise the one in the data directory.
fn identity(settings: &Settings, data_dir: &DataDir, puzzle: Puzzle) -> Result<Identity, RunError> {
    if let Some(path) = &settings.hostkey {
        match disk::host_key(path, puzzle)? {
            HostKey::Ed25519(identity) => return Ok(identity),
            HostKey::NotEd25519 => info!("hostkey ignored: not an Ed25519 key path={}", path.display()),
            HostKey::Missing => info!("hostkey ignored: no such file path={}", path.display()),
        }
    }
    Ok(data_dir.identity(puzzle, entropy::seed().map_err(RunError::Entropy)?)?)
}

fn net_options(settings: &Settings, puzzle: Puzzle) -> net::Options {
    let p2p_addresses = match settings.params.serving {
        Serving::Yes => settings.p2p_addresses.clone(),
        Serving::No => Vec::new(),
    };
    net::Options {
        api_address: settings.api_address,
        p2p_addresses,
        api_idle_timeout: settings.api_idle_timeout,
        api_connections_max: settings.api_connections_max,
        peer_connections_max: settings.params.peer_connections_max,
        leave_timeout: settings.params.leave_timeout,
        puzzle,
    }
}

/// Why the server did not start, or stopped.
#[derive(Debug)]
enum RunError {
    Disk(DiskError),
    Store(StoreError),
    Entropy(EntropyError),
    Bind(BindError),
    Loop(LoopError),
    Io(io::Error),
    /// The thread that writes to disk has panicked; the panic message is on standard error.
    DiskWriter,
    /// Records were neither handed over nor written to disk before the end.
    Lost {
        records: usize,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Entropy(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Loop(error) => error.fmt(f),
            Self::Io(error) => write!(f, "the event loop cannot start: {error}"),
            Self::DiskWriter => write!(f, "the thread that writes to disk has panicked"),
            Self::Lost { records } => write!(f, "{records} records are lost: no other node and no disk has them"),
        }
    }
}

impl From<DiskError> for RunError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        read_args(arguments).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_node_runs_on_the_file_behind_c() {
        let run = Command::Run { config: "a b.ini".into() };
        for arguments in [&["-c", "a b.ini"][..], &["-ca b.ini"], &["--config", "a b.ini"], &["--config=a b.ini"]] {
            assert_eq!(read_args(arguments).expect("a command"), run, "{arguments:?}");
        }
    }

    #[test]
    fn a_configuration_is_validated_without_running() {
        let check = Command::CheckConfig { config: "x.ini".into() };
        assert_eq!(read_args(["-c", "x.ini", "--check-config"]).expect("a command"), check);
        assert_eq!(read_args(["--check-config", "-c", "x.ini"]).expect("a command"), check);
    }

    #[test]
    fn a_damaged_store_is_salvaged_without_running() {
        let salvage = Command::Salvage { config: "x.ini".into() };
        assert_eq!(read_args(["-c", "x.ini", "--salvage"]).expect("a command"), salvage);
        let both = refusal(&["-c", "x.ini", "--salvage", "--check-config"]);
        assert_eq!(both, "--salvage: found --check-config, expected one of them");
    }

    #[test]
    fn help_and_version_need_no_file() {
        let printed = |arguments: &[&str]| match read_args(arguments) {
            Err(UsageError::Help(text)) => text,
            other => panic!("{arguments:?}: {other:?}"),
        };
        for arguments in [&["-h"][..], &["--help", "-V"]] {
            for option in ["-c, --config FILE", "--check-config", "-h, --help", "-V, --version"] {
                assert!(printed(arguments).contains(option), "{option}");
            }
        }
        assert!(printed(&["-V"]).starts_with("dht-server "));
        assert_eq!(printed(&["-V"]), printed(&["--version"]));
    }

    #[test]
    fn a_refusal_says_what_was_found_and_what_was_expected() {
        assert_eq!(refusal(&[]), "-c: found nothing, expected the configuration FILE");
        assert_eq!(refusal(&["--check-config"]), "-c: found nothing, expected the configuration FILE");
        assert_eq!(refusal(&["--port", "7"]), "found unknown option `port`, expected one that -h lists");
        assert_eq!(refusal(&["-h", "-x"]), "found unknown option `x`, expected one that -h lists");
        assert_eq!(refusal(&["-c"]), "found option `c` without a value, expected one");
        assert_eq!(refusal(&["-c", "a", "-c", "b"]), "found option `config` twice, expected it once");
        assert_eq!(refusal(&["--help=me"]), "found a value for option `help`, expected none");
        assert_eq!(refusal(&["-c", "a", "b"]), "arguments: found `b`, expected -c FILE [--check-config|--salvage]");
        assert_eq!(
            refusal(&["config.ini"]),
            "arguments: found `config.ini`, expected -c FILE [--check-config|--salvage]"
        );
    }

    #[test]
    fn the_progress_of_a_long_start_is_logged_once_a_second() {
        let mut progress = Progress::new(Time::ZERO + Duration::from_secs(1));
        let due = (0..70).filter(|tenths| progress.is_due(Time::ZERO + Duration::from_millis(tenths * 100)));
        assert_eq!(due.collect::<Vec<_>>(), [30, 40, 50, 60]);
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        assert!(read_args([OsStr::from_bytes(b"-c"), OsStr::from_bytes(b"\xff")]).is_err());
    }
}
