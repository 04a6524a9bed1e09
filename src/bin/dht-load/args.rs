//! The command line: arguments → [`Order`], understood completely or refused.
//!
//! No file is read here and no name resolved.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use dht::limits::VALUE_SIZE_MAX;
use dht::wire::api::Confirm;
use getopts::{Matches, Options};

use super::keys::KEYS_MAX;
use super::plan::{Connecting, Extent, Operation, Pace, Plan, Progress, Verify};
use super::protocol::{Protocol, PutFields};

/// Where a node serves modules unless its configuration says otherwise.
const ADDRESS_DEFAULT: &str = "127.0.0.1:7401";

const CONNECTIONS_DEFAULT: u64 = 50;
/// A connection needs a descriptor and a port, and one address has some 28 000 of those.
const CONNECTIONS_MAX: u64 = 20_000;

/// As many requests as a server holds for one connection (`PROTOCOL.md` 1, rule 3).
const PIPELINE_MAX: u64 = 1024;

const SECONDS_DEFAULT: f64 = 5.0;
const SECONDS_MAX: f64 = 86_400.0;

/// The warm-up is this part of the measured time, and no longer than [`WARM_UP_MAX_SECS`].
const WARM_UP_PART: f64 = 0.15;
const WARM_UP_MAX_SECS: f64 = 0.5;

const VALUE_SIZE_DEFAULT: u64 = 64;
const KEYS_DEFAULT: u64 = 10_000;
const TTL_DEFAULT_SECS: u64 = 3600;
const REPLICATION_DEFAULT: u64 = 1;
const MIX_DEFAULT_PERCENT: u64 = 10;
const SEED_DEFAULT: u64 = 1;

/// Seconds without a sign of the server: three times what it takes at most to answer, by default.
const TIMEOUT_DEFAULT_SECS: f64 = 30.0;

/// Requests a second at most: beyond it the moments of two would be the same nanosecond.
const RATE_MAX: u64 = 100_000_000;

const BRIEF: &str = "\
usage: dht-load get|put|mix [options]
       dht-load echo [-a HOST:PORT] [--value BYTES]

get asks for values, put stores them, mix does both. echo is the yardstick: a server that answers
any GET with a value of that size, and does nothing else.

Exit status: 0 all answers were right; 1 some were not; 2 wrong usage, or a FILE of no use;
3 no server, or it was lost.";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Order {
    /// Print [`usage`].
    Help,
    /// Print the version.
    Version,
    /// Be the yardstick.
    Echo { address: String, value_size: usize },
    /// Measure a server.
    Measure(Box<Measurement>),
}

/// What is to be measured, and how it is told.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// `HOST:PORT` each; at least one.
    pub(crate) servers: Vec<String>,
    pub(crate) keys: KeysWanted,
    pub(crate) preload: Preload,
    pub(crate) form: Form,
    /// All the rest; it has no servers yet.
    pub(crate) plan: Plan,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeysWanted {
    /// So many of our own.
    Made(usize),
    /// Those in a file.
    From(PathBuf),
}

/// Whether all keys are stored first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preload {
    No,
    Yes,
}

/// How the report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

/// All options that are of no use to an echo.
#[rustfmt::skip]
const MEASURING: [&str; 21] = [
    "connections", "pipeline", "requests", "time", "warm-up", "keys", "keys-from", "seed", "rate", "mix", "ttl",
    "replication", "timeout", "protocol", "pid", "confirm", "connect-each", "preload", "verify", "progress", "json",
];

