//! What a run does: everything that the command line may say, understood.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::protocol::{Protocol, PutFields};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Values alone.
    Get,
    /// That values be stored.
    Put,
    /// Both, in an order that is drawn.
    Mix {
        /// How many of a hundred requests are PUTs; less than 100.
        put_percent: u8,
    },
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Closed loop: a connection sends its next batch when all answers to the last one are in.
    Closed,
    /// Open loop: on a schedule, whatever the answers do.
    Open {
        /// Requests per second, over all connections; more than 0.
        rate: u32,
    },
}

/// How long a run lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// So many requests, all of which are waited for.
    Requests(u64),
    /// So long, after something that does not count.
    Time {
        /// Before anything is counted.
        warm_up: Duration,
        /// What counts.
        measured: Duration,
    },
}

/// How long a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connecting {
    /// For the whole run.
    Once,
    /// For one request.
    Each,
}

/// How well an answer is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Its type and, where it names one, its key.
    Key,
    /// Its value too, byte for byte.
    Value,
}

/// Whether somebody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nobody does.
    Silent,
    /// A line on standard error, each second.
    Shown,
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is asked for.
    pub(crate) operation: Operation,
    /// In which words.
    pub(crate) protocol: Protocol,
    /// Whom; connections are dealt out in turn. At least one.
    pub(crate) servers: Vec<SocketAddr>,
    /// Connections at once; at least one.
    pub(crate) connections: usize,
    /// Requests at most that a connection has no answer to; at least one.
    pub(crate) pipeline: usize,
    /// How long a connection is used.
    pub(crate) connecting: Connecting,
    /// When the next request is sent.
    pub(crate) pace: Pace,
    /// How long it lasts.
    pub(crate) extent: Extent,
    /// Bytes of every value, 1..=[`dht::limits::VALUE_SIZE_MAX`].
    pub(crate) value_size: usize,
    /// What every PUT says besides.
    pub(crate) put: PutFields,
    /// How well an answer is looked at.
    pub(crate) verify: Verify,
    /// An answer, or a connection, that takes longer has failed.
    pub(crate) timeout: Duration,
    /// Processes whose CPU time is reported.
    pub(crate) pids: Vec<u32>,
    /// What everything that is drawn follows from.
    pub(crate) seed: u64,
    /// Whether somebody watches.
    pub(crate) progress: Progress,
}

impl Operation {
    /// How many of a hundred requests are PUTs.
    pub(crate) fn put_percent(self) -> u8 {
        match self {
            Self::Get => 0,
            Self::Mix { put_percent } => put_percent,
            Self::Put => 100,
        }
    }
}

/// As the command line and the report name it.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Mix { .. } => "mix",
        })
    }
}
