//! `dht-cli`: puts and gets values over the module API of a node, for people.
//!
//! Standard output gets the value of a GET, byte for byte, or the key of a hashed or signed value
//! that was put; messages go to standard error. [`Failure`] lists the exit statuses.
//!
//! The program does not trust the node with proofs: it signs values itself, with a key that never
//! leaves this machine, and verifies the values that come back.

#![forbid(unsafe_code)]

mod args;
mod key_file;
mod node;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use dht::cli::EXIT_USAGE;
use dht::identity::PublicKey;
use dht::net::clock::Clock;
use dht::net::entropy::{self, EntropyError};
use dht::record::envelope::{Unverified, hashed_key, open, owned_key, seal, verify_hashed};
use dht::record::{Class, Version};
use dht::wire::api::Put;
use dht::wire::codec::WireError;
use ed25519_dalek::SigningKey;

use args::{Command, Given, Proof, Request, Verb, Wanted, read_args};
use key_file::KeyFileError;
use node::Node;

fn main() -> ExitCode {
    let command = match read_args(std::env::args_os().skip(1), io::stdin()) {
        Ok(command) => command,
        Err(error) => return error.report("dht-cli"),
    };
    match perform(command).and_then(|output| print(&output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dht-cli: {failure}");
            failure.exit_code()
        }
    }
}

/// Carries out `command`; returns what to print.
fn perform(command: Command) -> Result<Vec<u8>, Failure> {
    match command {
        Command::MakeKey { path } => make_key(&path),
        Command::ShowKey { path } => Ok(line(PublicKey::of(&key_file::read(&path)?))),
        Command::Run(Request { address, timeout, verb: Verb::Get(wanted) }) => {
            get(Node::connect(&address, timeout)?, &wanted)
        }
        Command::Run(Request { address, timeout, verb: Verb::Put(given) }) => {
            put(|| Node::connect(&address, timeout), &given)
        }
    }
}

fn make_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let key = SigningKey::from_bytes(&entropy::seed().map_err(Failure::Entropy)?);
    key_file::create(path, &key)?;
    Ok(line(PublicKey::of(&key)))
}

/// The wanted value, if its proof is valid.
fn get(mut node: Node, wanted: &Wanted) -> Result<Vec<u8>, Failure> {
    match wanted {
        Wanted::Plain { key } => node.get(*key)?.ok_or(Failure::NotFound),
        Wanted::Hashed { key } => {
            let value = node.get(*key)?.ok_or(Failure::NotFound)?;
            verify_hashed(key, &value).map_err(Failure::Unverified)?;
            Ok(value)
        }
        Wanted::Signed { owner, salt } => {
            let key = owned_key(owner, salt.as_bytes());
            let value = node.get(key)?.ok_or(Failure::NotFound)?;
            let envelope = open(&key, &value).map_err(Failure::Unverified)?;
            if envelope.payload.is_empty() {
                return Err(Failure::NotFound); // a deletion
            }
            eprintln!("signed by {}, sequence {}", envelope.owner, envelope.sequence.bits());
            Ok(envelope.payload.to_vec())
        }
    }
}

/// Puts a value; returns the line with its key, if the command line does not name the key. Reads a
/// key file before it connects to the node.
fn put(connect: impl FnOnce() -> Result<Node, Failure>, given: &Given) -> Result<Vec<u8>, Failure> {
    let &Given { ref value, ref proof, replication, confirm } = given;
    let put = |ttl, class, key, value| Put { ttl, replication, confirm, class, key, value };
    match proof {
        &Proof::Plain { key, ttl } => {
            connect()?.put(put(ttl, Class::Plain, key, value))?;
            Ok(Vec::new())
        }
        &Proof::Hashed { ttl } => {
            let key = hashed_key(value);
            verify_hashed(&key, value).map_err(Failure::Unverified)?;
            connect()?.put(put(ttl, Class::Hashed, key, value))?;
            Ok(line(key))
        }
        Proof::Signed { key_file, salt, ttl } => {
            let owner = key_file::read(key_file)?;
            let key = owned_key(&PublicKey::of(&owner), salt.as_bytes());
            let mut node = connect()?;
            // Ignores a stored value without a valid signature of the owner, as every node does.
            let found = node.get(key)?.and_then(|value| open(&key, &value).ok().map(|found| found.sequence));
            let sequence = Version::draw(Clock::start().now().wall, 0, found);
            // With TTL 0 in the PUT, the node takes the TTL from the envelope.
            node.put(put(0, Class::Signed, key, &seal(&owner, sequence, *ttl, salt.as_bytes(), value)))?;
            Ok(line(key))
        }
    }
}

fn line(text: impl fmt::Display) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

/// Prints exactly `output`; on a terminal, appends a newline to a value that does not end with one.
fn print(output: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let ends_open = !output.is_empty() && !output.ends_with(b"\n");
    let end: &[u8] = if ends_open && stdout.is_terminal() { b"\n" } else { b"" };
    stdout.write_all(output).and_then(|()| stdout.write_all(end)).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The lookup found no value, or the owner has deleted it. Exit status 1.
    NotFound,
    /// The node did not confirm the PUT in time. The value may be stored all the same. Exit status 1.
    NotConfirmed,
    /// A key file cannot be used. Exit status 2.
    KeyFile(KeyFileError),
    /// The program cannot connect, or the connection broke. Exit status 3.
    Unreachable { address: String, cause: io::Error },
    /// The node closed the connection before it answered. Exit status 3.
    Closed { address: String },
    /// The node closed the connection after a PUT with flags. Exit status 3.
    FlagsUnknown { address: String },
    /// The answer is malformed. Exit status 3.
    Malformed { address: String, cause: WireError },
    /// The answer is about another key. Exit status 3.
    OtherKey { address: String },
    /// The value fails verification. Exit status 3.
    Unverified(Unverified),
    /// The system provides no randomness for a key. Exit status 3.
    Entropy(EntropyError),
    /// Standard output cannot be written. Exit status 3.
    Output(io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::NotFound | Failure::NotConfirmed => 1,
            Failure::KeyFile(_) => EXIT_USAGE,
            Failure::Unreachable { .. }
            | Failure::Closed { .. }
            | Failure::FlagsUnknown { .. }
            | Failure::Malformed { .. }
            | Failure::OtherKey { .. }
            | Failure::Unverified(_)
            | Failure::Entropy(_)
            | Failure::Output(_) => 3,
        })
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Self::KeyFile(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotFound => write!(f, "not found"),
            Failure::NotConfirmed => write!(
                f,
                "not confirmed: refused, or not stored by enough nodes in time; the server's log gives the reason"
            ),
            Failure::KeyFile(error) => error.fmt(f),
            // The kind of a timeout on a blocking socket depends on the platform.
            Failure::Unreachable { address, cause }
                if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                write!(f, "{address}: no answer within the timeout")
            }
            Failure::Unreachable { address, cause } => write!(f, "{address}: {cause}"),
            Failure::Closed { address } => write!(f, "{address}: closed the connection without an answer"),
            Failure::FlagsUnknown { address } => write!(
                f,
                "{address}: closed the connection without an answer; it may not know signed and hashed values"
            ),
            Failure::Malformed { address, cause } => write!(f, "{address}: {cause}"),
            Failure::OtherKey { address } => write!(f, "{address}: answered for another key"),
            Failure::Unverified(cause) => write!(f, "the value does not verify: {cause}"),
            Failure::Entropy(error) => error.fmt(f),
            Failure::Output(cause) => write!(f, "standard output: {cause}"),
        }
    }
}
