//! The replies to the clients of the API.
//!
//! The requests of one connection run concurrently and end in any order. Their replies are sent in the
//! order of the requests (`PROTOCOL.md` 1, rule 3): a reply that arrives too early is held until all
//! replies before it have arrived. If no request is unanswered, an immediate reply bypasses this queue.
//!
//! Replies are never dropped. The [account](crate::net::account) says when a client may send a further
//! request, and when one that does not read is closed.

use std::collections::VecDeque;

use crate::limits::{ANSWER_SIZE_MAX, API_ANSWERS_EXPECTED_MAX, API_ANSWERS_MAX, API_OWED_MAX, CLIENT_BUFFER_KEPT_MAX};
use crate::net::account::{HELD_OVERHEAD, PROGRESS_MIN, Usage};
use crate::net::outbox::Outbox;
use crate::node::replies::Answers;
use crate::time::Time;

/// Entries that an empty queue of unanswered requests keeps. There are many clients, and most are idle.
const UNANSWERED_KEPT_MAX: usize = 64;

/// The part of the expected size of a reply by which it falls with each smaller reply.
const EXPECTED_DECAY: usize = 16;

/// The server's state of one connection to the API.
#[derive(Debug)]
pub(super) struct Client {
    outbox: Outbox,
    /// In the order of the requests.
    unanswered: VecDeque<Unanswered>,
    last_request: u64,
    /// Requests without a reply.
    in_flight: usize,
    /// The largest replies to these, in bytes.
    reserved: usize,
    /// What held replies take.
    held_bytes: usize,
    /// The size that a reply to a request in flight will probably have: that of the largest of the last ones.
    /// Before the first one, it is the largest possible size.
    expected: usize,
    behind: Option<Behind>,
    /// What the account of all clients has counted of this one.
    pub(super) counted: Usage,
}

/// A request without a reply in the outbox.
#[derive(Debug)]
struct Unanswered {
    request: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// In flight, with the size of the largest reply.
    InFlight(usize),
    /// The reply arrived before its turn.
    Held(Vec<u8>),
}

/// How far a client is whose socket accepts no more replies.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// When it last made progress, or fell behind.
    since: Time,
    /// Bytes that the socket has accepted since.
    accepted: usize,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            outbox: Outbox::new(CLIENT_BUFFER_KEPT_MAX),
            unanswered: VecDeque::new(),
            last_request: 0,
            in_flight: 0,
            reserved: 0,
            held_bytes: 0,
            expected: ANSWER_SIZE_MAX,
            behind: None,
            counted: Usage::default(),
        }
    }
}

impl Client {
    /// The number of the next request. Each number is used once.
    pub(super) fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    /// Notes that the reply to `request`, the latest one, will arrive later. It has at most `size_max` bytes.
    pub(super) fn expect_reply(&mut self, request: u64, size_max: usize) {
        self.in_flight += 1;
        self.reserved += size_max;
        self.unanswered.push_back(Unanswered { request, state: State::InFlight(size_max) });
    }

    /// Whether the latest request is in flight.
    pub(super) fn awaits_latest(&self) -> bool {
        let latest = self.unanswered.back().filter(|unanswered| unanswered.request == self.last_request);
        latest.is_some_and(|unanswered| matches!(unanswered.state, State::InFlight(_)))
    }

    /// Appends immediate `replies` to the outbox, without the first `sent` bytes. No earlier request may
    /// be unanswered.
    pub(super) fn push_replies(&mut self, replies: &Answers, mut sent: usize) {
        for part in replies.parts() {
            let skipped = sent.min(part.len());
            self.outbox.push(&part[skipped..], &[]);
            sent -= skipped;
        }
    }

    /// Takes the reply to `request`: its head and its value. A reply to a request that is not unanswered
    /// is ignored.
    pub(super) fn reply(&mut self, request: u64, head: &[u8], value: &[u8]) -> Replied {
        let Ok(at) = self.unanswered.binary_search_by_key(&request, |unanswered| unanswered.request) else {
            return Replied::NotExpected;
        };
        let State::InFlight(size_max) = self.unanswered[at].state else { return Replied::NotExpected };
        let len = head.len() + value.len();
        self.in_flight -= 1;
        self.reserved -= size_max;
        self.expected = len.max(self.expected - self.expected / EXPECTED_DECAY);
        if at > 0 {
            self.held_bytes += len + HELD_OVERHEAD;
            self.unanswered[at].state = State::Held([head, value].concat());
            return Replied::Held;
        }
        self.unanswered.pop_front();
        self.outbox.push(head, value);
        while let Some(Unanswered { state: State::Held(reply), .. }) = self.unanswered.front() {
            self.held_bytes -= reply.len() + HELD_OVERHEAD;
            self.outbox.push(reply, &[]);
            self.unanswered.pop_front();
        }
        if self.unanswered.is_empty() && self.unanswered.capacity() > UNANSWERED_KEPT_MAX {
            self.unanswered = VecDeque::new();
        }
        Replied::Queued
    }

