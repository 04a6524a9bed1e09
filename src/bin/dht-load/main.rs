//! `dht-load`: measures a server that speaks the module API, or Redis, or memcached.
//!
//! What a run found goes to standard output, for people or, with `--json`, as one line; all else
//! goes to standard error. `dht-load echo` is the yardstick: a server that only answers. It says
//! where it listens, and serves until it is ended by a signal.
//!
//! The exit status: see [`Failure`].

#![forbid(unsafe_code)]

mod args;
mod connection;
mod cpu;
mod echo;
mod keys;
mod load;
mod plan;
mod protocol;
mod report;
mod requests;
mod run;
mod schedule;
mod tally;
mod verify;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use echo::Echo;
use keys::{Keys, KeysError};
use load::LoadError;
use plan::Plan;
use report::Report;

use args::{Form, KeysWanted, Measurement, Order, Preload, UsageError, read_order};

fn main() -> ExitCode {
    let order = read_order(std::env::args_os().skip(1)).map_err(Failure::Usage);
    match order.and_then(perform) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dht-load: {failure}");
            if matches!(failure, Failure::Usage(_)) {
                eprintln!("Try `dht-load -h`.");
            }
            failure.exit_code()
        }
    }
}

fn perform(order: Order) -> Result<(), Failure> {
    match order {
        Order::Help => print(&args::usage()),
        Order::Version => print(&format!("dht-load {}\n", env!("CARGO_PKG_VERSION"))),
        Order::Echo { address, value_size } => echo(&address, value_size),
        Order::Measure(measurement) => measure(*measurement),
    }
}

fn echo(address: &str, value_size: usize) -> Result<(), Failure> {
    let unusable = |cause| Failure::Address { address: address.to_owned(), cause };
    let echo = Echo::bind(resolved(address)?, value_size).map_err(unusable)?;
    eprintln!("listening api={}", echo.address());
    echo.run().map_err(unusable)
}

fn measure(measurement: Measurement) -> Result<(), Failure> {
    let Measurement { servers, keys, preload, form, plan } = measurement;
    let servers = servers.iter().map(|server| resolved(server)).collect::<Result<_, _>>()?;
    let plan = Plan { servers, ..plan };
    let keys = match keys {
        KeysWanted::Made(count) => Keys::made(count, plan.seed, plan.protocol.alphabet()),
        KeysWanted::From(path) => keys_from(&path)?,
    };
    if preload == Preload::Yes {
        load::preload(&plan, &keys)?;
    }
    let report = load::run(&plan, &keys)?;
    if let Some(warning) = report.warning() {
        eprintln!("dht-load: warning: {warning}");
    }
    print(&match form {
        Form::Text => format!("{report}\n"),
        Form::Json => report.to_json() + "\n",
    })?;
    match report {
        Report { answers: 1.., errors, .. } if errors.total() == 0 => Ok(()),
        Report { answers, errors, .. } => Err(Failure::Answers { right: answers, failures: errors.total() }),
    }
}

/// The first address of `HOST:PORT`.
fn resolved(address: &str) -> Result<SocketAddr, Failure> {
    let unusable = |cause| Failure::Address { address: address.to_owned(), cause };
    let found = address.to_socket_addrs().map_err(unusable)?.next();
    found.ok_or_else(|| unusable(io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

fn keys_from(path: &Path) -> Result<Keys, Failure> {
    let text = fs::read_to_string(path).map_err(|cause| Failure::KeysFile { path: path.to_owned(), cause })?;
    Keys::from_text(&text).map_err(|cause| Failure::Keys { path: path.to_owned(), cause })
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Why there is nothing good to report.
#[derive(Debug)]
enum Failure {
    /// The run was reported, and not every answer was right, or there was none. Exit status 1.
    Answers { right: u64, failures: u64 },
    /// The command line makes no sense. Exit status 2.
    Usage(UsageError),
    /// A file of keys cannot be read. Exit status 2.
    KeysFile { path: PathBuf, cause: io::Error },
    /// A file of keys holds something else. Exit status 2.
    Keys { path: PathBuf, cause: KeysError },
    /// An address is unknown, or not to be had. Exit status 3.
    Address { address: String, cause: io::Error },
    /// There is no server, or no more. Exit status 3; 1 if it did not take the keys.
    Load(LoadError),
    /// Standard output takes no more. Exit status 3.
    Output(io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Answers { .. } | Failure::Load(LoadError::Preload { .. }) => 1,
            Failure::Usage(_) | Failure::KeysFile { .. } | Failure::Keys { .. } => 2,
            Failure::Address { .. } | Failure::Load(_) | Failure::Output(_) => 3,
        })
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Answers { right: 0, failures: 0 } => write!(f, "no answer came"),
            Failure::Answers { right, failures } => write!(f, "{failures} failures beside {right} right answers"),
            Failure::Usage(error) => error.fmt(f),
            Failure::KeysFile { path, cause } => write!(f, "{}: {cause}", path.display()),
            Failure::Keys { path, cause } => write!(f, "{}: {cause}", path.display()),
            Failure::Address { address, cause } => write!(f, "{address}: {cause}"),
            Failure::Load(error) => error.fmt(f),
            Failure::Output(cause) => write!(f, "standard output: {cause}"),
        }
    }
}
