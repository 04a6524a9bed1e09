//! What a client of the API is owed.
//!
//! The requests of one connection run at the same time and end in any order; their answers leave
//! in the order of the requests (`PROTOCOL.md` 1, rule 3). An answer that comes before its turn
//! is held here; one whose turn it is goes straight into the outbox. A request that is answered at
//! once, while nothing is owed, passes by here.
//!
//! A client is *full* at [`API_OWED_MAX`] requests without an answer, or at [`API_OUTBOX_MAX`]
//! bytes of answers that it has not read; then no more of its requests are taken. Nothing that it
//! is owed is ever dropped, so the bytes held may pass the bound by the answers that were owed
//! when it was met.

use std::collections::VecDeque;

use crate::limits::{API_OUTBOX_MAX, API_OWED_MAX};
use crate::net::outbox::Outbox;
use crate::node::replies::Answers;

/// The server's side of one connection to the API.
#[derive(Debug, Default)]
pub(super) struct Client {
    outbox: Outbox,
    owed: VecDeque<Owed>,
    minted: u64,
    held: usize,
}

/// A request that has not been answered over the wire.
#[derive(Debug)]
struct Owed {
    request: u64,
    answer: Option<Vec<u8>>,
}

impl Client {
    /// The number of the next request, which is never used again.
    pub(super) fn mint(&mut self) -> u64 {
        self.minted += 1;
        self.minted
    }

    /// The answer to `request`, the one taken last, will come later.
    pub(super) fn owe(&mut self, request: u64) {
        self.owed.push_back(Owed { request, answer: None });
    }

    /// Takes `answers` to requests that nothing was owed before, but for the first `sent` bytes.
    pub(super) fn answered(&mut self, answers: &Answers, mut sent: usize) {
        for part in answers.parts() {
            let skipped = sent.min(part.len());
            self.outbox.push(&part[skipped..], &[]);
            sent -= skipped;
        }
    }

    /// Takes the answer to `request`: `head`, and the value that ends it. An answer that is not
    /// owed is not taken.
    pub(super) fn answer(&mut self, request: u64, head: &[u8], value: &[u8]) -> Answered {
        let Ok(at) = self.owed.binary_search_by_key(&request, |owed| owed.request) else {
            return Answered::NotOwed;
        };
        if at > 0 {
            let owed = &mut self.owed[at];
            if owed.answer.is_some() {
                return Answered::NotOwed;
            }
            self.held += head.len() + value.len();
            owed.answer = Some([head, value].concat());
            return Answered::Held;
        }
        self.owed.pop_front();
        self.outbox.push(head, value);
        while let Some(answer) = self.owed.front_mut().and_then(|owed| owed.answer.take()) {
            self.owed.pop_front();
            self.held -= answer.len();
            self.outbox.push(&answer, &[]);
        }
        Answered::Released
    }

    /// Whether no further request may be taken for now, while `answers` more bytes of answers wait
    /// to be taken.
    pub(super) fn is_full(&self, answers: usize) -> bool {
        self.owed.len() >= API_OWED_MAX || self.outbox.len() + self.held + answers >= API_OUTBOX_MAX
    }

    /// Whether any request is without its answer.
    pub(super) fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    /// What waits to be written.
    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Whether everything was answered and written.
    pub(super) fn is_done(&self) -> bool {
        self.owed.is_empty() && self.outbox.is_empty()
    }
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// It waits to be written.
    Released,
    /// It waits for the answers before it.
    Held,
    /// Nobody waits for it.
    NotOwed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;
    use crate::wire::api::ApiReply;
    use proptest::prelude::*;

    /// A request whose answer comes later.
    fn admit(client: &mut Client) -> u64 {
        let request = client.mint();
        client.owe(request);
        request
    }

    proptest! {
        #[test]
        fn answers_leave_in_the_order_of_requests_whatever_order_they_come_in(
            order in Just((0_u8..20).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut client = Client::default();
            let requests: Vec<u64> = order.iter().map(|_| admit(&mut client)).collect();
            for &at in &order {
                prop_assert_ne!(client.answer(requests[usize::from(at)], &[at], &[at]), Answered::NotOwed);
            }
            let expected: Vec<u8> = (0..20).flat_map(|at| [at, at]).collect();
            prop_assert_eq!(client.outbox().waiting(), &expected[..]);
            prop_assert_eq!((client.held, client.is_owed()), (0, false));
        }
    }

    #[test]
    fn what_was_answered_at_once_leaves_before_what_is_owed() {
        let mut client = Client::default();
        let (_, second) = (client.mint(), admit(&mut client));
        let mut answers = Answers::default();
        answers.push(&ApiReply::Failure { key: Key::new([7; 32]) }, None);
        client.answered(&answers, 30);
        assert_eq!(client.answer(second, b"second", b""), Answered::Released);
        assert_eq!(client.outbox().waiting(), b"\x07\x07\x07\x07\x07\x07second", "but for what was sent");
    }

    #[test]
    fn an_unconfirmed_put_is_owed_nothing_and_holds_nobody_up() {
        let mut client = Client::default();
        let silent = client.mint();
        let get = admit(&mut client);
        let confirmed = admit(&mut client);
        assert_eq!(client.answer(silent, b"never", b""), Answered::NotOwed);
        assert_eq!(client.answer(confirmed, b"second", b""), Answered::Held);
        assert_eq!(client.answer(confirmed, b"again", b""), Answered::NotOwed);
        assert_eq!(client.answer(get, b"first", b"value"), Answered::Released);
        assert_eq!(client.answer(get, b"again", b""), Answered::NotOwed);
        assert_eq!(client.outbox().waiting(), b"firstvaluesecond");
        assert!(!client.is_owed());
    }

    #[test]
    fn a_client_is_full_at_its_bound_of_requests_until_one_is_answered() {
        let mut client = Client::default();
        let first = admit(&mut client);
        for _ in 1..API_OWED_MAX {
            assert!(!client.is_full(0));
            admit(&mut client);
        }
        assert!(client.is_full(0));
        assert_eq!(client.answer(first, b"a", b""), Answered::Released);
        assert!(!client.is_full(0));
    }

    #[test]
    fn a_client_is_full_at_its_bound_of_bytes_held_or_unread() {
        let mut client = Client::default();
        let (first, second, third) = (admit(&mut client), admit(&mut client), admit(&mut client));
        let half = vec![0; API_OUTBOX_MAX / 2];
        assert_eq!(client.answer(second, &half, b""), Answered::Held);
        assert!(!client.is_full(0));
        assert_eq!(client.answer(third, b"", &half), Answered::Held);
        assert!(client.is_full(0), "what waits for its turn counts");
        assert_eq!(client.answer(first, b"a", b""), Answered::Released);
        assert!(client.is_full(0), "what waits to be read counts");
        client.outbox().advance(2);
        assert!(!client.is_full(0));
    }
}
