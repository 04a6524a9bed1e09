//! Networks of real `dht-server` processes that speak TLS over loopback: the part that the simulator does
//! not cover.
//!
//! Nodes draw their ports and keys, so each run has another network; the keys and choices of the tests
//! follow from fixed seeds. Tests wait for events, not for time: a confirmed PUT, a log line or an
//! answer. Where no event reports a change, [`eventually`] repeats the question.

mod address_families;
mod churn;
mod course_client;
mod join;
mod stop_and_suspend;
mod values;

use crate::common::client::{Answer, Client};
use crate::common::{Server, eventually};
use crate::scripted_peer::connection::PeerConnection;
use crate::scripted_peer::message::{self, Contact, Hello};
use crate::scripted_peer::tls::{Dialect, Hash, KeyPair, hash, puzzle_bits};
use dht::id::Key;
use dht::record::Class;
use dht::wire::api::{ApiRequest, Confirm, Put};

/// A client of `server`'s module API.
fn client(server: &Server) -> Client {
    Client::connect(server.api())
}

/// The key number `number` of the test `name`.
fn numbered(name: &str, number: usize) -> Key {
    Key::new(hash(format!("{name} {number}").as_bytes()))
}

/// A PUT of `value` for an hour to `replication` nodes.
fn put_of(key: Key, replication: u8, value: &[u8], confirm: Confirm) -> ApiRequest<'_> {
    ApiRequest::Put(Put { ttl: 3600, replication, confirm, class: Class::Plain, key, value })
}

/// PUTs `value`, and waits until `replication` nodes hold it.
fn put_confirmed(client: &mut Client, key: Key, replication: u8, value: &[u8]) {
    let answer = client.ask(&put_of(key, replication, value, Confirm::Yes));
    assert_eq!(answer, Answer::Success(key, Vec::new()));
}

/// Waits until `server` finds `key`.
fn eventually_found(server: &Server, key: Key) -> Vec<u8> {
    let mut client = client(server);
    eventually("the value is found", || client.get(key))
}

/// Expects that each server finds a value that was PUT at any other.
fn expect_one_network(servers: &[Server]) {
    for (number, putter) in servers.iter().enumerate() {
        let key = numbered(&putter.id(), number);
        put_confirmed(&mut client(putter), key, 20, putter.id().as_bytes());
        for getter in servers {
            assert_eq!(client(getter).get(key), Some(putter.id().into_bytes()), "PUT at {}", putter.id());
        }
    }
}

/// A peer of one server that only sends requests, and cannot be dialled.
struct Observer {
    conn: PeerConnection,
    /// The server's id.
    id: Hash,
}

impl Observer {
    /// A peer whose id solves a puzzle of 12 bits, more than most networks here require.
    fn of(server: &Server) -> Self {
        let fit = |key: &KeyPair| puzzle_bits(&key.id()) >= 12;
        let key = KeyPair::named("the observer").find(fit).expect("there is no end of keys");
        let mut conn = PeerConnection::dial(server.p2p(), &Dialect::of_node(&key)).expect("a handshake");
        conn.greet(&Hello::of_client("voidphone"));
        let (id, _) = conn.met();
        Self { conn, id }
    }

    /// The contacts that the server names: the 20 nearest to itself.
    fn contacts(&mut self) -> Vec<Contact> {
        let reply = self.conn.ask(message::FIND_NODE, &self.id);
        assert_eq!(reply.kind, message::FIND_NODE_REPLY);
        Contact::read_all(reply.rest())
    }

    /// Whether the server itself holds a record of `key`.
    fn holds(&mut self, key: Key) -> bool {
        let reply = self.conn.ask(message::FIND_VALUE, &[&key.as_bytes()[..], &[2]].concat());
        reply.kind == message::FIND_VALUE_REPLY
    }
}

/// Observers of `servers`; each server knows at least `known` others when this returns.
fn observe(servers: &[Server], known: usize) -> Vec<Observer> {
    let mut observers: Vec<_> = servers.iter().map(Observer::of).collect();
    for observer in &mut observers {
        eventually("a table is filled", || (observer.contacts().len() >= known).then_some(()));
    }
    observers
}
