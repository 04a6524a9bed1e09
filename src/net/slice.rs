//! How the loop divides its time between connections: the slice of each, in units of work, and the time for those
//! that are deferred.
//!
//! *Guarantee:* how much of one connection is served before others follow from these constants and from its messages
//! alone, so that a test needs no clock. Only the number of deferred connections in a turn depends on the time.
//!
//! *Non-goal:* exact costs. The units are measured, and are right within a factor of two or three.

use std::time::Duration;

use crate::record::Class;
use crate::wire::api::Put;

/// The slice of a connection with an event. One that takes more is deferred: it is served after the others.
pub(super) const FIRST_SLICE: Slice = Slice { work: 96, output: FIRST_OUTPUT_SLICE };

/// The slice of a deferred connection: larger, so that its answers share a few writes.
pub(super) const SLICE: Slice = Slice { work: 1_024, output: OUTPUT_SLICE };

/// The output of a connection that is written before others are served, if none was left before. The kernel takes some
/// 4 microseconds to copy it.
pub(super) const FIRST_OUTPUT_SLICE: usize = 32 << 10;

/// The same if some was left.
pub(super) const OUTPUT_SLICE: usize = 512 << 10;

/// The work of a request that is in flight afterwards, which has cost a lookup and messages to peers.
pub(super) const IN_FLIGHT_WORK: usize = 32;

/// The work of a query that ends at once, because there are no peers to ask.
pub(super) const QUERY_WORK: usize = 4;

/// The work of a message of a peer.
pub(super) const PEER_MESSAGE_WORK: usize = 16;

/// The work of verifying a signature, some 50 microseconds.
const SIGNATURE_WORK: usize = 256;

/// The bytes of a signed or hashed value that are one unit of work.
const HASHED_BYTES_PER_UNIT: usize = 128;

/// The bytes read that are one unit of work.
const BYTES_PER_UNIT: usize = 1 << 10;

/// The pace of a server.
pub(super) const PACE: Pace = Pace { deferred: Duration::from_micros(125), late_after: Duration::from_millis(20) };

/// How the loop divides its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The part of a turn in which deferred connections are served. It bounds how long they delay the others.
    pub(super) deferred: Duration,
    /// A turn is late if a deadline is overdue by this: the process or the host did not run meanwhile. A loop that has
    /// much to do is late by a few milliseconds.
    pub(super) late_after: Duration,
}

/// What is processed of the input of one connection before others are served.
#[derive(Clone, Copy)]
pub(super) struct Slice {
    /// The unit is a request that ends at once, or a kilobyte that is read: some 200 nanoseconds.
    work: usize,
    /// Bytes of immediate replies.
    output: usize,
}

/// What one connection may still use of its slice.
pub(super) struct Budget {
    slice: Slice,
    work: usize,
    /// Bytes of immediate replies below which a further one may be added; 0 if that must be determined.
    pub(super) answers: usize,
}

impl Budget {
    pub(super) fn of(slice: Slice) -> Self {
        Self { slice, work: slice.work, answers: 0 }
    }

    pub(super) fn spend(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work);
    }

    /// `len` bytes were read.
    pub(super) fn spend_read(&mut self, len: usize) {
        self.spend(len / BYTES_PER_UNIT);
    }

    /// Whether nothing is left for a further message.
    pub(super) fn is_spent(&self) -> bool {
        self.work == 0
    }

    /// The bytes that may still be read at once.
    pub(super) fn bytes(&self) -> usize {
        self.work * BYTES_PER_UNIT
    }

    /// The bytes of immediate replies at which the slice ends.
    pub(super) fn output(&self) -> usize {
        self.slice.output
    }

    /// Whether as much is used, with `output` bytes of replies, as in a whole first slice.
    pub(super) fn is_heavy(&self, output: usize) -> bool {
        self.slice.work - self.work >= FIRST_SLICE.work || output >= FIRST_SLICE.output
    }
}

/// The work of verifying the value of a PUT.
pub(super) fn verification_work(put: &Put<'_>) -> usize {
    match put.class {
        Class::Plain => 0,
        Class::Hashed => put.value.len() / HASHED_BYTES_PER_UNIT,
        Class::Signed => SIGNATURE_WORK + put.value.len() / HASHED_BYTES_PER_UNIT,
    }
}
