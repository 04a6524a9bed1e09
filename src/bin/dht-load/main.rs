//! `dht-load`: measures servers that speak the module API, Redis or memcached.
//!
//! The report goes to standard output, as text or, with `--json`, as one line of JSON; everything
//! else goes to standard error. `dht-load echo` is the reference server for comparisons: it logs its
//! address and answers GETs until a signal ends it. `load.rs` describes how the generator measures.
//!
//! [`Failure`] lists the exit statuses.

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

use dht::cli::EXIT_USAGE;
use echo::Echo;
use keys::{Keys, KeysError};
use load::LoadError;
use plan::Plan;
use report::Report;

use args::{Command, Form, KeysWanted, Measurement, Preload, read_args};

fn main() -> ExitCode {
    let command = match read_args(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return error.report("dht-load"),
    };
    let outcome = match command {
        Command::Echo { address, value_size } => echo(&address, value_size),
        Command::Measure(measurement) => measure(*measurement),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dht-load: {failure}");
            failure.exit_code()
        }
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
        load::preload(&plan, &keys).map_err(Failure::Load)?;
    }
    let report = load::run(&plan, &keys).map_err(Failure::Load)?;
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

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The run was reported, but some answers were wrong, or none came. Exit status 1.
    Answers { right: u64, failures: u64 },
    /// A file of keys cannot be read. Exit status 2.
    KeysFile { path: PathBuf, cause: io::Error },
    /// A file of keys has a wrong line. Exit status 2.
    Keys { path: PathBuf, cause: KeysError },
    /// An address cannot be resolved or used. Exit status 3.
    Address { address: String, cause: io::Error },
    /// Server unreachable, or lost during the run. Exit status 3; 1 if it did not store all keys.
    Load(LoadError),
    /// Standard output cannot be written. Exit status 3.
    Output(io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Answers { .. } | Failure::Load(LoadError::Preload { .. }) => 1,
            Failure::KeysFile { .. } | Failure::Keys { .. } => EXIT_USAGE,
            Failure::Address { .. } | Failure::Load(_) | Failure::Output(_) => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Answers { right: 0, failures: 0 } => write!(f, "no answers"),
            Failure::Answers { right, failures } => write!(f, "{failures} failures, {right} right answers"),
            Failure::KeysFile { path, cause } => write!(f, "{}: {cause}", path.display()),
            Failure::Keys { path, cause } => write!(f, "{}: {cause}", path.display()),
            Failure::Address { address, cause } => write!(f, "{address}: {cause}"),
            Failure::Load(error) => error.fmt(f),
            Failure::Output(cause) => write!(f, "standard output: {cause}"),
        }
    }
}
