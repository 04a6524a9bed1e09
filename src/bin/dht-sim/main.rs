//! `dht-sim`: a whole network in one thread, from one seed.
//!
//! Nodes join, clients PUT, nodes die, clients GET; with `--values` for hours, while nodes crash,
//! part, come and go. What is printed but for the last figures,
//! wall time and memory, follows from the command line alone; the digest of all events proves it.
//!
//! A broken law, and a GET that finds nothing while somebody holds the record, end with status 1
//! and the command that replays the run. In a long run a GET that finds nothing is counted.

#![forbid(unsafe_code)]

mod endurance;

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use dht::id::Key;
use dht::limits::K_MAX;
use dht::record::Class;
use dht::sim::{Answer, Ask, Chance, Death, Faults, Number, Scenario, Violation, World};
use dht::wire::api::{ApiRequest, Confirm, Put};
use getopts::{Matches, Options};

use endurance::Endurance;

/// Requests of clients that begin in one virtual second.
const REQUESTS_PER_SECOND: u32 = 100;

/// PUTs and GETs, unless the command line says otherwise.
const REQUESTS_DEFAULT: u32 = 200;

/// Nodes at most: their addresses have 24 bits.
const NODES_MAX: u32 = 1_000_000;

/// How long a partition lasts, unless the command line says otherwise.
const PARTITION_MINUTES: u64 = 30;

/// The options that make no sense without `--values`.
const LONG_RUN: [&str; 5] = ["session", "hours", "crash", "partition", "minutes"];

const BRIEF: &str = "\
usage: dht-sim --nodes N --seed S [options]

Exit status: 0 all is well; 1 a law was broken or a record not found; 2 wrong usage.";

/// What the command line asks for.
enum Order {
    Help,
    Version,
    Run(Box<Plan>),
}

/// What happens in the world.
struct Plan {
    scenario: Scenario,
    puts: u32,
    gets: u32,
    /// Percent of the nodes that die after the PUTs, by kind of death.
    deaths: [(Death, f64); 2],
    /// 0 for the nodes' own default.
    replication: u8,
    /// The long run, in the place of the PUTs and GETs.
    endurance: Option<Endurance>,
}

/// Why the run failed.
enum Failure {
    /// The command line makes no sense. Exit status 2.
    Usage(UsageError),
    /// A law was broken. Exit status 1.
    Broken(Violation),
    /// Records that somebody holds were not found, or found with another value. Exit status 1.
    NotFound { count: u32 },
}

/// What is wrong with the command line, with what was found.
#[derive(Debug)]
enum UsageError {
    Option(getopts::Fail),
    Word { found: String },
    Missing { option: &'static str },
    Number { option: &'static str, found: String, expected: &'static str },
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Failure::Broken(violation)
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let options = options();
    let outcome = match read_order(&options, std::env::args_os().skip(1)) {
        Ok(Order::Help) => {
            print!("{}", options.usage(BRIEF));
            Ok(())
        }
        Ok(Order::Version) => {
            println!("dht-sim {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Ok(Order::Run(plan)) => run(&plan),
        Err(error) => Err(Failure::Usage(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure @ Failure::Usage(_)) => {
            eprintln!("dht-sim: {failure}\nTry `dht-sim -h`.");
            ExitCode::from(2)
        }
        Err(failure) => {
            eprintln!("dht-sim: {failure}\nreplay: {}", replay());
            ExitCode::FAILURE
        }
    }
}

/// The command that runs the same world again.
fn replay() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("dht-sim {}", arguments.join(" "))
}

/// A failed assertion is a broken law too: it ends with the same status and the same advice.
fn end_panics_with_the_replay() {
    let print_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print_panic(panic);
        eprintln!("replay: {}", replay());
        std::process::exit(1);
    }));
}

// ── the command line ─────────────────────────────────────────────────────────────────────────