fn options() -> Options {
    let mut options = Options::new();
    let mut value = |short, long, description: &str, hint| {
        options.optopt(short, long, description, hint);
    };
    value("a", "address", &format!("servers to measure, or where to echo ({ADDRESS_DEFAULT})"), "HOST:PORT[,..]");
    value("c", "connections", &format!("connections at once ({CONNECTIONS_DEFAULT})"), "N");
    value("p", "pipeline", "requests that a connection sends before it reads (1)", "N");
    value("n", "requests", "end after so many requests", "COUNT");
    value("t", "time", &format!("measure for so long ({SECONDS_DEFAULT})"), "SECONDS");
    value("", "warm-up", &format!("before that, not counted (15 % of -t, at most {WARM_UP_MAX_SECS})"), "SECONDS");
    value("", "value", &format!("size of values ({VALUE_SIZE_DEFAULT})"), "BYTES");
    value("", "keys", &format!("how many different keys ({KEYS_DEFAULT})"), "N");
    value("", "keys-from", "keys to use instead, 64 hex digits a line", "FILE");
    value("", "seed", &format!("what keys and their order follow from ({SEED_DEFAULT})"), "N");
    value("", "rate", "open loop: so many requests a second over all, latency from when each was due", "R");
    value("", "mix", &format!("mix: how many of a hundred requests are PUTs ({MIX_DEFAULT_PERCENT})"), "PERCENT");
    value("", "ttl", &format!("PUT: seconds a value lives ({TTL_DEFAULT_SECS})"), "S");
    value("", "replication", &format!("PUT: nodes that shall hold it ({REPLICATION_DEFAULT})"), "N");
    value("", "timeout", &format!("seconds to wait for an answer ({TIMEOUT_DEFAULT_SECS})"), "SECONDS");
    value("", "protocol", "what the server speaks: dht, redis or memcached (dht)", "NAME");
    value("", "pid", "the servers' processes: report their CPU time", "PID[,..]");
    options.optflag("", "confirm", "PUT: ask to be answered; else a GET behind each batch shows that it is done");
    options.optflag("", "connect-each", "connect, one request, its answer, close; from many addresses of 127.1.0.0/16");
    options.optflag("", "preload", "store all keys first");
    options.optflag("", "verify", "check every byte of every value");
    options.optflag("", "progress", "a line each second on standard error, also where that is no terminal");
    options.optflag("", "json", "print the report as one line of JSON");
    options.optflag("h", "help", "print this and exit");
    options.optflag("V", "version", "print the version and exit");
    options
}

/// What `--help` prints.
pub(crate) fn usage() -> String {
    options().usage(BRIEF)
}

/// Reads the arguments, without the program's own name.
///
/// # Errors
///
/// [`UsageError`]: the first thing that is wrong.
pub(crate) fn read_order(arguments: impl IntoIterator<Item = OsString>) -> Result<Order, UsageError> {
    let matches = options().parse(arguments).map_err(UsageError::Option)?;
    if matches.opt_present("help") {
        return Ok(Order::Help);
    }
    if matches.opt_present("version") {
        return Ok(Order::Version);
    }
    let [command] = &matches.free[..] else {
        return Err(UsageError::Words { found: matches.free });
    };
    let operation = match command.as_str() {
        "echo" => return echo(&matches),
        "get" => Operation::Get,
        "put" => Operation::Put,
        "mix" => Operation::Mix { put_percent: number(&matches, "mix", MIX_DEFAULT_PERCENT, 1..=99)? },
        _ => return Err(UsageError::Command { found: command.clone() }),
    };
    refuse_contradictions(&matches, operation)?;
    Ok(Order::Measure(Box::new(Measurement {
        servers: addresses(&matches)?,
        keys: match matches.opt_str("keys-from") {
            Some(path) => KeysWanted::From(path.into()),
            None => KeysWanted::Made(number(&matches, "keys", KEYS_DEFAULT, 1..=KEYS_MAX as u64)?),
        },
        preload: if matches.opt_present("preload") { Preload::Yes } else { Preload::No },
        form: if matches.opt_present("json") { Form::Json } else { Form::Text },
        plan: plan(&matches, operation)?,
    })))
}

fn echo(matches: &Matches) -> Result<Order, UsageError> {
    if let Some(option) = MEASURING.into_iter().find(|option| matches.opt_present(option)) {
        return Err(UsageError::Together { option, with: "echo" });
    }
    let address = address(matches.opt_str("address").unwrap_or_else(|| ADDRESS_DEFAULT.to_owned()))?;
    Ok(Order::Echo { address, value_size: value_size(matches)? })
}

