//! The load generator: asks servers for as much as they give, and says how long that took.
//!
//! One thread, one `mio` loop. [`run`] carries out a [`Plan`] and returns a [`Report`]; [`preload`]
//! stores all keys first; `echo` is the yardstick, a bare loop that answers any GET.
//!
//! # Laws
//!
//! * *Closed loop*: a connection sends a batch in one write, and the next one when all of its
//!   answers are in. *Open loop* ([`Pace::Open`]): each request has a moment at which it is wanted,
//!   and its latency is counted from there, also while it waits for room: a server that stalls is
//!   charged with all that would have come meanwhile (no coordinated omission).
//! * A PUT that is not answered (`PROTOCOL.md` 1, rule 1) is over when the next request behind it
//!   on its connection is answered; a batch that ends with one is followed by a GET of its key,
//!   which does not count by itself.
//! * Every wait has a bound. A connection that is refused, or lost, is dialled again, at the next
//!   server; when each connection has tried each server in vain the run is over.
//! * It must cost less than what it measures: per batch one write, one read, one look at the clock
//!   and a share of one poll; per answer no allocation. That is known from each report, which has
//!   the CPU time per answer of both sides. The bare loop, which makes the same system calls as it
//!   does, is the least that a server can use: of that it used 1.00 at 50 connections × 1 and 1.04 at
//!   50 × 16; of what `dht-server` used, 1.00 and 0.90, and 0.69 of a PUT (medians of 9 rounds, in
//!   November 2026). Where each request has its own connection it uses more, 1.06, because connecting
//!   costs more than accepting. Where its own core was the busy one it warns: then the CPU time tells of the
//!   server, and the rate does not.
//!
//! # The report as JSON
//!
//! One object; what was not measured is `null`.
//!
//! ```text
//! op                           get, put, mix
//! protocol                     dht, redis, memcached
//! connections pipeline value_bytes keys
//! put_percent                  of a hundred requests
//! connect_each                 true: each request had a connection of its own
//! rate                         requests per second of the schedule; null in a closed loop
//! seconds                      that were measured
//! answers                      right ones: unanswered PUTs that were seen to be done included
//! failures                     everything else: the sum of `errors`
//! answers_per_second
//! latency_us                   {p50, p90, p99, p99_9, max}, of right answers
//! bytes_in bytes_out
//! server_cpu_seconds           of all processes that were named
//! server_cpu_ns_per_answer
//! generator_cpu_seconds
//! generator_cpu_ns_per_answer
//! behind                       open loop: {requests_max, wait_max_us, at_end}, see Behind
//! errors                       {failure, wrong_key, wrong_value, senseless, closed, connect, timeout, unsent}
//! ```
//!
//! # What to know of the other servers
//!
//! Connections of one request each come from addresses of 127.1.0.0/16, because the ports of one
//! would run out: Redis must be told `--protected-mode no` to take them.
//!
//! What this does not do: resolve names, read files, print reports. Those are `bin/dht-load`'s.

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

/// Connections that [`preload`] uses at most, and PUTs on each that have no answer: enough to keep
/// a server busy, and no more than it takes in from one client.
const PRELOAD: (usize, usize) = (4, 16);

/// Carries out `plan`, with `keys`.
///
/// # Errors
///
/// [`LoadError`] if no server is to be had, or is lost for good.
pub(crate) fn run(plan: &Plan, keys: &Keys) -> Result<Report, LoadError> {
    Run::new(plan, keys, Choice::Drawn)?.run()
}

/// Stores a value under each of `keys`, at the servers of `plan`, and sees that it is held.
///
/// # Errors
///
/// [`LoadError`] as of [`run`], or if a server does not say of all that it has them.
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

/// Why there is no report.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// No connection to a server is to be had any more, or none that brings an answer.
    Unreachable {
        /// The last one that was tried.
        server: SocketAddr,
        /// What became of it.
        loss: Loss,
        /// Right answers before that.
        answers: u64,
    },
    /// Not all keys could be stored.
    Preload {
        /// So many could not.
        failures: u64,
        /// Of so many.
        keys: usize,
        /// What went wrong.
        errors: Errors,
    },
    /// A process whose CPU time was wanted has none to show.
    Cpu {
        /// Its id.
        pid: u32,
        /// What the system says.
        cause: io::Error,
    },
    /// The loop itself cannot go on.
    Loop(io::Error),
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Loss {
    /// It was never made.
    Refused(io::Error),
    /// The server closed it.
    Closed,
    /// The system says that it is over.
    Broken(io::Error),
    /// What came is no answer.
    Senseless,
    /// Nothing came for so long.
    TimedOut(Duration),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(cause) => write!(f, "cannot connect: {cause}"),
            Self::Closed => write!(f, "closed the connection and owed an answer"),
            Self::Broken(cause) => cause.fmt(f),
            Self::Senseless => write!(f, "sent what is no answer"),
            Self::TimedOut(bound) => write!(f, "gave no sign within {} s", bound.as_secs_f64()),
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
            Self::Loop(cause) => write!(f, "the loop cannot go on: {cause}"),
        }
    }
}

impl From<cpu::CpuError> for LoadError {
    fn from(cpu::CpuError { pid, cause }: cpu::CpuError) -> Self {
        Self::Cpu { pid, cause }
    }
}
