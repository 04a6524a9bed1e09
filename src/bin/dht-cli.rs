//! `dht-cli`: puts and gets values for people, over the module API of a node.
//!
//! The value of a GET goes to standard output, byte for byte, and nothing else does; whatever
//! there is to say goes to standard error. The exit status tells the rest: see [`Failure`].
//!
//! One connection, one request, and blocking sockets: whoever has one question may wait for the
//! answer. A PUT that asks for no confirmation gets no answer (`PROTOCOL.md` 1, rule 1), so it
//! waits for the node to close the connection: by then it has taken the value, unless it found
//! the request malformed, which only `--confirm` would tell.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use dht::id::{KEY_SIZE, Key};
use dht::limits::VALUE_SIZE_MAX;
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::codec::WireError;
use dht::wire::frame::next_frame;
use getopts::{Matches, Options};

/// Where a node serves modules unless its configuration says otherwise.
const ADDRESS_DEFAULT: &str = "127.0.0.1:7401";

/// Seconds without a sign of the node: three times what it takes at most to answer, by default.
const TIMEOUT_DEFAULT_SECS: u16 = 30;

/// Bytes that one read may bring.
const READ_SIZE: usize = 16 << 10;

const BRIEF: &str = "\
usage: dht-cli [options] put KEY VALUE
       dht-cli [options] get KEY

KEY is text of at most 32 bytes, filled up with zeros. VALUE is text, or `-` for standard input.
What begins with a dash goes behind `--`.

Exit status: 0 done or found; 1 not found or not confirmed; 2 wrong usage; 3 no answer.";

/// What the command line asks for.
enum Order {
    Help,
    Version,
    Run(Request),
}

/// One request to one node.
struct Request {
    address: String,
    timeout: Duration,
    key: Key,
    verb: Verb,
}

enum Verb {
    Get,
    Put { ttl: u16, replication: u8, confirm: Confirm, value: Vec<u8> },
}

/// Why there is nothing good to report.
#[derive(Debug)]
enum Failure {
    /// The node has asked around: nobody has a value. Exit status 1.
    NotFound,
    /// Not as many nodes as asked for said in time that they hold the value; they may yet.
    /// Exit status 1.
    NotConfirmed,
    /// The command line makes no sense. Exit status 2.
    Usage(UsageError),
    /// There is no connection, or it broke. Exit status 3.
    Unreachable { address: String, cause: io::Error },
    /// The node closed the connection and owed an answer. Exit status 3.
    Closed { address: String },
    /// The answer is none. Exit status 3.
    Senseless { address: String, cause: WireError },
    /// The answer speaks of another key. Exit status 3.
    OtherKey { address: String },
    /// Standard output takes no more. Exit status 3.
    Output(io::Error),
}