    /// The bytes of immediate replies up to which a further request may be read; `None` if it must wait even
    /// without any. All clients together have `room` left.
    pub(super) fn room(&self, room: usize) -> Option<usize> {
        let usage = self.usage();
        let expected = usage.finished + (self.in_flight + 1) * self.expected;
        let largest = usage.answers() + ANSWER_SIZE_MAX;
        let left = API_ANSWERS_EXPECTED_MAX.checked_sub(expected);
        let left = left.and_then(|left| API_ANSWERS_MAX.min(room).checked_sub(largest).map(|other| left.min(other)));
        if usage.answers() == 0 {
            return Some(left.unwrap_or_default());
        }
        left.filter(|_| self.unanswered.len() < API_OWED_MAX)
    }

    /// What its replies take.
    pub(super) fn usage(&self) -> Usage {
        Usage { finished: self.outbox.buffered() + self.held_bytes, reserved: self.reserved, input: 0 }
    }

    /// Notes that the socket has accepted `len` bytes of the outbox, and no more for now if it `is_blocked`.
    pub(super) fn note_accepted(&mut self, len: usize, is_blocked: bool, now: Time) {
        if !is_blocked {
            self.behind = None;
            return;
        }
        let behind = self.behind.get_or_insert(Behind { since: now, accepted: 0 });
        behind.accepted += len;
        if behind.accepted >= PROGRESS_MIN {
            *behind = Behind { since: now, accepted: 0 };
        }
    }

    /// Whether its socket accepts no more of its replies.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// When the client last made progress, if it is behind.
    pub(super) fn behind_since(&self) -> Option<Time> {
        self.behind.map(|behind| behind.since)
    }

    /// Whether any request is unanswered.
    pub(super) fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// The unsent replies.
    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Whether all requests are answered and all replies are sent.
    pub(super) fn is_done(&self) -> bool {
        self.unanswered.is_empty() && self.outbox.is_empty()
    }
}