fn options() -> Options {
    let requests = REQUESTS_DEFAULT;
    let mut options = Options::new();
    options.optopt("", "nodes", "nodes that join", "N");
    options.optopt("", "seed", "what all chance comes from", "S");
    options.optopt("", "loss", "percent of messages and dials that are lost (0)", "P");
    options.optopt("", "stalls", "percent of messages that hold up their connection for seconds (0)", "P");
    options.optopt("", "breaks", "percent of messages that break their connection (0)", "P");
    options.optopt("", "puts", &format!("PUTs, each at some node ({requests})"), "N");
    options.optopt("", "gets", &format!("GETs of them, each at some node ({requests})"), "N");
    options.optopt("", "replication", "nodes that shall hold a record (the nodes' default)", "N");
    options.optopt("", "kill", "percent of the nodes whose process dies after the PUTs (0)", "P");
    options.optopt("", "vanish", "percent of the nodes that fall silent after the PUTs (0)", "P");
    options.optopt("", "values", "values of a long run, PUT and then read; in place of --puts", "N");
    options.optopt("", "session", "how long a node lives on average, in a long run: 60m, 90s, 2h (for ever)", "SPAN");
    options.optopt("", "hours", "virtual hours of a long run (0)", "N");
    options.optopt("", "crash", "percent of the nodes that crash at once, in a long run (0)", "P");
    options.optopt("", "partition", "percent of the nodes that are cut off for a while, in a long run (0)", "P");
    options.optopt("", "minutes", &format!("how long they are ({PARTITION_MINUTES})"), "N");
    options.optopt("", "connections", "connections that a node keeps (the nodes' default)", "N");
    options.optflag("h", "help", "print this and exit");
    options.optflag("V", "version", "print the version and exit");
    options
}

fn read_order(options: &Options, arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Order, UsageError> {
    let matches = options.parse(arguments).map_err(UsageError::Option)?;
    if matches.opt_present("help") {
        return Ok(Order::Help);
    }
    if matches.opt_present("version") {
        return Ok(Order::Version);
    }
    if let Some(found) = matches.free.first() {
        return Err(UsageError::Word { found: found.clone() });
    }
    let nodes = number(&matches, "nodes", "1 to 1000000", |nodes| (1..=NODES_MAX).contains(nodes))?;
    let seed = number(&matches, "seed", "0 to 2^64 - 1", |_| true)?;
    let nodes = nodes.ok_or(UsageError::Missing { option: "nodes" })?;
    let mut scenario = Scenario::calm(nodes, seed.ok_or(UsageError::Missing { option: "seed" })?);
    let chance = |option| Ok(Chance::percent(percent(&matches, option)?).expect("it was read as a percentage"));
    scenario.faults = Faults { loss: chance("loss")?, stalls: chance("stalls")?, breaks: chance("breaks")? };
    let connections = number(&matches, "connections", "at least 1", |connections| *connections > 0)?;
    scenario.params.peer_connections_max = connections.unwrap_or(scenario.params.peer_connections_max);
    let requests = |option| Ok(number(&matches, option, "0 to 2^32 - 1", |_| true)?.unwrap_or(REQUESTS_DEFAULT));
    let replication = number(&matches, "replication", "1 to 20", |copies| (1..=K_MAX).contains(copies))?;
    let replication = u8::try_from(replication.unwrap_or(0)).expect("it was read as one up to 20");
    Ok(Order::Run(Box::new(Plan {
        endurance: read_endurance(&matches, replication, requests("gets")?)?,
        scenario,
        puts: requests("puts")?,
        gets: requests("gets")?,
        deaths: [(Death::Process, percent(&matches, "kill")?), (Death::Host, percent(&matches, "vanish")?)],
        replication,
    })))
}

fn read_endurance(matches: &Matches, replication: u8, gets: u32) -> Result<Option<Endurance>, UsageError> {
    let values = number(matches, "values", "1 to 2^32 - 1", |values| *values > 0)?;
    let session = span(matches, "session")?;
    let minutes = number(matches, "minutes", "1 to 1000", |minutes| (1..=1_000).contains(minutes))?;
    let hours = number(matches, "hours", "0 to 1000", |hours| *hours <= 1_000)?;
    let endurance = Endurance {
        values: values.unwrap_or(0),
        replication,
        gets,
        crash: percent(matches, "crash")?,
        partition: (percent(matches, "partition")?, Duration::from_mins(minutes.unwrap_or(PARTITION_MINUTES))),
        session,
        hours: hours.unwrap_or(0),
    };
    if values.is_none() && LONG_RUN.iter().any(|option| matches.opt_present(option)) {
        return Err(UsageError::Missing { option: "values" });
    }
    Ok(values.map(|_| endurance))
}

/// A number with its unit: `90s`, `60m`, `2h`.
fn span(matches: &Matches, option: &'static str) -> Result<Option<Duration>, UsageError> {
    let Some(found) = matches.opt_str(option) else { return Ok(None) };
    let wrong = || UsageError::Number { option, found: found.clone(), expected: "90s, 60m or 2h" };
    let unit = found.chars().last().and_then(|unit| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        _ => None,
    });
    let unit = unit.ok_or_else(wrong)?;
    match found[..found.len() - 1].parse::<u32>() {
        Ok(count @ 1..=1_000_000) => Ok(Some(Duration::from_secs(u64::from(count) * unit))),
        _ => Err(wrong()),
    }
}