fn plan(matches: &Matches, operation: Operation) -> Result<Plan, UsageError> {
    let flag = |name| matches.opt_present(name);
    Ok(Plan {
        operation,
        protocol: protocol(matches)?,
        servers: Vec::new(),
        connections: number(matches, "connections", CONNECTIONS_DEFAULT, 1..=CONNECTIONS_MAX)?,
        pipeline: number(matches, "pipeline", 1, 1..=PIPELINE_MAX)?,
        connecting: if flag("connect-each") { Connecting::Each } else { Connecting::Once },
        pace: if flag("rate") { Pace::Open { rate: number(matches, "rate", 1, 1..=RATE_MAX)? } } else { Pace::Closed },
        extent: extent(matches)?,
        value_size: value_size(matches)?,
        put: PutFields {
            ttl: number(matches, "ttl", TTL_DEFAULT_SECS, 0..=u16::MAX.into())?,
            replication: number(matches, "replication", REPLICATION_DEFAULT, 0..=u8::MAX.into())?,
            confirm: if flag("confirm") { Confirm::Yes } else { Confirm::No },
        },
        verify: if flag("verify") { Verify::Value } else { Verify::Key },
        timeout: Duration::from_secs_f64(
            decimal(matches, "timeout", 1e-3, SECONDS_MAX)?.unwrap_or(TIMEOUT_DEFAULT_SECS),
        ),
        pids: pids(matches)?,
        seed: number(matches, "seed", SEED_DEFAULT, 0..=u64::MAX)?,
        progress: if flag("progress") || io::stderr().is_terminal() { Progress::Shown } else { Progress::Silent },
    })
}

/// What makes no sense together.
fn refuse_contradictions(matches: &Matches, operation: Operation) -> Result<(), UsageError> {
    let present = |option: &&str| matches.opt_present(option);
    let refuse = |with: &'static str, options: &[&'static str]| match options.iter().copied().find(present) {
        Some(option) => Err(UsageError::Together { option, with }),
        None => Ok(()),
    };
    if present(&"requests") {
        refuse("--requests", &["time", "warm-up"])?;
    }
    if present(&"connect-each") {
        refuse("--connect-each", &["rate", "pipeline"])?;
    }
    if present(&"keys-from") {
        refuse("--keys-from", &["keys"])?;
        if protocol(matches)? != Protocol::Dht {
            return Err(UsageError::Together { option: "keys-from", with: "--protocol redis or memcached" });
        }
    }
    match operation {
        Operation::Get => refuse("get", &["mix"]),
        Operation::Put => refuse("put", &["mix"]),
        Operation::Mix { .. } => Ok(()),
    }
}

fn extent(matches: &Matches) -> Result<Extent, UsageError> {
    if matches.opt_present("requests") {
        return Ok(Extent::Requests(number(matches, "requests", 1, 1..=u64::MAX - 1)?));
    }
    let measured = decimal(matches, "time", 1e-3, SECONDS_MAX)?.unwrap_or(SECONDS_DEFAULT);
    let usual = (measured * WARM_UP_PART).min(WARM_UP_MAX_SECS);
    let warm_up = decimal(matches, "warm-up", 0.0, SECONDS_MAX)?.unwrap_or(usual);
    Ok(Extent::Time { warm_up: Duration::from_secs_f64(warm_up), measured: Duration::from_secs_f64(measured) })
}

fn value_size(matches: &Matches) -> Result<usize, UsageError> {
    number(matches, "value", VALUE_SIZE_DEFAULT, 1..=VALUE_SIZE_MAX as u64)
}

fn protocol(matches: &Matches) -> Result<Protocol, UsageError> {
    match matches.opt_str("protocol").as_deref() {
        None | Some("dht") => Ok(Protocol::Dht),
        Some("redis") => Ok(Protocol::Redis),
        Some("memcached") => Ok(Protocol::Memcached),
        Some(found) => Err(UsageError::Protocol { found: found.to_owned() }),
    }
}

fn pids(matches: &Matches) -> Result<Vec<u32>, UsageError> {
    let Some(text) = matches.opt_str("pid") else {
        return Ok(Vec::new());
    };
    let wrong = |found: &str| UsageError::Pid { found: found.to_owned() };
    text.split(',').map(|found| found.parse().map_err(|_| wrong(found))).collect()
}