/// The result of [`Client::reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replied {
    /// The reply is in the outbox.
    Queued,
    /// The reply waits for earlier ones.
    Held,
    /// The request is not unanswered.
    NotExpected,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;
    use crate::wire::api::ApiReply;
    use proptest::prelude::*;

    /// A request whose reply arrives later.
    fn unanswered(client: &mut Client) -> u64 {
        let request = client.next_request();
        client.expect_reply(request, ANSWER_SIZE_MAX);
        request
    }

    proptest! {
        #[test]
        fn replies_are_sent_in_the_order_of_the_requests(
            order in Just((0_u8..20).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut client = Client::default();
            let requests: Vec<u64> = order.iter().map(|_| unanswered(&mut client)).collect();
            for &at in &order {
                prop_assert_ne!(client.reply(requests[usize::from(at)], &[at], &[at]), Replied::NotExpected);
            }
            let expected: Vec<u8> = (0..20).flat_map(|at| [at, at]).collect();
            prop_assert_eq!(client.outbox().unsent(), &expected[..]);
            prop_assert_eq!((client.usage().answers(), client.has_unanswered()), (expected.len(), false));
        }
    }

    #[test]
    fn immediate_replies_are_sent_before_later_ones() {
        let mut client = Client::default();
        let (_, second) = (client.next_request(), unanswered(&mut client));
        let mut replies = Answers::default();
        replies.push(&ApiReply::Failure { key: Key::new([7; 32]) }, None);
        client.push_replies(&replies, 30);
        assert_eq!(client.reply(second, b"second", b""), Replied::Queued);
        assert_eq!(client.outbox().unsent(), b"\x07\x07\x07\x07\x07\x07second", "without the 30 bytes that were sent");
    }

    #[test]
    fn a_request_without_a_reply_does_not_delay_the_next_replies() {
        let mut client = Client::default();
        let silent = client.next_request();
        let get = unanswered(&mut client);
        let confirmed = unanswered(&mut client);
        assert_eq!(client.reply(silent, b"never", b""), Replied::NotExpected);
        assert_eq!(client.reply(confirmed, b"second", b""), Replied::Held);
        assert_eq!(client.reply(confirmed, b"again", b""), Replied::NotExpected);
        assert_eq!(client.reply(get, b"first", b"value"), Replied::Queued);
        assert_eq!(client.reply(get, b"again", b""), Replied::NotExpected);
        assert_eq!(client.outbox().unsent(), b"firstvaluesecond");
        assert!(!client.has_unanswered());
    }

    /// A client whose last answers had 36 bytes, and that has read them.
    fn used_to_small_answers() -> Client {
        let mut client = Client::default();
        for _ in 0..200 {
            let request = unanswered(&mut client);
            assert_eq!(client.reply(request, &[0; 36], b""), Replied::Queued);
            client.outbox().advance(36);
        }
        client
    }

    /// Sends requests as long as there is room; all clients have `all` together, and this one all of it.
    fn fill(client: &mut Client, all: usize) -> usize {
        let room = |client: &Client| client.room(all.saturating_sub(client.usage().answers()));
        for count in 0..=API_OWED_MAX {
            if room(client).is_none() {
                return count;
            }
            unanswered(client);
        }
        panic!("there is a bound");
    }

    #[test]
    fn a_client_of_unknown_habits_may_have_16_requests_in_flight() {
        let mut client = Client::default();
        assert_eq!(fill(&mut client, usize::MAX), API_ANSWERS_EXPECTED_MAX / ANSWER_SIZE_MAX);
    }

    #[test]
    fn a_client_with_small_answers_may_have_more_requests_in_flight_as_long_as_the_largest_answers_have_room() {
        let mut client = used_to_small_answers();
        assert_eq!(fill(&mut client, usize::MAX), API_ANSWERS_MAX / ANSWER_SIZE_MAX);
        let first = client.last_request - 63;
        assert_eq!(client.reply(first, &[0; 36], &vec![0; 60_000]), Replied::Queued);
        client.outbox().advance(60_036);
        assert_eq!(client.room(usize::MAX), None, "one large answer, and it is taken for a client with large ones");
    }

    #[test]
    fn a_client_never_has_more_than_half_of_the_room_and_a_client_that_is_owed_nothing_may_always_ask() {
        let mut client = used_to_small_answers();
        assert_eq!(fill(&mut client, 10 * ANSWER_SIZE_MAX), 5);
        let mut other = Client::default();
        assert_eq!(other.room(0), Some(0));
        unanswered(&mut other);
        assert_eq!(other.room(0), None);
        assert_eq!(other.room(2 * ANSWER_SIZE_MAX), Some(0));
    }

    #[test]
    fn a_client_waits_at_its_bound_of_unanswered_requests() {
        let mut client = used_to_small_answers();
        let confirmed = |client: &mut Client| {
            let request = client.next_request();
            client.expect_reply(request, 36);
            request
        };
        let first = confirmed(&mut client);
        for _ in 1..API_OWED_MAX {
            assert!(client.room(usize::MAX).is_some());
            confirmed(&mut client);
        }
        assert_eq!(client.room(usize::MAX), None);
        assert_eq!(client.reply(first, b"a", b""), Replied::Queued);
        assert!(client.room(usize::MAX).is_some());
    }

    #[test]
    fn held_and_unsent_replies_and_the_buffer_of_sent_ones_count() {
        let mut client = Client::default();
        let (first, second, third) = (unanswered(&mut client), unanswered(&mut client), unanswered(&mut client));
        assert_eq!(client.usage(), Usage { finished: 0, reserved: 3 * ANSWER_SIZE_MAX, input: 0 });
        assert_eq!(client.reply(third, b"head", &[0; 996]), Replied::Held);
        let held = 1000 + HELD_OVERHEAD;
        assert_eq!(client.usage(), Usage { finished: held, reserved: 2 * ANSWER_SIZE_MAX, input: 0 });
        assert_eq!(client.reply(first, b"head", &vec![0; 50_000]), Replied::Queued);
        assert_eq!(client.usage(), Usage { finished: held + 50_004, reserved: ANSWER_SIZE_MAX, input: 0 });
        client.outbox().advance(10_000);
        assert_eq!(client.usage().finished, held + 50_004);
        assert_eq!(client.reply(second, b"", b""), Replied::Queued);
        assert_eq!(client.usage(), Usage { finished: 51_004, reserved: 0, input: 0 });
        client.outbox().advance(41_004);
        assert_eq!(client.usage(), Usage::default());
    }

    #[test]
    fn a_client_makes_progress_when_enough_is_accepted_or_everything() {
        let at = |secs| Time::ZERO + std::time::Duration::from_secs(secs);
        let mut client = Client::default();
        client.outbox().push(&vec![0; 3 * PROGRESS_MIN], &[]);
        let mut accept = |len, secs| {
            client.outbox().advance(len);
            client.note_accepted(len, !client.outbox.is_empty(), at(secs));
            client.behind_since()
        };
        assert_eq!(accept(1, 10), Some(at(10)), "it falls behind");
        assert_eq!(accept(PROGRESS_MIN - 2, 20), Some(at(10)));
        assert_eq!(accept(1, 25), Some(at(25)));
        assert_eq!(accept(PROGRESS_MIN, 28), Some(at(28)));
        assert_eq!(accept(PROGRESS_MIN - 1, 30), Some(at(28)));
        assert_eq!(accept(1, 31), None, "nothing is left");
    }
}
