//! The load generator: sends requests to servers and measures their answers.
//!
//! One thread, one `mio` loop. [`run`] executes a [`Plan`] and returns a [`Report`]; [`preload`]
//! stores all keys before a run; `echo.rs` is the reference server.
//!
//! # Rules
//!
//! * *Closed loop*: a connection sends a batch in one write, and the next batch after all answers.
//!   *Open loop* ([`Pace::Open`]): each request is due at a scheduled time, and its latency counts from
//!   that time, even while the request waits for room. So a server that stalls is charged with all
//!   requests that are due meanwhile (no coordinated omission).
//! * A PUT without an answer (`PROTOCOL.md` 1, rule 1) ends when the next request on its connection is
//!   answered. If such a PUT is the last of a batch, a GET of its key follows, which does not count.
//! * Every wait has a bound. A connection that is refused or lost is opened again, to the next server.
//!   The run ends when each connection has tried each server without an answer.
//! * The generator must cost less than the server: per batch one write, one read, one clock reading
//!   and a part of one poll; per answer no allocation. Each report shows the CPU time per answer of both
//!   sides. Generator CPU relative to the echo server, which makes the same system calls: 1.00 at 50
//!   connections × 1 request in flight, 1.04 at 50 × 16, 1.06 with a connection per request, because a
//!   connect costs more than an accept. Relative to `dht-server`: 1.00, 0.90, and 0.69 for PUTs (medians
//!   of 9 rounds, November 2026). If the generator saturates its core it warns: CPU per answer stays
//!   valid, throughput does not.
//!
//! # The report as JSON
//!
//! One object; a value that was not measured is `null`.
//!
//! ```text
//! op                           get, put, mix
//! protocol                     dht, redis, memcached
//! connections pipeline value_bytes keys
//! put_percent                  percentage of PUTs
//! connect_each                 true: each request had its own connection
//! rate                         requests per second of the schedule; null in a closed loop
//! seconds                      duration of the measurement
//! answers                      right answers, including PUTs that end with the next answer
//! failures                     the sum of `errors`
//! answers_per_second
//! latency_us                   {p50, p90, p99, p99_9, max} of right answers
//! bytes_in bytes_out
//! server_cpu_seconds           of all processes given with --pid
//! server_cpu_ns_per_answer
//! generator_cpu_seconds
//! generator_cpu_ns_per_answer
//! behind                       open loop: {requests_max, wait_max_us, at_end}, see Behind
//! errors                       {failure, wrong_key, wrong_value, senseless, closed, connect, timeout, unsent}
//! ```
//!
//! # Other servers
//!
//! With a connection per request the source addresses are from 127.1.0.0/16, because one address has
//! too few ports. Redis accepts these connections with `--protected-mode no`.
//!
//! `main.rs` resolves names, reads files and prints reports.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use dht::wire::api::Confirm;

use super::cpu;
use super::keys::Keys;
use super::plan::{Connecting, Extent, Operation, Pace, Plan};
use super::protocol::PutFields;
use super::report::Report;
use super::requests::Choice;
use super::run::Run;
use super::tally::Errors;

/// Largest number of connections of [`preload`], and of unanswered PUTs on each: enough to keep a server
/// busy, and within its limits for one client.
const PRELOAD: (usize, usize) = (4, 16);

/// Executes `plan` with `keys`.
///
/// # Errors
///
/// [`LoadError`] if all servers are unreachable, or lost during the run.
pub(crate) fn run(plan: &Plan, keys: &Keys) -> Result<Report, LoadError> {
    Run::new(plan, keys, Choice::Drawn)?.run()
}

/// Stores a value under each of `keys` at the servers of `plan`, and waits for the confirmations.
///
/// # Errors
///
/// [`LoadError`] as in [`run`], or if a server does not confirm all values.
pub(crate) fn preload(plan: &Plan, keys: &Keys) -> Result<(), LoadError> {
    let (connections, pipeline) = PRELOAD;
    let plan = Plan {
        operation: Operation::Put,
        connections: connections.max(plan.servers.len()),
        pipeline,
        connecting: Connecting::Once,
        pace: Pace::Closed,
        extent: Extent::Requests(keys.count() as u64),
        put: PutFields { confirm: Confirm::Yes, ..plan.put },
        pids: Vec::new(),
        ..plan.clone()
    };
    let report = Run::new(&plan, keys, Choice::InTurn)?.run()?;
    match report.errors.total() {
        0 => Ok(()),
        failures => Err(LoadError::Preload { failures, keys: keys.count(), errors: report.errors }),
    }
}

/// Why a run has no report.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// No server accepts a connection and answers.
    Unreachable {
        /// The last server that was tried.
        server: SocketAddr,
        /// How the connection to it ended.
        loss: Loss,
        /// Number of right answers before.
        answers: u64,
    },
    /// Some keys were not stored.
    Preload {
        /// Number of keys that were not stored.
        failures: u64,
        /// Number of keys.
        keys: usize,
        /// The failures by kind.
        errors: Errors,
    },
    /// The CPU time of a process cannot be read.
    Cpu {
        /// Its id.
        pid: u32,
        /// The system's error.
        cause: io::Error,
    },
    /// A poll failed.
    Loop(io::Error),
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Loss {
    /// The connection was refused.
    Refused(io::Error),
    /// The server closed it.
    Closed,
    /// The system reported an error.
    Broken(io::Error),
    /// The server sent bytes that are not an answer.
    Senseless,
    /// The server sent nothing for this time.
    TimedOut(Duration),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(cause) => write!(f, "cannot connect: {cause}"),
            Self::Closed => write!(f, "closed the connection without an answer"),
            Self::Broken(cause) => cause.fmt(f),
            Self::Senseless => write!(f, "sent bytes that are not an answer"),
            Self::TimedOut(bound) => write!(f, "sent nothing for {} s", bound.as_secs_f64()),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { server, loss, answers: 0 } => write!(f, "{server}: {loss}"),
            Self::Unreachable { server, loss, answers } => write!(f, "{server}: {loss}, after {answers} answers"),
            Self::Preload { failures, keys, errors } => {
                write!(f, "preload: {failures} of {keys} keys could not be stored")?;
                let found = errors.named().into_iter().filter(|(_, count)| *count > 0);
                found
                    .enumerate()
                    .try_for_each(|(at, (name, count))| write!(f, "{} {name}={count}", if at == 0 { ":" } else { "" }))
            }
            Self::Cpu { pid, cause } => write!(f, "CPU time of process {pid}: {cause}"),
            Self::Loop(cause) => write!(f, "poll: {cause}"),
        }
    }
}

impl From<cpu::CpuError> for LoadError {
    fn from(cpu::CpuError { pid, cause }: cpu::CpuError) -> Self {
        Self::Cpu { pid, cause }
    }
}
