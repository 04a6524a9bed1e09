//! Load: clients that write values which count upwards, and go on when a server dies.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Condvar, Mutex, PoisonError};

use dht::id::Key;
use dht::record::Class;
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::frame::next_frame;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::common::PATIENCE;
use crate::common::client::encode;

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// SUCCESS, with this value.
    Success(Vec<u8>),
    /// FAILURE.
    Failure,
    /// No connection, or it ended before the answer.
    NoAnswer,
}

/// Sends one request to the server at `api`.
pub(crate) fn ask(api: SocketAddr, request: &ApiRequest<'_>) -> Outcome {
    let attempt = || -> std::io::Result<Outcome> {
        let mut socket = TcpStream::connect_timeout(&api, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(&encode(request))?;
        let (mut inbox, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            if let Some((frame, _)) = next_frame(Source::Server, &inbox).expect("the server speaks its protocol") {
                return Ok(match ApiReply::decode(frame).expect("the server speaks its protocol") {
                    ApiReply::Success { value, .. } => Outcome::Success(value.to_vec()),
                    ApiReply::Failure { .. } => Outcome::Failure,
                });
            }
            match socket.read(&mut chunk)? {
                0 => return Ok(Outcome::NoAnswer),
                count => inbox.extend_from_slice(&chunk[..count]),
            }
        }
    };
    match attempt() {
        Ok(outcome) => outcome,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            panic!("{api} owes an answer")
        }
        Err(_) => Outcome::NoAnswer,
    }
}

/// A confirmed PUT of `value` for `ttl` seconds to `replication` nodes.
pub(crate) fn put(key: Key, ttl: u16, replication: u8, value: &[u8]) -> ApiRequest<'_> {
    ApiRequest::Put(Put { ttl, replication, confirm: Confirm::Yes, class: Class::Plain, key, value })
}

/// The count in the value of a [`Writer`].
pub(crate) fn count_of(value: &[u8]) -> u64 {
    u64::from_be_bytes(*value.first_chunk().expect("a value that counts"))
}

/// The number of confirmations of all writers together.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    confirmed: Mutex<u64>,
    more: Condvar,
}

impl Progress {
    fn add(&self) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.more.notify_all();
    }

    /// Waits for `count` more confirmations.
    pub(crate) fn await_more(&self, count: u64) {
        let confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let goal = *confirmed + count;
        let (confirmed, _) = self
            .more
            .wait_timeout_while(confirmed, PATIENCE, |confirmed| *confirmed < goal)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(*confirmed >= goal, "only {confirmed} of {goal} PUTs are confirmed");
    }
}

/// A writer, with one request at a time.
pub(crate) struct Writer {
    keys: Vec<Key>,
    rng: StdRng,
    count: u64,
    /// The last confirmed count of each key.
    pub(crate) confirmed: BTreeMap<Key, u64>,
}

impl Writer {
    /// A writer with `keys` keys.
    pub(crate) fn new(keys: usize, mut rng: StdRng) -> Self {
        let keys = (0..keys).map(|_| Key::new(rng.random())).collect();
        Self { keys, rng, count: 0, confirmed: BTreeMap::new() }
    }

    /// Writes the next value at `api`.
    pub(crate) fn write(&mut self, api: SocketAddr, progress: &Progress) -> Outcome {
        self.count += 1;
        let key = self.keys[self.rng.random_range(0..self.keys.len())];
        let value = [&self.count.to_be_bytes()[..], &[0xcd; 92]].concat();
        let outcome = ask(api, &put(key, 3600, 8, &value));
        if matches!(outcome, Outcome::Success(_)) {
            self.confirmed.insert(key, self.count);
            progress.add();
        }
        outcome
    }

    /// Reads a confirmed key at `api`, if there is one. SUCCESS must carry its last confirmed value or a
    /// later one; any other outcome is allowed.
    pub(crate) fn read(&mut self, api: SocketAddr) -> Outcome {
        let at = self.rng.random_range(0..self.confirmed.len().max(1));
        let Some((key, confirmed)) = self.confirmed.iter().nth(at) else { return Outcome::NoAnswer };
        let outcome = ask(api, &ApiRequest::Get { key: *key });
        if let Outcome::Success(value) = &outcome {
            assert!(count_of(value) >= *confirmed, "{key}: {} read, {confirmed} confirmed", count_of(value));
        }
        outcome
    }

    /// A random number below `bound`.
    pub(crate) fn any_below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }
}

/// Expects that `apis` have each confirmed value, or a later one.
pub(crate) fn expect_all(writers: &[Writer], apis: &[SocketAddr]) {
    for (number, (key, confirmed)) in writers.iter().flat_map(|writer| &writer.confirmed).enumerate() {
        // Two nodes per value: all nodes would be 8 times as many requests.
        for api in [apis[number % apis.len()], apis[(number * 7 + 3) % apis.len()]] {
            match ask(api, &ApiRequest::Get { key: *key }) {
                Outcome::Success(value) => assert!(count_of(&value) >= *confirmed, "{key} at {api} is older"),
                outcome => panic!("{key} at {api}: {outcome:?}, {confirmed} was confirmed"),
            }
        }
    }
}