fn addresses(matches: &Matches) -> Result<Vec<String>, UsageError> {
    let text = matches.opt_str("address").unwrap_or_else(|| ADDRESS_DEFAULT.to_owned());
    text.split(',').map(|found| address(found.to_owned())).collect()
}

/// Checks that `text` is made of a host and a port; whether the host exists is for later.
fn address(text: String) -> Result<String, UsageError> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text),
        _ => Err(UsageError::Address { found: text }),
    }
}

/// The whole number that `option` has, or the `usual` one.
fn number<T: TryFrom<u64>>(
    matches: &Matches,
    option: &'static str,
    usual: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<T, UsageError> {
    let (least, most) = (*range.start(), *range.end());
    let refused = |found: &str| UsageError::Number { option, found: found.to_owned(), least, most };
    let text = matches.opt_str(option).unwrap_or_else(|| usual.to_string());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| refused(&text))
}

/// The number that `option` has, if it is there.
fn decimal(matches: &Matches, option: &'static str, least: f64, most: f64) -> Result<Option<f64>, UsageError> {
    let Some(text) = matches.opt_str(option) else {
        return Ok(None);
    };
    match f64::from_str(&text) {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(UsageError::Decimal { option, found: text, least, most }),
    }
}

/// What is wrong with the command line, with what was found.
#[derive(Debug, PartialEq)]
pub(crate) enum UsageError {
    Option(getopts::Fail),
    /// Not exactly one word.
    Words {
        found: Vec<String>,
    },
    Command {
        found: String,
    },
    /// An option that another one, or the command, leaves no room for.
    Together {
        option: &'static str,
        with: &'static str,
    },
    Number {
        option: &'static str,
        found: String,
        least: u64,
        most: u64,
    },
    Decimal {
        option: &'static str,
        found: String,
        least: f64,
        most: f64,
    },
    Address {
        found: String,
    },
    Protocol {
        found: String,
    },
    Pid {
        found: String,
    },
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const COMMANDS: &str = "expected `get`, `put`, `mix` or `echo`";
        match self {
            Self::Option(error) => error.fmt(f),
            Self::Words { found } if found.is_empty() => write!(f, "no command, {COMMANDS}"),
            Self::Words { found } => write!(f, "found {} words, `{}`, {COMMANDS}", found.len(), found.join(" ")),
            Self::Command { found } => write!(f, "found `{found}`, {COMMANDS}"),
            Self::Together { option, with } => write!(f, "found --{option}, which does not go with {with}"),
            Self::Number { option, found, least, most } => {
                write!(f, "found `{found}` for --{option}, expected a number from {least} to {most}")
            }
            Self::Decimal { option, found, least, most } => {
                write!(f, "found `{found}` for --{option}, expected a number from {least} to {most}")
            }
            Self::Address { found } => {
                write!(f, "found `{found}` for --address, expected HOST:PORT, such as {ADDRESS_DEFAULT}")
            }
            Self::Protocol { found } => {
                write!(f, "found `{found}` for --protocol, expected `dht`, `redis` or `memcached`")
            }
            Self::Pid { found } => write!(f, "found `{found}` for --pid, expected the number of a process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Order, UsageError> {
        read_order(line.split_whitespace().map(OsString::from))
    }

    fn measurement(line: &str) -> Measurement {
        match read(line) {
            Ok(Order::Measure(measurement)) => *measurement,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn complaint(line: &str) -> String {
        read(line).expect_err(line).to_string()
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let Measurement { servers, keys, preload, form, plan } = measurement("get");
        assert_eq!(servers, ["127.0.0.1:7401"]);
        assert_eq!((keys, preload, form), (KeysWanted::Made(10_000), Preload::No, Form::Text));
        assert_eq!((plan.operation, plan.protocol), (Operation::Get, Protocol::Dht));
        assert_eq!((plan.connections, plan.pipeline, plan.value_size), (50, 1, 64));
        assert_eq!((plan.connecting, plan.pace, plan.verify), (Connecting::Once, Pace::Closed, Verify::Key));
        assert_eq!(plan.put, PutFields { ttl: 3600, replication: 1, confirm: Confirm::No });
        let (warm_up, measured) = (Duration::from_millis(500), Duration::from_secs(5));
        assert_eq!(plan.extent, Extent::Time { warm_up, measured });
    }

    #[test]
    fn everything_can_be_said() {
        let said = measurement(
            "mix -a a:1,[::1]:2 -c 3 -p 4 -t 0.5 --value 5 --keys-from f --rate 6 --mix 7 --ttl 8 --replication 9 \
             --timeout 10 --seed 11 --pid 12,13 --confirm --preload --verify --json",
        );
        assert_eq!(said.servers, ["a:1", "[::1]:2"]);
        assert_eq!((said.keys, said.preload, said.form), (KeysWanted::From("f".into()), Preload::Yes, Form::Json));
        let plan = said.plan;
        assert_eq!((plan.operation, plan.pace), (Operation::Mix { put_percent: 7 }, Pace::Open { rate: 6 }));
        assert_eq!((plan.connections, plan.pipeline, plan.value_size, plan.seed), (3, 4, 5, 11));
        assert_eq!(plan.put, PutFields { ttl: 8, replication: 9, confirm: Confirm::Yes });
        assert_eq!((plan.verify, plan.timeout, plan.pids), (Verify::Value, Duration::from_secs(10), vec![12, 13]));
        let (warm_up, measured) = (Duration::from_millis(75), Duration::from_millis(500));
        assert_eq!(plan.extent, Extent::Time { warm_up, measured }, "15 % of a short run");
        let each = measurement("get -n 9 --connect-each --protocol memcached").plan;
        assert_eq!((each.extent, each.connecting), (Extent::Requests(9), Connecting::Each));
        assert_eq!(each.protocol, Protocol::Memcached);
    }

    #[test]
    fn an_echo_needs_little() {
        let Ok(Order::Echo { address, value_size }) = read("echo -a 127.0.0.1:0 --value 60000") else {
            panic!("an echo");
        };
        assert_eq!((address.as_str(), value_size), ("127.0.0.1:0", 60_000));
        assert_eq!(complaint("echo --json"), "found --json, which does not go with echo");
        assert!(MEASURING.iter().all(|name| usage().contains(&format!("--{name} "))), "{}", usage());
    }

    #[test]
    fn what_is_wrong_is_told_with_what_was_expected() {
        let commands = "expected `get`, `put`, `mix` or `echo`";
        for (line, expected) in [
            ("", format!("no command, {commands}")),
            ("fetch", format!("found `fetch`, {commands}")),
            ("get put", format!("found 2 words, `get put`, {commands}")),
            ("get -c 0", "found `0` for --connections, expected a number from 1 to 20000".to_owned()),
            ("get -p 1025", "found `1025` for --pipeline, expected a number from 1 to 1024".to_owned()),
            ("put --value 65496", "found `65496` for --value, expected a number from 1 to 65495".to_owned()),
            ("put --replication 256", "found `256` for --replication, expected a number from 0 to 255".to_owned()),
            ("get -t NaN", "found `NaN` for --time, expected a number from 0.001 to 86400".to_owned()),
            ("get --rate 0", "found `0` for --rate, expected a number from 1 to 100000000".to_owned()),
            (
                "get -a localhost",
                "found `localhost` for --address, expected HOST:PORT, such as 127.0.0.1:7401".to_owned(),
            ),
            ("get --protocol x", "found `x` for --protocol, expected `dht`, `redis` or `memcached`".to_owned()),
            ("get --pid 1,x", "found `x` for --pid, expected the number of a process".to_owned()),
            ("get -n 1 -t 1", "found --time, which does not go with --requests".to_owned()),
            ("get --rate 1 --connect-each", "found --rate, which does not go with --connect-each".to_owned()),
            ("get --mix 5", "found --mix, which does not go with get".to_owned()),
        ] {
            assert_eq!(complaint(line), expected, "{line}");
        }
        let redis = complaint("get --keys-from f --protocol redis");
        assert_eq!(redis, "found --keys-from, which does not go with --protocol redis or memcached");
    }
}
