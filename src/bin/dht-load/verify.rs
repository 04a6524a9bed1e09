//! Verifies and counts the answers of a run.
//!
//! Answers come in the order of their requests. A PUT without an answer ends with the next request
//! that is answered, and with the same verdict.

use super::connection::{Awaited, Connection, Stage, Wanted};
use super::keys::{Keys, Values};
use super::plan::{Plan, Verify};
use super::protocol::{Answer, Protocol, Senseless};
use super::tally::Tally;
use dht::time::Time;

/// Verifies answers.
#[derive(Debug)]
pub(crate) struct Verifier<'a> {
    protocol: Protocol,
    verify: Verify,
    keys: &'a Keys,
    values: Values,
    pub(crate) tally: Tally,
    /// Requests that have ended, with any verdict, since the start of the run.
    pub(crate) ended: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Failure,
    WrongKey,
    WrongValue,
    Senseless,
    Closed,
    Timeout,
}

impl<'a> Verifier<'a> {
    pub(crate) fn new(plan: &Plan, keys: &'a Keys) -> Self {
        let values = Values::new(plan.value_size);
        Self { protocol: plan.protocol, verify: plan.verify, keys, values, tally: Tally::new(), ended: 0 }
    }

    /// Verifies all complete answers in what `connection` has read, and stores the rest in its inbox.
    ///
    /// # Errors
    ///
    /// [`Senseless`] if the bytes are not an answer, or nothing was asked.
    pub(crate) fn read(&mut self, connection: &mut Connection, bytes: &[u8], now: Time) -> Result<(), Senseless> {
        self.tally.bytes_in += bytes.len() as u64;
        connection.heard = now;
        if connection.inbox.is_empty() {
            let taken = self.take(connection, bytes, now)?;
            connection.inbox.extend_from_slice(&bytes[taken..]);
        } else {
            let mut inbox = std::mem::take(&mut connection.inbox);
            inbox.extend_from_slice(bytes);
            let taken = self.take(connection, &inbox, now)?;
            inbox.drain(..taken);
            connection.inbox = inbox;
        }
        self.tally.flush();
        Ok(())
    }

    /// Verifies the complete answers in `bytes`; returns their size.
    fn take(&mut self, connection: &mut Connection, bytes: &[u8], now: Time) -> Result<usize, Senseless> {
        let mut taken = 0;
        while let Some((answer, size)) = self.protocol.next_answer(&bytes[taken..])? {
            taken += size;
            let asked = connection.awaited.iter().position(|awaited| awaited.what != Wanted::Nothing);
            let asked = asked.ok_or(Senseless::Unasked)?;
            let verdict = self.verdict(connection.awaited[asked], answer);
            for awaited in connection.awaited.drain(..=asked) {
                self.close(awaited, verdict, now);
            }
            connection.stage = Stage::Proven;
        }
        Ok(taken)
    }

    fn verdict(&self, awaited: Awaited, answer: Answer<'_>) -> Verdict {
        let key = self.keys.at(awaited.key as usize);
        if answer.key.is_some_and(|of| of != *key) {
            return Verdict::WrongKey;
        }
        let Some(value) = answer.value else {
            return Verdict::Failure;
        };
        let is_right = match (awaited.what, self.verify) {
            (Wanted::Stored | Wanted::Nothing, _) => value.is_empty(),
            (Wanted::Value | Wanted::Marker, Verify::Key) => !value.is_empty(),
            (Wanted::Value | Wanted::Marker, Verify::Value) => self.values.is_right(key, value),
        };
        if is_right { Verdict::Right } else { Verdict::WrongValue }
    }

    /// Counts `count` requests that were never sent.
    pub(crate) fn give_up(&mut self, count: u64) {
        self.ended += count;
        self.tally.errors.unsent += count;
    }