fn percent(matches: &Matches, option: &'static str) -> Result<f64, UsageError> {
    let percent = number(matches, option, "0 to 100", |percent| Chance::percent(*percent).is_some())?;
    Ok(percent.unwrap_or(0.0))
}

fn number<N: FromStr>(
    matches: &Matches,
    option: &'static str,
    expected: &'static str,
    fits: impl Fn(&N) -> bool,
) -> Result<Option<N>, UsageError> {
    let Some(found) = matches.opt_str(option) else { return Ok(None) };
    match found.parse() {
        Ok(number) if fits(&number) => Ok(Some(number)),
        _ => Err(UsageError::Number { option, found, expected }),
    }
}

// ── the run ──────────────────────────────────────────────────────────────────────────────────

fn run(plan: &Plan) -> Result<(), Failure> {
    end_panics_with_the_replay();
    let began = now();
    let mut world = World::new(plan.scenario.clone());
    world.join_all()?;
    println!("joined {} at {}", plan.scenario.nodes, world.now());
    let missed = match &plan.endurance {
        None => put_and_get(&mut world, plan)?,
        Some(endurance) => {
            endurance.run(&mut world)?;
            0
        }
    };
    world.survey()?;
    print!("{}", world.figures());
    println!("digest {}", world.digest());
    println!(
        "wall {:.1} s, virtual {}, memory {} MiB",
        now().duration_since(began).as_secs_f64(),
        world.now(),
        memory_mib()
    );
    match missed {
        0 => Ok(()),
        count => Err(Failure::NotFound { count }),
    }
}

/// PUTs, deaths, GETs; returns how many found nothing although somebody holds the record.
fn put_and_get(world: &mut World, plan: &Plan) -> Result<u32, Failure> {
    let keys: Vec<Key> = (0..plan.puts).map(|_| world.any_key()).collect();
    put_all(world, plan, &keys)?;
    kill(world, &plan.deaths);
    Ok(get_all(world, plan.gets, &keys)?)
}

/// Begins one request after the other, evenly in time, and waits until all are over.
fn pace(
    world: &mut World,
    count: u32,
    mut begin: impl FnMut(&mut World, u32) -> Result<Ask, Violation>,
) -> Result<Vec<Ask>, Violation> {
    let mut asks = Vec::new();
    for nth in 0..count {
        asks.push(begin(world, nth)?);
        world.run_for(Duration::from_secs(1) / REQUESTS_PER_SECOND)?;
    }
    for ask in &asks {
        world.await_answer(*ask)?;
    }
    Ok(asks)
}

/// What is stored under the `nth` key.
fn value_of(nth: u32) -> [u8; 100] {
    let mut value = [0; 100];
    value[..4].copy_from_slice(&nth.to_be_bytes());
    value
}

fn put_all(world: &mut World, plan: &Plan, keys: &[Key]) -> Result<(), Violation> {
    let asks = pace(world, plan.puts, |world, nth| {
        let (key, value) = (keys[nth as usize], value_of(nth));
        let at = world.any_alive();
        let put = Put {
            ttl: 0,
            replication: plan.replication,
            confirm: Confirm::Yes,
            class: Class::Plain,
            key,
            value: &value,
        };
        world.ask(at, &ApiRequest::Put(put))
    })?;
    let held = asks.iter().filter(|ask| matches!(world.answer(**ask), Some(Answer::Success(_)))).count();
    println!("puts {held}/{}", asks.len());
    Ok(())
}

/// Kills so many percent of the nodes as each kind of death asks for; one always survives.
fn kill(world: &mut World, deaths: &[(Death, f64)]) {
    let population = world.alive().count();
    for (death, percent) in deaths {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part of a million"
        )]
        let count = (population as f64 * percent / 100.0) as usize;
        let mut alive: Vec<Number> = world.alive().collect();
        let count = count.min(alive.len() - 1);
        let dead: Vec<Number> = (0..count).map(|_| alive.swap_remove(world.any_below(alive.len()))).collect();
        world.kill(*death, dead);
        if count > 0 {
            println!("killed {count} by {death:?}");
        }
    }
}

