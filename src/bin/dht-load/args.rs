//! The command line: arguments → [`Command`], understood completely or refused.
//!
//! Reads no file and resolves no name.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use dht::cli::{self, ADDRESS_DEFAULT, UsageError, number};
use dht::limits::VALUE_SIZE_MAX;
use dht::wire::api::Confirm;
use getopts::{Matches, Options};

use super::keys::KEYS_MAX;
use super::plan::{Connecting, Extent, Operation, Pace, Plan, Progress, Verify};
use super::protocol::{Protocol, PutFields};

const CONNECTIONS_DEFAULT: usize = 50;
/// A connection needs a file descriptor and a port, and one address has some 28 000 ports.
const CONNECTIONS_MAX: usize = 20_000;

/// Unanswered requests that a server accepts on one connection (`PROTOCOL.md` 1, rule 3).
const PIPELINE_MAX: usize = 1024;

const SECONDS_DEFAULT: f64 = 5.0;
const SECONDS_MAX: f64 = 86_400.0;

/// The warm-up takes this part of the measured time, and at most [`WARM_UP_MAX_SECS`].
const WARM_UP_PART: f64 = 0.15;
const WARM_UP_MAX_SECS: f64 = 0.5;

const VALUE_SIZE_DEFAULT: usize = 64;
const KEYS_DEFAULT: usize = 10_000;
const TTL_DEFAULT_SECS: u16 = 3600;
const REPLICATION_DEFAULT: u8 = 1;
const MIX_DEFAULT_PERCENT: u8 = 10;
const SEED_DEFAULT: u64 = 1;

/// Seconds without data from the server: three times the default of its `request_timeout`.
const TIMEOUT_DEFAULT_SECS: f64 = 30.0;

/// Largest rate, in requests per second: ten nanoseconds between two requests.
const RATE_MAX: u32 = 100_000_000;

const BRIEF: &str = "\
usage: dht-load get|put|mix [options]
       dht-load echo [-a HOST:PORT] [--value BYTES]

get requests values, put stores values, mix does both. echo is the reference server for
comparisons: it answers every GET with a value of that size and does nothing else.

Exit status: 0 all answers were right; 1 some were not; 2 wrong usage or unusable FILE;
3 server unreachable, or lost during the run.";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run the echo server.
    Echo { address: String, value_size: usize },
    /// Measure a server.
    Measure(Box<Measurement>),
}

/// What to measure, and how to report it.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// `HOST:PORT` each, at least one.
    pub(crate) servers: Vec<String>,
    pub(crate) keys: KeysWanted,
    pub(crate) preload: Preload,
    pub(crate) form: Form,
    /// Everything else, still without the addresses of the servers.
    pub(crate) plan: Plan,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeysWanted {
    /// This many generated keys.
    Made(usize),
    /// The keys in a file.
    From(PathBuf),
}

/// Whether to store all keys before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preload {
    No,
    Yes,
}

/// The format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

/// The options that `echo` does not take.
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
    let address = format!("servers to measure, or where echo listens (default: {ADDRESS_DEFAULT})");
    value("a", "address", &address, "HOST:PORT[,..]");
    value("c", "connections", &format!("concurrent connections (default: {CONNECTIONS_DEFAULT})"), "N");
    value("p", "pipeline", "requests that a connection sends before it reads (default: 1)", "N");
    value("n", "requests", "number of requests, instead of a time", "COUNT");
    value("t", "time", &format!("seconds to measure (default: {SECONDS_DEFAULT})"), "SECONDS");
    let warm_up = format!("seconds before that, not counted (default: 15 % of -t, at most {WARM_UP_MAX_SECS})");
    value("", "warm-up", &warm_up, "SECONDS");
    value("", "value", &format!("size of values (default: {VALUE_SIZE_DEFAULT})"), "BYTES");
    value("", "keys", &format!("number of different keys (default: {KEYS_DEFAULT})"), "N");
    value("", "keys-from", "use the keys in FILE instead, 64 hex digits per line", "FILE");
    value("", "seed", &format!("seed of keys and of their order (default: {SEED_DEFAULT})"), "N");
    value("", "rate", "open loop: requests per second in total; latency counts from the scheduled time", "R");
    value("", "mix", &format!("mix: percentage of PUTs (default: {MIX_DEFAULT_PERCENT})"), "PERCENT");
    value("", "ttl", &format!("PUT: TTL of a value in seconds (default: {TTL_DEFAULT_SECS})"), "S");
    value("", "replication", &format!("PUT: number of replicas (default: {REPLICATION_DEFAULT})"), "N");
    value("", "timeout", &format!("seconds to wait for an answer (default: {TIMEOUT_DEFAULT_SECS})"), "SECONDS");
    value("", "protocol", "protocol of the servers: dht, redis or memcached (default: dht)", "NAME");
    value("", "pid", "report the CPU time of these server processes", "PID[,..]");
    options.optflag("", "confirm", "PUT: ask for confirmations; otherwise a GET after each batch shows its end");
    options.optflag("", "connect-each", "a connection per request; source addresses are from 127.1.0.0/16");
    options.optflag("", "preload", "store all keys before the run");
    options.optflag("", "verify", "compare every byte of every value");
    options.optflag("", "progress", "print a line per second on standard error even if it is not a terminal");
    options.optflag("", "json", "print the report as one line of JSON");
    options
}

