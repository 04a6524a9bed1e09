//! A real `dht-server` and a hostile peer: one that sends errors, lies, stalls and disconnects. Some
//! tests use an honest peer.
//!
//! The peer is the second implementation of `PROTOCOL.md` 2 and 5 in `scripted_peer`.
//!
//! Tests wait for events, not for time. To see that something does *not* happen, a test waits for an
//! event that would have to come after it: see [`Harness::expect_no_trace`].

mod forged_records;
mod malformed;
mod membership;
mod rejected;
mod unusual;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use crate::common::Server;
use crate::scripted_peer::connection::PeerConnection;
use crate::scripted_peer::message::{self, Contact, Hello, Record};
use crate::scripted_peer::neighbour::{Behaviour, Neighbour};
use crate::scripted_peer::tls::{Dialect, KeyPair, puzzle_bits};

/// The bits of the puzzle, as the configuration of these tests has them.
const POW_BITS: u32 = 4;

/// The name of the network: the default.
const NETWORK: &str = "voidphone";

/// The first key of the sequence `name` that solves the puzzle.
fn fit_key(name: &str) -> KeyPair {
    KeyPair::named(name).find(|key| puzzle_bits(&key.id()) >= POW_BITS).expect("there is no end of keys")
}

/// The TLS dialect of a regular node with the key of `name`.
fn node(name: &str) -> Dialect {
    Dialect::of_node(&fit_key(name))
}

/// A connection of a peer that has exchanged HELLO with the server at `address`, and cannot be dialled.
fn client_of(address: SocketAddr, name: &str) -> PeerConnection {
    let mut conn = PeerConnection::dial(address, &node(name)).expect("a handshake");
    conn.greet(&Hello::of_client(NETWORK));
    conn
}

/// A port that a hostile peer claims to listen on, and that no server may dial.
struct UndialledPort(TcpListener);

impl UndialledPort {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("it is bound").port()
    }

    fn expect_undialled(&self) {
        self.0.set_nonblocking(true).expect("it is a socket");
        let error = self.0.accept().expect_err("no connection may come");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

/// A server, and a peer that observes which contacts it names.
struct Harness {
    server: Server,
    observer: PeerConnection,
    /// The server's wall clock, from its HELLO: milliseconds since 1970.
    wall: u64,
}

impl Harness {
    /// Starts a server with `lines` in its configuration.
    fn start(lines: &str) -> Self {
        let server = Server::start(lines);
        let mut observer = PeerConnection::dial(server.p2p(), &node("the observer")).expect("a handshake");
        let wall = observer.greet(&Hello::of_client(NETWORK)).wall;
        Self { server, observer, wall }
    }

    /// The contacts that the server names: its whole table, which is small here.
    fn named(&mut self) -> Vec<Contact> {
        let reply = self.observer.ask(message::FIND_NODE, &[0; 32]);
        assert_eq!(reply.kind, message::FIND_NODE_REPLY);
        Contact::read_all(reply.rest())
    }

    /// Introduces the node `name`, which holds only `record`. When this returns the server has dialled it
    /// back, and names it from then on.
    fn introduce(&self, name: &str, record: Option<Record>) -> Neighbour {
        self.introduce_one(Behaviour { record, ..Behaviour::of_node(node(name), NETWORK) })
    }

    /// As [`Self::introduce`], for a node with that behaviour.
    fn introduce_one(&self, behaviour: Behaviour) -> Neighbour {
        let neighbour = Neighbour::start(behaviour);
        neighbour.dial(self.server.p2p());
        neighbour.expect_met();
        neighbour
    }

    /// As [`Self::introduce`], for the node with the key `key`. The test holds the connection over which
    /// the node dials the server, and answers no request on it.
    fn meet(&self, key: &KeyPair) -> (Neighbour, PeerConnection) {
        let neighbour = Neighbour::start(Behaviour::of_node(Dialect::of_node(key), NETWORK));
        let mut conn = PeerConnection::dial(self.server.p2p(), &Dialect::of_node(key)).expect("a handshake");
        conn.greet(&Hello::of_node(NETWORK, neighbour.address.port()));
        neighbour.expect_met();
        (neighbour, conn)
    }

    /// Keys of `name` whose ids are smaller and larger than the server's. The connection that the smaller
    /// id opened survives.
    fn keys_around(&self, name: &str) -> [KeyPair; 2] {
        let (server, _) = self.observer.met();
        let fit = |key: &KeyPair| puzzle_bits(&key.id()) >= POW_BITS;
        [
            KeyPair::named(name).filter(fit).find(|key| key.id() < server).expect("there is no end of keys"),
            KeyPair::named(name).filter(fit).find(|key| key.id() > server).expect("there is no end of keys"),
        ]
    }

    /// Expects that all that came before has left no trace. A node that is introduced now is the only one
    /// that the server names, and no connection came to any of `ports`: the server would have dialled an
    /// earlier peer before this node. Then the server stops, and its log must have exactly one line for
    /// each address in `refused`, with the text beside it.
    fn expect_no_trace(mut self, ports: &[UndialledPort], refused: &[(SocketAddr, &str)]) {
        assert_eq!(self.named(), []);
        let witness = self.introduce("the witness", None);
        assert_eq!(self.named(), [Contact { address: witness.address, id: fit_key("the witness").id() }]);
        for port in ports {
            port.expect_undialled();
        }
        assert!(self.server.terminate().success());
        let log = self.server.log();
        for (address, text) in refused {
            let lines: Vec<_> = log.iter().filter(|line| line.contains(&format!("addr={address} "))).collect();
            assert_eq!(lines.len(), 1, "{address} {text:?} in {log:#?}");
            assert!(lines[0].contains(text), "{text:?} in {}", lines[0]);
        }
    }
}
