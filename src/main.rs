//! `dht-server -c FILE`: puts the pieces together, and no more.
//!
//! Reads the command line and the configuration, takes hold of the data directory, makes the
//! node and runs the loop. Everything that decides anything is in the library.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use dht::cli::{self, CliError, Command, Exit};
use dht::config::{ConfigError, Settings};
use dht::disk::saver::Saver;
use dht::disk::store::{Store, StoreError};
use dht::disk::{self, DataDir, DiskError, HostKey};
use dht::identity::{Identity, Puzzle};
use dht::net::clock::Clock;
use dht::net::entropy::{self, EntropyError};
use dht::net::{BindError, DiskWriter, Ended, EventLoop, Listeners, LoopError, Options};
use dht::node::params::{Durability, Serving};
use dht::node::persisted::Batch;
use dht::node::{Me, Node};
use log::{error, info, warn};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return misused(&error).into(),
    };
    let exit = match command {
        Command::Help => {
            print!("{}", cli::usage());
            Exit::Success
        }
        Command::Version => {
            println!("{}", cli::version());
            Exit::Success
        }
        Command::CheckConfig { config } => check(&config),
        Command::Run { config } => start(&config),
    };
    exit.into()
}

fn misused(error: &CliError) -> Exit {
    eprintln!("dht-server: {error}");
    Exit::Usage
}

fn check(config: &Path) -> Exit {
    match Settings::load(config) {
        Ok((_, warnings)) if warnings.is_empty() => {
            println!("{}: right", config.display());
            Exit::Success
        }
        Ok((_, mistakes)) | Err(mistakes) => refuse(&mistakes),
    }
}

fn refuse(mistakes: &[ConfigError]) -> Exit {
    for mistake in mistakes {
        eprintln!("{mistake}");
    }
    Exit::Usage
}

fn start(config: &Path) -> Exit {
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
    match run(settings) {
        Ok(Ended::Left) => Exit::Success,
        Ok(Ended::Forced) => Exit::Runtime,
        Err(error) => {
            error!("{error}");
            Exit::Runtime
        }
    }
}

fn run(settings: Settings) -> Result<Ended, RunError> {
    if !settings.api_address.ip().is_loopback() {
        warn!("the module API has no authentication, and is open to others api={}", settings.api_address);
    }
    // Held to the end of the process.
    let data_dir = DataDir::open(&settings.data_dir, std::process::id())?;
    let puzzle = Puzzle::new(settings.pow_bits);
    let identity = identity(&settings, &data_dir, puzzle)?;
    let store = store(&data_dir, settings.params.durability)?;
    let options = options(&settings, puzzle);
    let listeners = Listeners::bind(&options)?;
    let api = listeners.api_address();
    let p2p: Vec<String> = listeners.p2p_addresses().map(|address| address.to_string()).collect();
    let bound = listeners.p2p_addresses().next().map_or(0, |address| address.port());
    let me = Me { id: identity.id(), port: settings.advertise_port.map_or(bound, Into::into) };

    let clock = Clock::start();
    let mut node = Node::new(me, settings.params, entropy::seed()?, clock.now());
    load(&store, clock, &mut node)?;
    let mut event_loop = EventLoop::new(options, listeners, &identity, clock, node)?;
    let (saver, ends) = Saver::start(store, event_loop.waker())?;
    event_loop.write_with(DiskWriter { batches: ends.batches, saved: ends.saved });
    event_loop.watch_signals()?;
    info!("listening api={api} p2p={} id={:.8}", p2p.join(","), me.id);
    let ended = event_loop.run()?;
    info!("stopped {} {}", event_loop.service().counters(), event_loop.counters());
    if ended == Ended::Left {
        drop(event_loop); // and with it the saver's work
        saver.join().map_err(|_| RunError::Saver)?;
    }
    Ok(ended)
}

/// The store of this node. Where records live in memory alone, one that holds some is none of its
/// own: it is moved aside, and only the contacts in it go on.
fn store(data_dir: &DataDir, durability: Durability) -> Result<Store, RunError> {
    let store = data_dir.store()?;
    if durability != Durability::None || store.is_empty()? {
        return Ok(store);
    }
    let contacts = store.contacts()?;
    drop(store);
    let aside = data_dir.set_store_aside()?;
    warn!("durability is none, records of an earlier run moved aside path={}", aside.display());
    let mut fresh = data_dir.store()?;
    fresh.write(&Batch { keys: Vec::new(), contacts: Some(contacts) })?;
    Ok(fresh)
}

/// Gives the node back what it held and knew when it last ran.
fn load(store: &Store, clock: Clock, node: &mut Node) -> Result<(), RunError> {
    let begun = clock.now();
    let mut records = 0_u64;
    for kept in store.keys() {
        let kept = kept?;
        let key = kept.key;
        let is_record = kept.record.is_some();
        match node.restore(begun, kept) {
            Ok(()) => records += u64::from(is_record),
            Err(error) => warn!("record dropped key={key} fault=\"{error}\""),
        }
    }
    let contacts = store.contacts()?;
    let known = contacts.len();
    for contact in contacts {
        node.remember(begun, contact);
    }
    info!("loaded records={records} contacts={known} took_ms={}", (clock.now().mono - begun.mono).as_millis());
    Ok(())
}

/// The node's key: the host's, if it is of the right kind, or one of its own.
fn identity(settings: &Settings, data_dir: &DataDir, puzzle: Puzzle) -> Result<Identity, RunError> {
    if let Some(path) = &settings.hostkey {
        match disk::host_key(path, puzzle)? {
            HostKey::Ed25519(identity) => return Ok(identity),
            HostKey::NotEd25519 => info!("hostkey left alone, it is no Ed25519 key path={}", path.display()),
            HostKey::Missing => info!("hostkey left alone, there is none path={}", path.display()),
        }
    }
    Ok(data_dir.identity(puzzle, entropy::seed()?)?)
}

fn options(settings: &Settings, puzzle: Puzzle) -> Options {
    let p2p_addresses = match settings.params.serving {
        Serving::Yes => settings.p2p_addresses.clone(),
        Serving::No => Vec::new(),
    };
    Options {
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
    /// The thread that writes has panicked, and said why.
    Saver,
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
            Self::Saver => write!(f, "the thread that writes to disk has panicked"),
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

impl From<EntropyError> for RunError {
    fn from(error: EntropyError) -> Self {
        Self::Entropy(error)
    }
}

impl From<BindError> for RunError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<LoopError> for RunError {
    fn from(error: LoopError) -> Self {
        Self::Loop(error)
    }
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