/// What is wrong with the command line, with what was found.
#[derive(Debug)]
enum UsageError {
    Option(getopts::Fail),
    NoCommand,
    Command { found: String },
    Arguments { command: &'static str, expected: &'static str, found: usize },
    OfPut { option: &'static str },
    Number { option: &'static str, found: String, least: u16, most: u16 },
    Address { found: String },
    KeyTooLong { bytes: usize },
    RawKey { found: String },
    ValueEmpty,
    ValueTooLong,
    Input(io::Error),
}

fn main() -> ExitCode {
    let options = options();
    let outcome = read_order(&options, std::env::args_os().skip(1), io::stdin()).map_err(Failure::Usage);
    let outcome = outcome.and_then(|order| match order {
        Order::Help => print(options.usage(BRIEF).as_bytes()),
        Order::Version => print(concat!("dht-cli ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()),
        Order::Run(request) => match perform(&request)? {
            Some(value) => print_value(&value),
            None => Ok(()),
        },
    });
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

// ── the command line ─────────────────────────────────────────────────────────────────────────

fn options() -> Options {
    let mut options = Options::new();
    options.optopt("a", "address", &format!("the node's module API ({ADDRESS_DEFAULT})"), "HOST:PORT");
    options.optopt("", "ttl", "put: seconds the value lives, up to 65535 (the node's default)", "S");
    options.optopt("", "replication", "put: nodes that shall hold it (the node's default)", "N");
    options.optflag("", "confirm", "put: wait until that many nodes hold it");
    options.optflag("", "raw-key", "KEY is 64 hex digits");
    options.optopt("", "timeout", &format!("seconds to wait for the node ({TIMEOUT_DEFAULT_SECS})"), "S");
    options.optflag("h", "help", "print this and exit");
    options.optflag("V", "version", "print the version and exit");
    options
}

fn read_order(
    options: &Options,
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
    input: impl Read,
) -> Result<Order, UsageError> {
    let matches = options.parse(arguments).map_err(UsageError::Option)?;
    if matches.opt_present("help") {
        return Ok(Order::Help);
    }
    if matches.opt_present("version") {
        return Ok(Order::Version);
    }
    let words: Vec<&str> = matches.free.iter().map(String::as_str).collect();
    let (key, verb) = match words[..] {
        ["get", key] => {
            refuse_options_of_put(&matches)?;
            (key, Verb::Get)
        }
        ["put", key, value] => (key, read_put(&matches, value, input)?),
        ["get", ..] => return Err(UsageError::Arguments { command: "get", expected: "KEY", found: words.len() - 1 }),
        ["put", ..] => {
            return Err(UsageError::Arguments { command: "put", expected: "KEY VALUE", found: words.len() - 1 });
        }
        [found, ..] => return Err(UsageError::Command { found: found.to_owned() }),
        [] => return Err(UsageError::NoCommand),
    };
    let key = if matches.opt_present("raw-key") { raw_key(key)? } else { padded_key(key)? };
    let timeout = number(&matches, "timeout", 1, u16::MAX)?.unwrap_or(TIMEOUT_DEFAULT_SECS);
    let address = address(matches.opt_str("address").unwrap_or_else(|| ADDRESS_DEFAULT.to_owned()))?;
    Ok(Order::Run(Request { address, timeout: Duration::from_secs(timeout.into()), key, verb }))
}

fn refuse_options_of_put(matches: &Matches) -> Result<(), UsageError> {
    match ["ttl", "replication", "confirm"].into_iter().find(|option| matches.opt_present(option)) {
        Some(option) => Err(UsageError::OfPut { option }),
        None => Ok(()),
    }
}

fn read_put(matches: &Matches, value: &str, input: impl Read) -> Result<Verb, UsageError> {
    let ttl = number(matches, "ttl", 0, u16::MAX)?.unwrap_or(0);
    let replication = number(matches, "replication", 0, u8::MAX.into())?.unwrap_or(0);
    let replication = u8::try_from(replication).expect("the number was read as one up to 255");
    let confirm = if matches.opt_present("confirm") { Confirm::Yes } else { Confirm::No };
    let mut bytes = Vec::new();
    if value == "-" {
        // One byte beyond the bound tells a value that is too long from the longest.
        input.take(VALUE_SIZE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(UsageError::Input)?;
    } else {
        bytes.extend_from_slice(value.as_bytes());
    }
    match bytes.len() {
        0 => Err(UsageError::ValueEmpty),
        1..=VALUE_SIZE_MAX => Ok(Verb::Put { ttl, replication, confirm, value: bytes }),
        _ => Err(UsageError::ValueTooLong),
    }
}

fn number(matches: &Matches, option: &'static str, least: u16, most: u16) -> Result<Option<u16>, UsageError> {
    let Some(text) = matches.opt_str(option) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(UsageError::Number { option, found: text, least, most }),
    }
}

/// Checks that `text` is made of a host and a port; whether the host exists is for later.
fn address(text: String) -> Result<String, UsageError> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text),
        _ => Err(UsageError::Address { found: text }),
    }
}

/// The key as the course's client makes it: the text's UTF-8 bytes, filled up with zeros.
fn padded_key(text: &str) -> Result<Key, UsageError> {
    let mut bytes = [0; KEY_SIZE];
    let head = bytes.get_mut(..text.len()).ok_or(UsageError::KeyTooLong { bytes: text.len() })?;
    head.copy_from_slice(text.as_bytes());
    Ok(Key::new(bytes))
}

fn raw_key(text: &str) -> Result<Key, UsageError> {
    Key::from_hex(text).ok_or_else(|| UsageError::RawKey { found: text.to_owned() })
}

// ── the request ──────────────────────────────────────────────────────────────────────────────

/// Sends `request` and waits for its end; the value, if it was a GET.
fn perform(request: &Request) -> Result<Option<Vec<u8>>, Failure> {
    let unreachable = |cause| Failure::Unreachable { address: request.address.clone(), cause };
    let mut bytes = Vec::new();
    request.as_message().encode(&mut bytes);
    let mut node = connect(&request.address, request.timeout).map_err(unreachable)?;
    node.write_all(&bytes).map_err(unreachable)?;
    match &request.verb {
        Verb::Put { confirm: Confirm::No, .. } => {
            await_close(&mut node).map_err(unreachable)?;
            Ok(None)
        }
        Verb::Put { confirm: Confirm::Yes, .. } => {
            read_answer(&mut node, request)?.ok_or(Failure::NotConfirmed)?;
            Ok(None)
        }
        Verb::Get => read_answer(&mut node, request)?.ok_or(Failure::NotFound).map(Some),
    }
}

impl Request {
    fn as_message(&self) -> ApiRequest<'_> {
        let key = self.key;
        match &self.verb {
            Verb::Get => ApiRequest::Get { key },
            &Verb::Put { ttl, replication, confirm, ref value } => {
                ApiRequest::Put(Put { ttl, replication, confirm, key, value })
            }
        }
    }
}

/// Connects to the first of the addresses of `address` that answers; each has the whole timeout.
fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(node) => {
                node.set_read_timeout(Some(timeout))?;
                node.set_write_timeout(Some(timeout))?;
                return Ok(node);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Says that no request follows, and returns once the node has closed its side too.
fn await_close(node: &mut TcpStream) -> io::Result<()> {
    node.shutdown(Shutdown::Write)?;
    io::copy(node, &mut io::sink())?;
    Ok(())
}

/// Reads the whole answer to `request`: the value of SUCCESS, `None` for FAILURE.
fn read_answer(node: &mut impl Read, request: &Request) -> Result<Option<Vec<u8>>, Failure> {
    let address = || request.address.clone();
    let mut inbox = Vec::new();
    let mut chunk = [0; READ_SIZE];
    let reply = loop {
        let frame = next_frame(Source::Server, &inbox);
        if let Some((frame, _size)) = frame.map_err(|cause| Failure::Senseless { address: address(), cause })? {
            break ApiReply::decode(frame).map_err(|cause| Failure::Senseless { address: address(), cause })?;
        }
        match node.read(&mut chunk) {
            Ok(0) => return Err(Failure::Closed { address: address() }),
            Ok(count) => inbox.extend_from_slice(&chunk[..count]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(Failure::Unreachable { address: address(), cause }),
        }
    };
    match reply {
        ApiReply::Success { key, value } if key == request.key => Ok(Some(value.to_vec())),
        ApiReply::Failure { key } if key == request.key => Ok(None),
        ApiReply::Success { .. } | ApiReply::Failure { .. } => Err(Failure::OtherKey { address: address() }),
    }
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(Failure::Output)
}

/// Prints exactly the value; a terminal gets a newline behind one that has none.
fn print_value(value: &[u8]) -> Result<(), Failure> {
    print(value)?;
    if io::stdout().is_terminal() && !value.ends_with(b"\n") {
        print(b"\n")?;
    }
    Ok(())
}

// ── what went wrong ──────────────────────────────────────────────────────────────────────────

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::NotFound | Failure::NotConfirmed => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable { .. }
            | Failure::Closed { .. }
            | Failure::Senseless { .. }
            | Failure::OtherKey { .. }
            | Failure::Output(_) => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotFound => write!(f, "not found"),
            Failure::NotConfirmed => write!(f, "not confirmed: it is unknown how many nodes hold the value"),
            Failure::Usage(error) => error.fmt(f),
            // What a blocking socket calls its timeout, by platform.
            Failure::Unreachable { address, cause }
                if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                write!(f, "{address}: no answer in time")
            }
            Failure::Unreachable { address, cause } => write!(f, "{address}: {cause}"),
            Failure::Closed { address } => write!(f, "{address}: closed the connection without an answer"),
            Failure::Senseless { address, cause } => write!(f, "{address}: {cause}"),
            Failure::OtherKey { address } => write!(f, "{address}: answered for another key"),
            Failure::Output(cause) => write!(f, "standard output: {cause}"),
        }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UsageError::Option(fail) => fail.fmt(f),
            UsageError::NoCommand => write!(f, "no command, expected `put` or `get`"),
            UsageError::Command { found } => write!(f, "found `{found}`, expected `put` or `get`"),
            UsageError::Arguments { command, expected, found } => {
                write!(f, "arguments of `{command}`: found {found}, expected {expected}")
            }
            UsageError::OfPut { option } => write!(f, "found --{option}, which only `put` takes"),
            UsageError::Number { option, found, least, most } => {
                write!(f, "found `{found}` for --{option}, expected a number from {least} to {most}")
            }
            UsageError::Address { found } => {
                write!(f, "found `{found}` for --address, expected HOST:PORT, such as {ADDRESS_DEFAULT}")
            }
            UsageError::KeyTooLong { bytes } => write!(f, "the key has {bytes} bytes, expected at most {KEY_SIZE}"),
            UsageError::RawKey { found } => write!(f, "found `{found}` for the raw key, expected 64 hex digits"),
            UsageError::ValueEmpty => write!(f, "the value is empty, expected 1 to {VALUE_SIZE_MAX} bytes"),
            UsageError::ValueTooLong => write!(f, "the value is too long, expected 1 to {VALUE_SIZE_MAX} bytes"),
            UsageError::Input(cause) => write!(f, "standard input: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(line: &str, input: &[u8]) -> Result<Order, UsageError> {
        read_order(&options(), line.split_whitespace().map(Into::into), input)
    }