    /// Counts the verdict on a request.
    pub(crate) fn close(&mut self, awaited: Awaited, verdict: Verdict, now: Time) {
        if awaited.what == Wanted::Marker {
            return;
        }
        self.ended += 1;
        let Tally { errors, .. } = &mut self.tally;
        match verdict {
            Verdict::Right => self.tally.answered(awaited.since, now),
            Verdict::Failure => errors.failure += 1,
            Verdict::WrongKey => errors.wrong_key += 1,
            Verdict::WrongValue => errors.wrong_value += 1,
            Verdict::Senseless => errors.senseless += 1,
            Verdict::Closed => errors.closed += 1,
            Verdict::Timeout => errors.timeout += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Alphabet;
    use crate::tally::Errors;
    use dht::id::Key;
    use dht::wire::api::ApiReply;
    use std::net::TcpListener;

    const SINCE: Time = Time::from_nanos(1_000_000);
    const NOW: Time = Time::from_nanos(3_000_000);

    /// A connection that expects the answers `wanted`, all about the key with index 0.
    fn connection(wanted: &[Wanted]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut connection = Connection::dial(0, address, None, SINCE).expect("it is listening");
        connection.awaited.extend(wanted.iter().map(|&what| Awaited { key: 0, since: SINCE, what }));
        connection
    }

    fn verifier(keys: &Keys, verify: Verify) -> Verifier<'_> {
        let values = Values::new(20);
        Verifier { protocol: Protocol::Dht, verify, keys, values, tally: Tally::new(), ended: 0 }
    }

    fn success(key: &Key, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        ApiReply::Success { key: *key, value }.encode(&mut bytes);
        bytes
    }

    fn right_value(key: &Key) -> Vec<u8> {
        let mut value = Vec::new();
        Values::new(20).write(key, 3, &mut value);
        value
    }

    #[test]
    fn answers_are_verified_in_parts_of_any_size() {
        let keys = Keys::made(1, 1, Alphabet::Bytes);
        let answers = success(keys.at(0), &right_value(keys.at(0))).repeat(3);
        for size in [1, 7, 56, 100, answers.len()] {
            let mut verifier = verifier(&keys, Verify::Value);
            let mut connection = connection(&[Wanted::Value; 3]);
            for part in answers.chunks(size) {
                verifier.read(&mut connection, part, NOW).expect("answers");
            }
            assert_eq!(
                (verifier.tally.answers(), verifier.tally.errors),
                (3, Errors::default()),
                "{size} bytes at once"
            );
            assert_eq!((connection.awaited.len(), connection.inbox.len(), connection.stage), (0, 0, Stage::Proven));
            assert_eq!(verifier.tally.latency().p50.as_millis(), 2);
        }
    }

    #[test]
    fn each_kind_of_wrong_answer_has_its_counter() {
        let keys = Keys::made(2, 1, Alphabet::Bytes);
        let (key, other) = (keys.at(0), keys.at(1));
        let mut failure = Vec::new();
        ApiReply::Failure { key: *key }.encode(&mut failure);
        let answers = [failure, success(other, &right_value(other)), success(key, &right_value(other))].concat();
        let errors = |verify| {
            let mut verifier = verifier(&keys, verify);
            verifier.read(&mut connection(&[Wanted::Value; 3]), &answers, NOW).expect("answers");
            assert_eq!(verifier.ended, 3);
            verifier.tally.errors
        };
        assert_eq!(errors(Verify::Value), Errors { failure: 1, wrong_key: 1, wrong_value: 1, ..Errors::default() });
        assert_eq!(errors(Verify::Key), Errors { failure: 1, wrong_key: 1, ..Errors::default() });
    }

    #[test]
    fn a_value_for_a_put_and_an_empty_one_for_a_get_are_wrong() {
        let keys = Keys::made(1, 1, Alphabet::Bytes);
        let mut verifier = verifier(&keys, Verify::Key);
        let answers = [success(keys.at(0), b"v"), success(keys.at(0), b"")].concat();
        verifier.read(&mut connection(&[Wanted::Stored, Wanted::Value]), &answers, NOW).expect("answers");
        assert_eq!(verifier.tally.errors, Errors { wrong_value: 2, ..Errors::default() });
    }

    #[test]
    fn unanswered_puts_end_with_the_next_answer_and_the_marker_does_not_count() {
        let keys = Keys::made(1, 1, Alphabet::Bytes);
        let mut verifier = verifier(&keys, Verify::Value);
        let mut connection =
            connection(&[Wanted::Nothing, Wanted::Value, Wanted::Nothing, Wanted::Nothing, Wanted::Marker]);
        let answer = success(keys.at(0), &right_value(keys.at(0)));
        verifier.read(&mut connection, &answer, NOW).expect("an answer");
        assert_eq!((verifier.tally.answers(), connection.awaited.len()), (2, 3));
        verifier.read(&mut connection, &answer, NOW).expect("an answer");
        assert_eq!((verifier.tally.answers(), connection.awaited.len()), (4, 0));
    }

    #[test]
    fn an_answer_without_a_request_is_senseless() {
        let keys = Keys::made(1, 1, Alphabet::Bytes);
        let answer = success(keys.at(0), b"v");
        for wanted in [&[][..], &[Wanted::Nothing]] {
            assert_eq!(
                verifier(&keys, Verify::Key).read(&mut connection(wanted), &answer, NOW),
                Err(Senseless::Unasked)
            );
        }
    }
}
