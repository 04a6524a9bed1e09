//! `dht-sim`: simulates a whole network in one thread, from one seed.
//!
//! Nodes join, clients PUT, nodes fail, clients GET. With `--values` this lasts for hours, while nodes
//! crash, are partitioned, join and leave. The command line determines all output except wall time and
//! memory; the digest of all events proves it.
//!
//! A violated invariant, or a GET that does not find a record that a node stores, ends the run with
//! status 1 and the command that replays it. A long run counts such GETs instead.

#![forbid(unsafe_code)]

mod endurance;

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dht::cli::{self, UsageError, number};
use dht::id::Key;
use dht::limits::K_MAX;
use dht::record::Class;
use dht::sim::{Answer, Chance, Death, Faults, Number, RequestId, Scenario, Violation, World};
use dht::wire::api::{ApiRequest, Confirm, Put};
use getopts::{Matches, Options};

use endurance::Endurance;

/// Client requests per virtual second.
const REQUESTS_PER_SECOND: u32 = 100;

/// Default number of PUTs and of GETs.
const REQUESTS_DEFAULT: u32 = 200;

/// Largest number of nodes: their addresses have 24 bits.
const NODES_MAX: u32 = 1_000_000;

/// Default duration of a partition.
const PARTITION_MINUTES: u64 = 30;

/// The options that require `--values`.
const LONG_RUN: [&str; 5] = ["session", "hours", "crash", "partition", "minutes"];

const BRIEF: &str = "\
usage: dht-sim --nodes N --seed S [options]

Exit status: 0 success; 1 an invariant was violated or a record was not found; 2 wrong usage.";

/// What happens in the simulation.
struct Plan {
    scenario: Scenario,
    puts: u32,
    gets: u32,
    /// Percentage of the nodes that fail after the PUTs, by kind of failure.
    deaths: [(Death, f64); 2],
    /// 0 for the nodes' default.
    replication: u8,
    /// The long run, instead of the PUTs and GETs.
    endurance: Option<Endurance>,
}

/// Why the run failed.
enum Failure {
    /// An invariant was violated. Exit status 1.
    Broken(Violation),
    /// GETs of stored records found nothing, or another value. Exit status 1.
    NotFound { count: u32 },
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Failure::Broken(violation)
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let plan = match read_args(std::env::args_os().skip(1)) {
        Ok(plan) => plan,
        Err(error) => return error.report("dht-sim"),
    };
    match run(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dht-sim: {failure}\nreplay: {}", replay());
            ExitCode::FAILURE
        }
    }
}

/// The command that replays the run.
fn replay() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("dht-sim {}", arguments.join(" "))
}

/// Makes a failed assertion end like a violated invariant: with status 1 and the replay command.
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
    options.optopt("", "nodes", "number of nodes that join", "N");
    options.optopt("", "seed", "seed of all randomness", "S");
    options.optopt("", "loss", "percentage of messages and dials that are lost (default: 0)", "P");
    options.optopt("", "stalls", "percentage of messages that stall their connection for seconds (default: 0)", "P");
    options.optopt("", "breaks", "percentage of messages that break their connection (default: 0)", "P");
    options.optopt("", "puts", &format!("number of PUTs, each at a random node (default: {requests})"), "N");
    options.optopt("", "gets", &format!("number of GETs of them, each at a random node (default: {requests})"), "N");
    options.optopt("", "replication", "number of replicas of a record (default: the nodes')", "N");
    options.optopt("", "kill", "percentage of nodes whose process dies after the PUTs (default: 0)", "P");
    options.optopt("", "vanish", "percentage of nodes that stop answering after the PUTs (default: 0)", "P");
    options.optopt("", "values", "long run instead of --puts: number of values, which are PUT and then read", "N");
    options.optopt("", "session", "long run: average life of a node, such as 60m, 90s or 2h (default: no end)", "SPAN");
    options.optopt("", "hours", "long run: virtual hours (default: 0)", "N");
    options.optopt("", "crash", "long run: percentage of nodes that crash at the same time (default: 0)", "P");
    options.optopt("", "partition", "long run: percentage of nodes that are cut off for a time (default: 0)", "P");
    options.optopt(
        "",
        "minutes",
        &format!("long run: duration of that in minutes (default: {PARTITION_MINUTES})"),
        "N",
    );
    options.optopt("", "connections", "peer connections of a node (default: the nodes')", "N");
    options
}

