//! The replies to the clients of the API.
//!
//! The requests of one connection run concurrently and end in any order. Their replies are sent in the
//! order of the requests (`PROTOCOL.md` 1, rule 3): a reply that arrives too early is held until all
//! replies before it have arrived. If no request is unanswered, an immediate reply bypasses this queue.
//!
//! A client is *full* if it has [`API_OWED_MAX`] unanswered requests or [`API_OUTBOX_MAX`] bytes of
//! unsent replies. Then no more of its requests are read. Replies are never dropped, so the bytes can
//! exceed the bound by the replies to requests that were accepted before.

use std::collections::VecDeque;

use crate::limits::{API_OUTBOX_MAX, API_OWED_MAX};
use crate::net::outbox::Outbox;
use crate::node::replies::Answers;

/// The server's state of one connection to the API.
#[derive(Debug, Default)]
pub(super) struct Client {
    outbox: Outbox,
    /// In the order of the requests.
    unanswered: VecDeque<Unanswered>,
    last_request: u64,
    held_bytes: usize,
}

/// A request without a reply in the outbox.
#[derive(Debug)]
struct Unanswered {
    request: u64,
    /// The reply, if it arrived before its turn.
    held: Option<Vec<u8>>,
}

impl Client {
    /// The number of the next request. Each number is used once.
    pub(super) fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    /// Notes that the reply to `request`, the latest one, will arrive later.
    pub(super) fn expect_reply(&mut self, request: u64) {
        self.unanswered.push_back(Unanswered { request, held: None });
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
        if at > 0 {
            let unanswered = &mut self.unanswered[at];
            if unanswered.held.is_some() {
                return Replied::NotExpected;
            }
            self.held_bytes += head.len() + value.len();
            unanswered.held = Some([head, value].concat());
            return Replied::Held;
        }
        self.unanswered.pop_front();
        self.outbox.push(head, value);
        while let Some(reply) = self.unanswered.front_mut().and_then(|unanswered| unanswered.held.take()) {
            self.unanswered.pop_front();
            self.held_bytes -= reply.len();
            self.outbox.push(&reply, &[]);
        }
        Replied::Queued
    }

    /// Whether no further request may be read for now. `further` bytes of replies are about to be pushed.
    pub(super) fn is_full(&self, further: usize) -> bool {
        self.unanswered.len() >= API_OWED_MAX || self.outbox.len() + self.held_bytes + further >= API_OUTBOX_MAX
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
        client.expect_reply(request);
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
            prop_assert_eq!((client.held_bytes, client.has_unanswered()), (0, false));
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

    #[test]
    fn a_client_is_full_at_its_bound_of_unanswered_requests() {
        let mut client = Client::default();
        let first = unanswered(&mut client);
        for _ in 1..API_OWED_MAX {
            assert!(!client.is_full(0));
            unanswered(&mut client);
        }
        assert!(client.is_full(0));
        assert_eq!(client.reply(first, b"a", b""), Replied::Queued);
        assert!(!client.is_full(0));
    }

    #[test]
    fn a_client_is_full_at_its_bound_of_held_and_unsent_bytes() {
        let mut client = Client::default();
        let (first, second, third) = (unanswered(&mut client), unanswered(&mut client), unanswered(&mut client));
        let half = vec![0; API_OUTBOX_MAX / 2];
        assert_eq!(client.reply(second, &half, b""), Replied::Held);
        assert!(!client.is_full(0));
        assert_eq!(client.reply(third, b"", &half), Replied::Held);
        assert!(client.is_full(0), "held replies count");
        assert_eq!(client.reply(first, b"a", b""), Replied::Queued);
        assert!(client.is_full(0), "unsent replies count");
        client.outbox().advance(2);
        assert!(!client.is_full(0));
    }
}