/// Reads the arguments, without the program's own name.
///
/// # Errors
///
/// [`UsageError`]: the first fault.
pub(crate) fn read_args(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    const COMMANDS: &str = "`get`, `put`, `mix` or `echo`";
    let matches = cli::parse("dht-load", BRIEF, options(), arguments)?;
    let operation = match &matches.free.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["echo"] => return echo(&matches),
        ["get"] => Operation::Get,
        ["put"] => Operation::Put,
        ["mix"] => {
            let put_percent = number(&matches, "mix", 1..=99)?.unwrap_or(MIX_DEFAULT_PERCENT);
            Operation::Mix { put_percent }
        }
        [] => return Err(UsageError::invalid("command", "none", COMMANDS)),
        words => return Err(UsageError::value("command", &words.join(" "), COMMANDS)),
    };
    refuse_contradictions(&matches, operation)?;
    Ok(Command::Measure(Box::new(Measurement {
        servers: cli::addresses(&matches)?,
        keys: match matches.opt_str("keys-from") {
            Some(path) => KeysWanted::From(path.into()),
            None => KeysWanted::Made(number(&matches, "keys", 1..=KEYS_MAX)?.unwrap_or(KEYS_DEFAULT)),
        },
        preload: if matches.opt_present("preload") { Preload::Yes } else { Preload::No },
        form: if matches.opt_present("json") { Form::Json } else { Form::Text },
        plan: plan(&matches, operation)?,
    })))
}

fn echo(matches: &Matches) -> Result<Command, UsageError> {
    if let Some(option) = MEASURING.into_iter().find(|option| matches.opt_present(option)) {
        return Err(UsageError::Conflict { option, with: "echo".to_owned() });
    }
    Ok(Command::Echo { address: cli::address(matches)?, value_size: value_size(matches)? })
}

fn plan(matches: &Matches, operation: Operation) -> Result<Plan, UsageError> {
    let flag = |name| matches.opt_present(name);
    Ok(Plan {
        operation,
        protocol: protocol(matches)?,
        servers: Vec::new(),
        connections: number(matches, "connections", 1..=CONNECTIONS_MAX)?.unwrap_or(CONNECTIONS_DEFAULT),
        pipeline: number(matches, "pipeline", 1..=PIPELINE_MAX)?.unwrap_or(1),
        connecting: if flag("connect-each") { Connecting::Each } else { Connecting::Once },
        pace: number(matches, "rate", 1..=RATE_MAX)?.map_or(Pace::Closed, |rate| Pace::Open { rate }),
        extent: extent(matches)?,
        value_size: value_size(matches)?,
        put: PutFields {
            ttl: number(matches, "ttl", 0..=u16::MAX)?.unwrap_or(TTL_DEFAULT_SECS),
            replication: number(matches, "replication", 0..=u8::MAX)?.unwrap_or(REPLICATION_DEFAULT),
            confirm: if flag("confirm") { Confirm::Yes } else { Confirm::No },
        },
        verify: if flag("verify") { Verify::Value } else { Verify::Key },
        timeout: Duration::from_secs_f64(
            number(matches, "timeout", 1e-3..=SECONDS_MAX)?.unwrap_or(TIMEOUT_DEFAULT_SECS),
        ),
        pids: pids(matches)?,
        seed: number(matches, "seed", 0..=u64::MAX)?.unwrap_or(SEED_DEFAULT),
        progress: if flag("progress") || io::stderr().is_terminal() { Progress::Shown } else { Progress::Silent },
    })
}

/// Refuses options that exclude each other.
fn refuse_contradictions(matches: &Matches, operation: Operation) -> Result<(), UsageError> {
    let present = |option: &&str| matches.opt_present(option);
    let refuse = |with: &str, options: &[&'static str]| match options.iter().copied().find(present) {
        Some(option) => Err(UsageError::Conflict { option, with: with.to_owned() }),
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
            refuse("--protocol redis or memcached", &["keys-from"])?;
        }
    }
    match operation {
        Operation::Get => refuse("get", &["mix"]),
        Operation::Put => refuse("put", &["mix"]),
        Operation::Mix { .. } => Ok(()),
    }
}

