//! How the loop divides its time between connections: the slice of each, in units of work, and the time for those
//! that are deferred.
//!
//! *Guarantee:* how much of a connection with an event is served at once follows from these constants and from its
//! messages alone. Only the slices of deferred connections, and their number in a turn, depend on the time as well.
//!
//! *Non-goal:* exact costs. The units are rough, and every message of a peer counts the same.

use std::time::Duration;

use crate::record::Class;
use crate::time::Time;
use crate::wire::api::Put;

/// The slice of a connection with an event. One that takes more is deferred: it is served after the others.
pub(super) const FIRST_SLICE: Slice = Slice { work: 96, output: FIRST_OUTPUT_SLICE };

/// The slice of a deferred connection: larger, so that its answers share a few writes. If there is no time left, it ends
/// after a part of its work. The kernel takes some 130 microseconds to copy its output.
pub(super) const SLICE: Slice = Slice { work: 1_024, output: 2 * OUTPUT_SLICE };

/// The output of a connection that is written before others are served, if none was left before. The kernel takes some
/// 4 microseconds to copy it.
pub(super) const FIRST_OUTPUT_SLICE: usize = 32 << 10;

/// The same if some was left. Half of what a slice answers: this delays the others less, and its reader still has
/// enough to read.
pub(super) const OUTPUT_SLICE: usize = 256 << 10;

/// The work of a deferred connection after which the loop looks at the time.
const PART: usize = 128;

/// The work of a request that is in flight afterwards, which has cost a lookup and messages to peers.
pub(super) const IN_FLIGHT_WORK: usize = 16;

/// The work of a query that ends at once, because there are no peers to ask.
pub(super) const QUERY_WORK: usize = 4;

/// The work of a message of a peer.
pub(super) const PEER_MESSAGE_WORK: usize = 8;

/// The work of verifying a signature, some 50 microseconds.
const SIGNATURE_WORK: usize = 256;

/// The bytes of a signed or hashed value that are one unit of work.
const HASHED_BYTES_PER_UNIT: usize = 128;

/// The bytes read that are one unit of work.
const BYTES_PER_UNIT: usize = 1 << 10;

/// The pace of a server.
pub(super) const PACE: Pace = Pace {
    input: Duration::from_micros(128),
    output: Duration::from_micros(64),
    late_after: Duration::from_millis(20),
};

/// How the loop divides its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The time in a turn for the input of deferred connections. It bounds how long they delay the others. With half of
    /// it, PUTs of many clients share too few messages to peers: a fifth less of them were answered.
    pub(super) input: Duration,
    /// The same for their output, which costs about as much in small parts.
    pub(super) output: Duration,
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
    /// What is left before the loop looks at the time.
    work: usize,
    /// What is left after that, and until when it may be used.
    later: usize,
    until: Time,
    /// Bytes of immediate replies below which a further one may be added; 0 if that must be determined.
    pub(super) answers: usize,
}

impl Budget {
    /// The whole of `slice`.
    pub(super) fn whole(slice: Slice) -> Self {
        Self { slice, work: slice.work, later: 0, until: Time::ZERO, answers: 0 }
    }

    /// What of `slice` can be used `until` then, but some of it in any case.
    pub(super) fn until(until: Time, slice: Slice) -> Self {
        Self { slice, work: PART, later: slice.work - PART, until, answers: 0 }
    }

    pub(super) fn spend(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work);
    }

    /// `len` bytes were read.
    pub(super) fn spend_read(&mut self, len: usize) {
        self.spend(len / BYTES_PER_UNIT);
    }

    /// Whether nothing is left for a further message. Asks for the time `now` only if that matters.
    pub(super) fn is_spent(&mut self, now: impl FnOnce() -> Time) -> bool {
        if self.work > 0 {
            return false;
        }
        if self.later == 0 || now() >= self.until {
            return true;
        }
        self.work = PART.min(self.later);
        self.later -= self.work;
        false
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
        self.slice.work - self.work - self.later >= FIRST_SLICE.work || output >= FIRST_SLICE.output
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::ZERO + Duration::from_micros(micros)
    }

    #[test]
    fn a_deferred_slice_ends_when_its_time_or_its_work_is_over() {
        let mut early = Budget::until(at(5), SLICE);
        early.spend(PART - 1);
        assert!(!early.is_spent(|| at(9)), "a part can be used whatever the time is");
        early.spend(1);
        assert!(!early.is_spent(|| at(4)));
        early.spend(PART);
        assert!(early.is_spent(|| at(5)));

        let mut whole = Budget::until(at(5), SLICE);
        let mut parts = 0;
        while !whole.is_spent(|| at(0)) {
            whole.spend(PART);
            parts += 1;
        }
        assert_eq!(parts * PART, SLICE.work);
    }

    #[test]
    fn a_whole_slice_does_not_depend_on_the_time() {
        let mut budget = Budget::whole(FIRST_SLICE);
        budget.spend(FIRST_SLICE.work - 1);
        assert!(!budget.is_spent(|| unreachable!("it has work left")));
        assert!(!budget.is_heavy(0) && budget.is_heavy(FIRST_SLICE.output));
        budget.spend(1);
        assert!(budget.is_spent(|| unreachable!("it has no part that depends on the time")));
        assert!(budget.is_heavy(0));
    }

    #[test]
    fn a_part_of_a_deferred_slice_is_as_heavy_as_a_first_slice() {
        let mut budget = Budget::until(at(5), SLICE);
        budget.spend(FIRST_SLICE.work - 1);
        assert!(!budget.is_heavy(0));
        budget.spend(1);
        assert!(budget.is_heavy(0));
    }
}
