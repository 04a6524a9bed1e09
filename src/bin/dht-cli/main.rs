//! `dht-cli`: puts and gets values for people, over the module API of a node.
//!
//! The value of a GET goes to standard output, byte for byte, and so does the key of a value that
//! was put hashed or signed; nothing else does. Whatever there is to say goes to standard error.
//! The exit status tells the rest: see [`Failure`].
//!
//! The node is not trusted with what a value proves: it is signed here, with a key that never
//! leaves this machine, and verified here when it comes back.

#![forbid(unsafe_code)]

mod args;
mod key_file;
mod node;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use dht::identity::PublicKey;
use dht::net::clock::Clock;
use dht::net::entropy::{self, EntropyError};
use dht::record::envelope::{Unverified, hashed_key, open, owned_key, seal, verify_hashed};
use dht::record::{Class, Version};
use dht::wire::api::Put;
use dht::wire::codec::WireError;
use ed25519_dalek::SigningKey;

use args::{Given, Order, Proof, Request, UsageError, Verb, Wanted, read_order};
use key_file::KeyFileError;
use node::Node;

fn main() -> ExitCode {
    let order = read_order(std::env::args_os().skip(1), io::stdin()).map_err(Failure::Usage);
    let outcome = order.and_then(perform).and_then(|output| print(&output));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dht-cli: {failure}");
            if matches!(failure, Failure::Usage(_)) {
                eprintln!("Try `dht-cli -h`.");
            }
            failure.exit_code()
        }
    }
}

/// Does what is asked for; returns what is to be printed.
fn perform(order: Order) -> Result<Vec<u8>, Failure> {
    match order {
        Order::Help => Ok(args::usage().into_bytes()),
        Order::Version => Ok(line(format_args!("dht-cli {}", env!("CARGO_PKG_VERSION")))),
        Order::MakeKey { path } => make_key(&path),
        Order::ShowKey { path } => Ok(line(PublicKey::of(&key_file::read(&path)?))),
        Order::Run(Request { address, timeout, verb: Verb::Get(wanted) }) => {
            get(Node::connect(&address, timeout)?, &wanted)
        }
        Order::Run(Request { address, timeout, verb: Verb::Put(given) }) => {
            put(|| Node::connect(&address, timeout), &given)
        }
    }
}

fn make_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let key = SigningKey::from_bytes(&entropy::seed().map_err(Failure::Entropy)?);
    key_file::create(path, &key)?;
    Ok(line(PublicKey::of(&key)))
}

/// The value that is wanted, if it proves what it has to.
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
                return Err(Failure::NotFound); // it was deleted
            }
            eprintln!("signed by {}, sequence {}", envelope.owner, envelope.sequence.bits());
            Ok(envelope.payload.to_vec())
        }
    }
}

/// Puts what is given; the line with its key, unless whoever gave it knows that. A key file is
/// read before any node is asked.
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
            // What is there without the owner's signature counts for nothing, here as everywhere.
            let found = node.get(key)?.and_then(|value| open(&key, &value).ok().map(|found| found.sequence));
            let sequence = Version::draw(Clock::start().now().wall, 0, found);
            // The TTL is in the envelope, and 0 in the PUT: the node leaves it as it was signed.
            node.put(put(0, Class::Signed, key, &seal(&owner, sequence, *ttl, salt.as_bytes(), value)))?;
            Ok(line(key))
        }
    }
}

fn line(text: impl fmt::Display) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

/// Prints exactly `output`; a terminal gets a newline behind a value that has none.
fn print(output: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let ends_open = !output.is_empty() && !output.ends_with(b"\n");
    let end: &[u8] = if ends_open && stdout.is_terminal() { b"\n" } else { b"" };
    stdout.write_all(output).and_then(|()| stdout.write_all(end)).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Why there is nothing good to report.
#[derive(Debug)]
enum Failure {
    /// The node has asked around: nobody has a value, or its owner has deleted it. Exit status 1.
    NotFound,
    /// Not as many nodes as asked for said in time that they hold the value; they may yet.
    /// Exit status 1.
    NotConfirmed,
    /// The command line makes no sense. Exit status 2.
    Usage(UsageError),
    /// A key file is of no use. Exit status 2.
    KeyFile(KeyFileError),
    /// There is no connection, or it broke. Exit status 3.
    Unreachable { address: String, cause: io::Error },
    /// The node closed the connection and owed an answer. Exit status 3.
    Closed { address: String },
    /// The node closed the connection at a PUT with flags. Exit status 3.
    FlagsUnknown { address: String },
    /// The answer is none. Exit status 3.
    Senseless { address: String, cause: WireError },
    /// The answer speaks of another key. Exit status 3.
    OtherKey { address: String },
    /// The value does not prove what was asked for. Exit status 3.
    Unverified(Unverified),
    /// There is no randomness to draw a key from. Exit status 3.
    Entropy(EntropyError),
    /// Standard output takes no more. Exit status 3.
    Output(io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::NotFound | Failure::NotConfirmed => 1,
            Failure::Usage(_) | Failure::KeyFile(_) => 2,
            Failure::Unreachable { .. }
            | Failure::Closed { .. }
            | Failure::FlagsUnknown { .. }
            | Failure::Senseless { .. }
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
            Failure::NotConfirmed => write!(f, "not confirmed: it is unknown how many nodes hold the value"),
            Failure::Usage(error) => error.fmt(f),
            Failure::KeyFile(error) => error.fmt(f),
            // What a blocking socket calls its timeout, by platform.
            Failure::Unreachable { address, cause }
                if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                write!(f, "{address}: no answer in time")
            }
            Failure::Unreachable { address, cause } => write!(f, "{address}: {cause}"),
            Failure::Closed { address } => write!(f, "{address}: closed the connection without an answer"),
            Failure::FlagsUnknown { address } => write!(
                f,
                "{address}: closed the connection without an answer; it may not know signed and hashed values"
            ),
            Failure::Senseless { address, cause } => write!(f, "{address}: {cause}"),
            Failure::OtherKey { address } => write!(f, "{address}: answered for another key"),
            Failure::Unverified(cause) => write!(f, "the value does not verify: {cause}"),
            Failure::Entropy(error) => error.fmt(f),
            Failure::Output(cause) => write!(f, "standard output: {cause}"),
        }
    }
}
