//! The account of the memory that clients of the API can hold by not reading.
//!
//! # What is counted
//!
//! For each connection, and for all together:
//!
//! * *Finished* answers: those in the outbox, with the part of its buffer that is sent and not freed yet, and
//!   those that wait for the answer to an earlier request, with [`HELD_OVERHEAD`] each.
//! * *Reserved* room: the largest possible answer of each request in flight. It covers the value that a
//!   running request may have received from another node. An answer that the service gives at once takes its
//!   real size, and only if the socket does not accept it.
//! * *Input*: the buffer of requests that were read and are not taken yet.
//!
//! # When a request is taken
//!
//! A connection that is owed nothing may always send one request: otherwise a few clients could keep all
//! others from being served. A connection takes a *further* request only if all of these hold; otherwise it
//! is not read until its own answers are sent.
//!
//! * Fewer than [`API_OWED_MAX`](crate::limits::API_OWED_MAX) requests are unanswered.
//! * Its finished answers, and for each request in flight the size that its answers had lately, take at most
//!   [`API_ANSWERS_EXPECTED_MAX`](crate::limits::API_ANSWERS_EXPECTED_MAX). At first, the largest size is expected.
//! * Its finished answers and what is reserved take at most [`API_ANSWERS_MAX`](crate::limits::API_ANSWERS_MAX), and
//!   at most the room that all connections leave of [`API_ANSWERS_TOTAL_MAX`]. So `n` connections that take what
//!   they can get have a part of `1 / (n + 1)` each, and a newcomer finds such a part (the dynamic threshold of
//!   Choudhury and Hahne, 1998).
//!
//! The second rule keeps a client with large answers at 16 requests, and lets one with small answers have more;
//! the third one holds also if that expectation is wrong.
//!
//! # What closes a connection
//!
//! A client is *behind* while its socket accepts no more of its finished answers. It makes *progress* when
//! the socket has accepted [`PROGRESS_MIN`] further bytes, or all that there are. A client that is behind
//! without progress for [`UNREAD_TIMEOUT`] is closed. So is, while all finished answers together exceed
//! [`API_ANSWERS_TOTAL_MAX`], the client behind whose last progress is longest ago: clients that read are
//! closed after those that do not. A client that keeps up is never closed.
//!
//! # What follows
//!
//! Finished answers never exceed the bound at the end of a turn: further requests had room for theirs, and
//! while the only request of a connection adds to the sum, its client is behind or nothing is left of the
//! answer. What is reserved exceeds the bound by at most one largest answer for each connection, and only
//! until the service answers. The input is at most [`API_INPUT_MAX`], and for each connection [`API_READ_MIN`] and one
//! incomplete request. An idle connection keeps little
//! ([`CLIENT_BUFFER_KEPT_MAX`](crate::limits::CLIENT_BUFFER_KEPT_MAX)).
//!
//! The kernel's buffers are its own: they come before the outbox, and are freed when the connection is closed.

use std::time::Duration;

use crate::limits::{API_ANSWERS_TOTAL_MAX, API_INPUT_MAX, API_READ_MIN, READ_BUFFER_SIZE};

/// Bytes that an answer takes beside its own while it waits for an earlier one: its entry in the queue, which
/// may have twice the entries that it needs, and the header of its buffer.
pub(super) const HELD_OVERHEAD: usize = 96;

/// Bytes that a client must read within [`UNREAD_TIMEOUT`], if as many wait. A modem of 1995 reads ten times as
/// many. Fewer would let a client that reads a byte now and then hold its answers for ever.
pub(super) const PROGRESS_MIN: usize = 16 << 10;

/// Time for a client to read [`PROGRESS_MIN`] bytes. A process that was stopped for a moment, or a link that
/// loses packets for a while, continues within this time.
pub(super) const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What one client holds, or all together, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Finished answers that are not sent.
    pub(super) finished: usize,
    /// Room for the answers to the requests in flight.
    pub(super) reserved: usize,
    /// Requests that are not taken yet.
    pub(super) input: usize,
}

impl Usage {
    /// All that is there for answers.
    pub(super) fn answers(self) -> usize {
        self.finished + self.reserved
    }
}

/// The sum over all clients, and its bound.
#[derive(Debug)]
pub(super) struct Account {
    all: Usage,
    answers_max: usize,
    input_max: usize,
    /// The most finished answers so far, which tests compare with the bound.
    finished_peak: usize,
}

impl Default for Account {
    fn default() -> Self {
        Self { all: Usage::default(), answers_max: API_ANSWERS_TOTAL_MAX, input_max: API_INPUT_MAX, finished_peak: 0 }
    }
}

impl Account {
    /// Replaces what a client has in the sum.
    pub(super) fn change(&mut self, from: Usage, to: Usage) {
        self.all.finished = self.all.finished - from.finished + to.finished;
        self.all.reserved = self.all.reserved - from.reserved + to.reserved;
        self.all.input = self.all.input - from.input + to.input;
        self.finished_peak = self.finished_peak.max(self.all.finished);
    }

    /// Room that is left for answers.
    pub(super) fn room(&self) -> usize {
        self.answers_max.saturating_sub(self.all.answers())
    }

    /// Whether the finished answers exceed the bound.
    pub(super) fn is_exceeded(&self) -> bool {
        self.all.finished > self.answers_max
    }

    /// The bytes to read from a client at a time.
    pub(super) fn read_size(&self) -> usize {
        self.input_max.saturating_sub(self.all.input).clamp(API_READ_MIN, READ_BUFFER_SIZE)
    }
}

#[cfg(test)]
impl Account {
    /// The sum over all clients.
    pub(super) fn all(&self) -> Usage {
        self.all
    }

    /// The most finished answers so far.
    pub(super) fn finished_peak(&self) -> usize {
        self.finished_peak
    }

    /// Sets the bounds of the sum.
    pub(super) fn set_bounds(&mut self, answers_max: usize, input_max: usize) {
        (self.answers_max, self.input_max) = (answers_max, input_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(finished: usize, reserved: usize, input: usize) -> Usage {
        Usage { finished, reserved, input }
    }

    #[test]
    fn only_finished_answers_exceed_the_bound_and_reserved_ones_take_room_too() {
        let mut account = Account::default();
        account.set_bounds(100, 0);
        account.change(usage(0, 0, 0), usage(60, 30, 0));
        assert_eq!((account.room(), account.is_exceeded()), (10, false));
        account.change(usage(0, 0, 0), usage(0, 80, 0));
        assert_eq!((account.room(), account.is_exceeded()), (0, false));
        account.change(usage(0, 80, 0), usage(50, 0, 0));
        assert_eq!((account.room(), account.is_exceeded()), (0, true));
        account.change(usage(60, 30, 0), usage(0, 0, 0));
        assert_eq!((account.room(), account.is_exceeded()), (50, false));
    }

    #[test]
    fn the_more_input_waits_the_less_is_read_at_a_time() {
        let mut account = Account::default();
        assert_eq!(account.read_size(), READ_BUFFER_SIZE);
        account.change(usage(0, 0, 0), usage(0, 0, API_INPUT_MAX - 50_000));
        assert_eq!(account.read_size(), 50_000);
        account.change(usage(0, 0, 0), usage(0, 0, API_INPUT_MAX));
        assert_eq!(account.read_size(), API_READ_MIN);
    }
}