fn extent(matches: &Matches) -> Result<Extent, UsageError> {
    if let Some(count) = number(matches, "requests", 1..=u64::MAX - 1)? {
        return Ok(Extent::Requests(count));
    }
    let measured = number(matches, "time", 1e-3..=SECONDS_MAX)?.unwrap_or(SECONDS_DEFAULT);
    let usual = (measured * WARM_UP_PART).min(WARM_UP_MAX_SECS);
    let warm_up = number(matches, "warm-up", 0.0..=SECONDS_MAX)?.unwrap_or(usual);
    Ok(Extent::Time { warm_up: Duration::from_secs_f64(warm_up), measured: Duration::from_secs_f64(measured) })
}

fn value_size(matches: &Matches) -> Result<usize, UsageError> {
    Ok(number(matches, "value", 1..=VALUE_SIZE_MAX)?.unwrap_or(VALUE_SIZE_DEFAULT))
}

fn protocol(matches: &Matches) -> Result<Protocol, UsageError> {
    match matches.opt_str("protocol").as_deref() {
        None | Some("dht") => Ok(Protocol::Dht),
        Some("redis") => Ok(Protocol::Redis),
        Some("memcached") => Ok(Protocol::Memcached),
        Some(found) => Err(UsageError::value("--protocol", found, "`dht`, `redis` or `memcached`")),
    }
}

fn pids(matches: &Matches) -> Result<Vec<u32>, UsageError> {
    let read = |pid: &str| pid.parse().map_err(|_| UsageError::value("--pid", pid, "the number of a process"));
    matches.opt_str("pid").map_or(Ok(Vec::new()), |text| text.split(',').map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, UsageError> {
        read_args(line.split_whitespace().map(OsString::from))
    }

    fn measurement(line: &str) -> Measurement {
        match read(line) {
            Ok(Command::Measure(measurement)) => *measurement,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn complaint(line: &str) -> String {
        read(line).expect_err(line).to_string()
    }

    #[test]
    fn a_plan_has_the_defaults_of_the_help() {
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
    fn a_plan_has_the_values_of_the_command_line() {
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
    fn echo_takes_an_address_and_a_size_alone() {
        let Ok(Command::Echo { address, value_size }) = read("echo -a 127.0.0.1:0 --value 60000") else {
            panic!("an echo");
        };
        assert_eq!((address.as_str(), value_size), ("127.0.0.1:0", 60_000));
        assert_eq!(complaint("echo --json"), "--json cannot be combined with echo");
        let Err(UsageError::Help(usage)) = read("-h") else { panic!("a help") };
        assert!(MEASURING.iter().all(|name| usage.contains(&format!("--{name} "))), "{usage}");
    }

    #[test]
    fn a_refusal_says_what_was_found_and_what_was_expected() {
        let commands = "expected `get`, `put`, `mix` or `echo`";
        for (line, expected) in [
            ("", format!("command: found none, {commands}")),
            ("fetch", format!("command: found `fetch`, {commands}")),
            ("get put", format!("command: found `get put`, {commands}")),
            ("get -c 0", "--connections: found `0`, expected a number from 1 to 20000".to_owned()),
            ("get -p 1025", "--pipeline: found `1025`, expected a number from 1 to 1024".to_owned()),
            ("put --value 65496", "--value: found `65496`, expected a number from 1 to 65495".to_owned()),
            ("put --replication 256", "--replication: found `256`, expected a number from 0 to 255".to_owned()),
            ("get -t NaN", "--time: found `NaN`, expected a number from 0.001 to 86400".to_owned()),
            ("get --rate 0", "--rate: found `0`, expected a number from 1 to 100000000".to_owned()),
            ("get -a localhost", "--address: found `localhost`, expected HOST:PORT, such as 127.0.0.1:7401".to_owned()),
            ("get --protocol x", "--protocol: found `x`, expected `dht`, `redis` or `memcached`".to_owned()),
            ("get --pid 1,x", "--pid: found `x`, expected the number of a process".to_owned()),
            ("get -n 1 -t 1", "--time cannot be combined with --requests".to_owned()),
            ("get --rate 1 --connect-each", "--rate cannot be combined with --connect-each".to_owned()),
            ("get --mix 5", "--mix cannot be combined with get".to_owned()),
        ] {
            assert_eq!(complaint(line), expected, "{line}");
        }
        let redis = complaint("get --keys-from f --protocol redis");
        assert_eq!(redis, "--keys-from cannot be combined with --protocol redis or memcached");
    }
}
