//! What a run does: the validated values of the command line.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::protocol::{Protocol, PutFields};

/// The requests of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// GETs.
    Get,
    /// PUTs.
    Put,
    /// Both, in random order.
    Mix {
        /// Percentage of PUTs, less than 100.
        put_percent: u8,
    },
}

/// When to send the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Closed loop: a connection sends its next batch after all answers to the last one.
    Closed,
    /// Open loop: on a schedule that does not depend on the answers.
    Open {
        /// Requests per second, over all connections; not 0.
        rate: u32,
    },
}

/// How long a run lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// This many requests, including their answers.
    Requests(u64),
    /// A time, after a warm-up.
    Time {
        /// Time before the measurement.
        warm_up: Duration,
        /// Time of the measurement.
        measured: Duration,
    },
}

/// How long to use a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connecting {
    /// For the whole run.
    Once,
    /// For one request.
    Each,
}

/// How thoroughly to verify an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Its type and, if the protocol includes it, its key.
    Key,
    /// Every byte of its value too.
    Value,
}

/// Whether to print the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Print nothing.
    Silent,
    /// Print a line on standard error every second.
    Shown,
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The requests.
    pub(crate) operation: Operation,
    /// The protocol of the servers.
    pub(crate) protocol: Protocol,
    /// The servers, at least one; the connections are distributed round-robin.
    pub(crate) servers: Vec<SocketAddr>,
    /// Concurrent connections, at least one.
    pub(crate) connections: usize,
    /// Largest number of unanswered requests per connection, at least one.
    pub(crate) pipeline: usize,
    /// How long to use a connection.
    pub(crate) connecting: Connecting,
    /// When to send the next request.
    pub(crate) pace: Pace,
    /// How long the run lasts.
    pub(crate) extent: Extent,
    /// Size of every value in bytes, 1..=[`dht::limits::VALUE_SIZE_MAX`].
    pub(crate) value_size: usize,
    /// The other fields of every PUT.
    pub(crate) put: PutFields,
    /// How thoroughly to verify an answer.
    pub(crate) verify: Verify,
    /// Longest wait for an answer or a connection.
    pub(crate) timeout: Duration,
    /// Processes whose CPU time to report.
    pub(crate) pids: Vec<u32>,
    /// Seed of all random choices.
    pub(crate) seed: u64,
    /// Whether to print the progress.
    pub(crate) progress: Progress,
}

impl Operation {
    /// Percentage of PUTs.
    pub(crate) fn put_percent(self) -> u8 {
        match self {
            Self::Get => 0,
            Self::Mix { put_percent } => put_percent,
            Self::Put => 100,
        }
    }
}

/// Its name in the command line and the report.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Mix { .. } => "mix",
        })
    }
}