/// Asks for the records at random nodes; returns how many were not found although somebody
/// holds them.
fn get_all(world: &mut World, gets: u32, keys: &[Key]) -> Result<u32, Violation> {
    let Ok(puts @ 1..) = u32::try_from(keys.len()) else { return Ok(0) };
    let asks = pace(world, gets, |world, nth| {
        let at = world.any_alive();
        world.ask(at, &ApiRequest::Get { key: keys[(nth % puts) as usize] })
    })?;
    let (mut found, mut missed) = (0, 0);
    for (nth, ask) in (0..).zip(&asks) {
        match world.answer(*ask) {
            Some(Answer::Success(value)) if **value == value_of(nth % puts) => found += 1,
            Some(Answer::Failure) | None if world.replicas(&keys[(nth % puts) as usize]).is_empty() => {}
            _ => missed += 1,
        }
    }
    println!("found {found}/{}", asks.len());
    Ok(missed)
}

/// The wall clock, of which the world knows nothing.
#[expect(clippy::disallowed_methods, reason = "how long a run took is told to people, and to nobody else")]
fn now() -> Instant {
    Instant::now()
}

/// The most memory that this process ever had, in MiB; 0 where nobody tells.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    kib.unwrap_or(0_u64) / 1024
}

// ── what went wrong ──────────────────────────────────────────────────────────────────────────

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(error) => error.fmt(f),
            Failure::Broken(violation) => violation.fmt(f),
            Failure::NotFound { count } => write!(f, "{count} GETs did not find what somebody holds"),
        }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UsageError::Option(fail) => fail.fmt(f),
            UsageError::Word { found } => write!(f, "found `{found}`, expected options"),
            UsageError::Missing { option } => write!(f, "no --{option}"),
            UsageError::Number { option, found, expected } => {
                write!(f, "found `{found}` for --{option}, expected {expected}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(line: &str) -> Result<Order, UsageError> {
        read_order(&options(), line.split_whitespace().map(Into::into))
    }

    #[test]
    fn the_world_is_as_the_command_line_says() {
        let Ok(Order::Run(plan)) = order("--nodes 300 --seed 7 --loss 5 --puts 3 --kill 50 --replication 20") else {
            panic!("a run");
        };
        assert_eq!((plan.scenario.nodes, plan.scenario.seed), (300, 7));
        assert_eq!(Some(plan.scenario.faults.loss), Chance::percent(5.0));
        assert_eq!((plan.puts, plan.gets, plan.replication), (3, REQUESTS_DEFAULT, 20));
        assert_eq!(plan.deaths, [(Death::Process, 50.0), (Death::Host, 0.0)]);
    }

    #[test]
    fn a_long_run_is_as_the_command_line_says() {
        let Ok(Order::Run(plan)) =
            order("--nodes 300 --seed 7 --values 9 --session 60m --hours 24 --crash 30 --partition 25 --replication 5")
        else {
            panic!("a run");
        };
        let expected = Endurance {
            values: 9,
            replication: 5,
            gets: REQUESTS_DEFAULT,
            crash: 30.0,
            partition: (25.0, Duration::from_mins(PARTITION_MINUTES)),
            session: Some(Duration::from_hours(1)),
            hours: 24,
        };
        assert_eq!(plan.endurance, Some(expected));
    }

    #[test]
    fn a_wrong_command_line_is_told_what_was_expected() {
        let complaint = |line| order(line).err().expect("a usage error").to_string();
        assert_eq!(complaint("--seed 1"), "no --nodes");
        assert_eq!(complaint("--nodes 1"), "no --seed");
        assert_eq!(complaint("--nodes 0 --seed 1"), "found `0` for --nodes, expected 1 to 1000000");
        assert_eq!(complaint("--nodes 1 --seed 1 --loss 101"), "found `101` for --loss, expected 0 to 100");
        assert_eq!(complaint("--nodes 1 --seed 1 --kill nan"), "found `nan` for --kill, expected 0 to 100");
        assert_eq!(complaint("--nodes 1 --seed 1 --hours 3"), "no --values");
        for wrong in ["60", "m", "0m", "6d", "1é"] {
            let line = format!("--nodes 1 --seed 1 --values 1 --session={wrong}");
            let found = order(&line).err().expect("a usage error").to_string();
            assert!(found.ends_with("for --session, expected 90s, 60m or 2h"), "{found}");
        }
        assert_eq!(complaint("--nodes 1 --seed 1 twice"), "found `twice`, expected options");
        assert_eq!(complaint("--nodes 1 --seed 1 --replication 21"), "found `21` for --replication, expected 1 to 20");
    }
}