fn read_args(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Plan, UsageError> {
    let matches = cli::parse("dht-sim", BRIEF, options(), arguments)?;
    if let Some(word) = matches.free.first() {
        return Err(UsageError::value("arguments", word, "options only"));
    }
    let missing = |what| move || UsageError::invalid(what, "nothing", "a number");
    let nodes = number(&matches, "nodes", 1..=NODES_MAX)?.ok_or_else(missing("--nodes"))?;
    let mut scenario = Scenario::calm(nodes, number(&matches, "seed", 0..=u64::MAX)?.ok_or_else(missing("--seed"))?);
    let chance = |option| Ok(Chance::percent(percent(&matches, option)?).expect("the range of percentages"));
    scenario.faults =
        Faults { loss: chance("loss")?, stalls: chance("stalls")?, breaks: chance("breaks")?, ..Faults::NONE };
    if let Some(connections) = number(&matches, "connections", 1..=usize::MAX)? {
        scenario.params.peer_connections_max = connections;
    }
    let requests = |option| Ok(number(&matches, option, 0..=u32::MAX)?.unwrap_or(REQUESTS_DEFAULT));
    let replication = number(&matches, "replication", 1..=K_MAX)?;
    let replication = u8::try_from(replication.unwrap_or(0)).expect("K_MAX is less than 256");
    Ok(Plan {
        endurance: read_endurance(&matches, replication, requests("gets")?)?,
        scenario,
        puts: requests("puts")?,
        gets: requests("gets")?,
        deaths: [(Death::Process, percent(&matches, "kill")?), (Death::Host, percent(&matches, "vanish")?)],
        replication,
    })
}

fn read_endurance(matches: &Matches, replication: u8, gets: u32) -> Result<Option<Endurance>, UsageError> {
    let values = number(matches, "values", 1..=u32::MAX)?;
    let minutes = number(matches, "minutes", 1..=1_000)?.unwrap_or(PARTITION_MINUTES);
    let endurance = Endurance {
        values: values.unwrap_or(0),
        replication,
        gets,
        crash: percent(matches, "crash")?,
        partition: (percent(matches, "partition")?, Duration::from_mins(minutes)),
        session: span(matches, "session")?,
        hours: number(matches, "hours", 0..=1_000)?.unwrap_or(0),
    };
    match LONG_RUN.into_iter().find(|option| matches.opt_present(option)) {
        Some(option) if values.is_none() => {
            Err(UsageError::invalid("--values", "nothing", format!("a number, which --{option} requires")))
        }
        _ => Ok(values.map(|_| endurance)),
    }
}

/// A number with its unit: `90s`, `60m`, `2h`.
fn span(matches: &Matches, option: &str) -> Result<Option<Duration>, UsageError> {
    let Some(found) = matches.opt_str(option) else { return Ok(None) };
    let units = [('s', 1), ('m', 60), ('h', 3_600)];
    let read = |(unit, secs): (char, u64)| match found.strip_suffix(unit)?.parse::<u32>() {
        Ok(count @ 1..=1_000_000) => Some(Duration::from_secs(u64::from(count) * secs)),
        _ => None,
    };
    let span = units.into_iter().find_map(read);
    span.map(Some).ok_or_else(|| UsageError::value(format!("--{option}"), &found, "90s, 60m or 2h"))
}

fn percent(matches: &Matches, option: &str) -> Result<f64, UsageError> {
    Ok(number(matches, option, 0.0..=100.0)?.unwrap_or(0.0))
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
    world.check_invariants()?;
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

/// PUTs, failures of nodes, GETs. Returns the number of GETs that missed a stored record.
fn put_and_get(world: &mut World, plan: &Plan) -> Result<u32, Failure> {
    let keys: Vec<Key> = (0..plan.puts).map(|_| world.any_key()).collect();
    put_all(world, plan, &keys)?;
    kill(world, &plan.deaths);
    Ok(get_all(world, plan.gets, &keys)?)
}

/// Begins the requests at even intervals, and waits until all have ended.
fn pace(
    world: &mut World,
    count: u32,
    mut begin: impl FnMut(&mut World, u32) -> Result<RequestId, Violation>,
) -> Result<Vec<RequestId>, Violation> {
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

/// The value of the `nth` key.
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

/// Kills a percentage of the nodes for each kind of failure, but never the last node.
fn kill(world: &mut World, deaths: &[(Death, f64)]) {
    let population = world.alive().count();
    for (death, percent) in deaths {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "at most a million"
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

/// GETs the records at random nodes. Returns the number of GETs that missed a stored record.
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

/// The wall clock, which the simulation does not use.
#[expect(clippy::disallowed_methods, reason = "only the printed duration of the run uses it")]
fn now() -> Instant {
    Instant::now()
}

/// The peak memory of this process, in MiB; 0 if the system does not report it.
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
            Failure::Broken(violation) => violation.fmt(f),
            Failure::NotFound { count } => write!(f, "{count} GETs did not find a stored record"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, UsageError> {
        read_args(line.split_whitespace().map(Into::into))
    }

    #[test]
    fn a_run_has_the_values_of_the_command_line() {
        let plan = plan("--nodes 300 --seed 7 --loss 5 --puts 3 --kill 50 --replication 20").expect("a run");
        assert_eq!((plan.scenario.nodes, plan.scenario.seed), (300, 7));
        assert_eq!(Some(plan.scenario.faults.loss), Chance::percent(5.0));
        assert_eq!((plan.puts, plan.gets, plan.replication), (3, REQUESTS_DEFAULT, 20));
        assert_eq!(plan.deaths, [(Death::Process, 50.0), (Death::Host, 0.0)]);
    }

    #[test]
    fn a_long_run_has_the_values_of_the_command_line() {
        let line = "--nodes 300 --seed 7 --values 9 --session 60m --hours 24 --crash 30 --partition 25 --replication 5";
        let plan = plan(line).expect("a long run");
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
    fn a_refusal_says_what_was_found_and_what_was_expected() {
        let complaint = |line: &str| plan(line).err().expect(line).to_string();
        for (line, expected) in [
            ("--seed 1", "--nodes: found nothing, expected a number"),
            ("--nodes 1", "--seed: found nothing, expected a number"),
            ("--nodes 0 --seed 1", "--nodes: found `0`, expected a number from 1 to 1000000"),
            ("--nodes 1 --seed 1 --loss 101", "--loss: found `101`, expected a number from 0 to 100"),
            ("--nodes 1 --seed 1 --kill nan", "--kill: found `nan`, expected a number from 0 to 100"),
            ("--nodes 1 --seed 1 --hours 3", "--values: found nothing, expected a number, which --hours requires"),
            ("--nodes 1 --seed 1 twice", "arguments: found `twice`, expected options only"),
            ("--nodes 1 --seed 1 --replication 21", "--replication: found `21`, expected a number from 1 to 20"),
        ] {
            assert_eq!(complaint(line), expected, "{line}");
        }
        for wrong in ["60", "m", "0m", "6d", "1é"] {
            let found = complaint(&format!("--nodes 1 --seed 1 --values 1 --session={wrong}"));
            assert_eq!(found, format!("--session: found `{wrong}`, expected 90s, 60m or 2h"));
        }
    }
}