    fn request(line: &str, input: &[u8]) -> Request {
        match order(line, input) {
            Ok(Order::Run(request)) => request,
            Ok(_) => panic!("`{line}` asks for no request"),
            Err(error) => panic!("`{line}`: {error}"),
        }
    }

    fn complaint(line: &str, input: &[u8]) -> String {
        order(line, input).err().expect("a usage error").to_string()
    }

    fn answer(reply: &ApiReply<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_put_carries_what_the_command_line_says() {
        let put = request("put --ttl 60 --replication 3 --confirm hello world", b"");
        let mut key = [0; KEY_SIZE];
        key[..5].copy_from_slice(b"hello");
        let expected = Put { ttl: 60, replication: 3, confirm: Confirm::Yes, key: Key::new(key), value: &b"world"[..] };
        assert_eq!(put.as_message(), ApiRequest::Put(expected));
        assert_eq!(put.address, ADDRESS_DEFAULT);
    }

    #[test]
    fn what_is_not_said_is_left_to_the_node() {
        let put = request("put hello world -a node:1 --timeout 2", b"");
        assert!(matches!(put.verb, Verb::Put { ttl: 0, replication: 0, confirm: Confirm::No, .. }));
        assert_eq!((put.address.as_str(), put.timeout), ("node:1", Duration::from_secs(2)));
    }

    #[test]
    fn a_dash_reads_the_value_from_standard_input_up_to_the_longest() {
        let longest = vec![0xff; VALUE_SIZE_MAX];
        assert!(matches!(request("put k -", &longest).verb, Verb::Put { value, .. } if value == longest));
        let longer = vec![0xff; VALUE_SIZE_MAX + 1];
        assert_eq!(complaint("put k -", &longer), "the value is too long, expected 1 to 65495 bytes");
        assert_eq!(complaint("put k -", b""), "the value is empty, expected 1 to 65495 bytes");
    }

    #[test]
    fn a_key_is_text_of_at_most_32_bytes_or_64_hex_digits() {
        let text = "k".repeat(KEY_SIZE);
        assert_eq!(request(&format!("get {text}"), b"").key, Key::new([b'k'; KEY_SIZE]));
        assert_eq!(complaint(&format!("get {text}k"), b""), "the key has 33 bytes, expected at most 32");
        let hex = "0f".repeat(KEY_SIZE);
        assert_eq!(request(&format!("get --raw-key {hex}"), b"").key, Key::new([0x0f; KEY_SIZE]));
        assert_eq!(complaint("get --raw-key 0f", b""), "found `0f` for the raw key, expected 64 hex digits");
    }

    #[test]
    fn a_wrong_command_line_is_told_what_was_expected() {
        assert_eq!(complaint("", b""), "no command, expected `put` or `get`");
        assert_eq!(complaint("fetch k", b""), "found `fetch`, expected `put` or `get`");
        assert_eq!(complaint("get", b""), "arguments of `get`: found 0, expected KEY");
        assert_eq!(complaint("put k", b""), "arguments of `put`: found 1, expected KEY VALUE");
        assert_eq!(complaint("get k --ttl 5", b""), "found --ttl, which only `put` takes");
        assert_eq!(complaint("put k v --ttl 65536", b""), "found `65536` for --ttl, expected a number from 0 to 65535");
        assert_eq!(
            complaint("get k -a localhost", b""),
            "found `localhost` for --address, expected HOST:PORT, such as 127.0.0.1:7401"
        );
        assert_eq!(complaint("get k --timeout 0", b""), "found `0` for --timeout, expected a number from 1 to 65535");
    }

    #[test]
    fn an_answer_is_read_whole_however_it_arrives() {
        let get = request("get k", b"");
        let value = vec![7; VALUE_SIZE_MAX];
        let bytes = answer(&ApiReply::Success { key: get.key, value: &value });
        for cut in [1, 4, 36, 4096, bytes.len() - 1] {
            let mut node = bytes[..cut].chain(&bytes[cut..]);
            let found = read_answer(&mut node, &get).expect("an answer");
            assert!(found.as_ref() == Some(&value), "cut at {cut} bytes");
        }
        let failure = answer(&ApiReply::Failure { key: get.key });
        assert!(matches!(read_answer(&mut &failure[..], &get), Ok(None)));
    }

    #[test]
    fn what_is_no_answer_is_told_apart_from_not_found() {
        let get = request("get k", b"");
        let other = answer(&ApiReply::Failure { key: Key::new([9; KEY_SIZE]) });
        assert!(matches!(read_answer(&mut &other[..], &get), Err(Failure::OtherKey { .. })));
        assert!(matches!(read_answer(&mut &other[..35], &get), Err(Failure::Closed { .. })));
        assert!(matches!(read_answer(&mut &b"HTTP/1.1"[..], &get), Err(Failure::Senseless { .. })));
    }
}
