//! A real `dht-server`, spoken to over its peer port by a second implementation of `PROTOCOL.md`
//! 2 and 5: one that errs, lies, stalls and hangs up, and one that does not.
//!
//! `tls` and `message` are that implementation; they share no code with `src/`. A `line` is one
//! connection whose script the test writes; a `neighbour` is a peer that can be dialled.
//!
//! Nothing here waits for time to pass. That something does *not* happen is seen by something
//! that would have to come after it: see [`Harness::expect_no_trace`].

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

/// The puzzle of the network in these tests, as their configuration has it.
const POW_BITS: u32 = 4;

/// The name of the network, which is the default one.
const NETWORK: &str = "voidphone";

/// The first key of those that belong to `name` that solves the puzzle.
fn fit_key(name: &str) -> KeyPair {
    KeyPair::named(name).find(|key| puzzle_bits(&key.id()) >= POW_BITS).expect("there is no end of keys")
}

/// How a node that `name` stands for speaks.
fn node(name: &str) -> Dialect {
    Dialect::of_node(&fit_key(name))
}

/// A peer of the server at `address` that has met it, and cannot be dialled.
fn client_of(address: SocketAddr, name: &str) -> PeerConnection {
    let mut conn = PeerConnection::dial(address, &node(name)).expect("a handshake");
    conn.greet(&Hello::of_client(NETWORK));
    conn
}

/// A port that a hostile peer claims to listen on: whoever dials it is found out.
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
        let error = self.0.accept().expect_err("nobody should have come");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

/// A server, and a peer that sees whom it names.
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

    /// Those whom the server names: all of its table, which is small here.
    fn named(&mut self) -> Vec<Contact> {
        let reply = self.observer.ask(message::FIND_NODE, &[0; 32]);
        assert_eq!(reply.kind, message::FIND_NODE_REPLY);
        Contact::read_all(reply.rest())
    }

    /// Introduces the node `name`, which holds `record` alone, to the server. When this returns
    /// the server has dialled it back and met it there, and so names it from then on.
    fn introduce(&self, name: &str, record: Option<Record>) -> Neighbour {
        self.introduce_one(Behaviour { record, ..Behaviour::of_node(node(name), NETWORK) })
    }

    /// As [`Self::introduce`], for a node of that behaviour.
    fn introduce_one(&self, behaviour: Behaviour) -> Neighbour {
        let neighbour = Neighbour::start(behaviour);
        neighbour.dial(self.server.p2p());
        neighbour.expect_met();
        neighbour
    }

    /// As [`Self::introduce`], for the node that `key` proves. It dials the server over a line
    /// that the test holds, and on which nobody answers what the server asks.
    fn meet(&self, key: &KeyPair) -> (Neighbour, PeerConnection) {
        let neighbour = Neighbour::start(Behaviour::of_node(Dialect::of_node(key), NETWORK));
        let mut conn = PeerConnection::dial(self.server.p2p(), &Dialect::of_node(key)).expect("a handshake");
        conn.greet(&Hello::of_node(NETWORK, neighbour.address.port()));
        neighbour.expect_met();
        (neighbour, conn)
    }

    /// Fit keys of `name` whose ids are smaller and larger than the server's. What the smaller
    /// id opens survives.
    fn keys_around(&self, name: &str) -> [KeyPair; 2] {
        let (server, _) = self.observer.met();
        let fit = |key: &KeyPair| puzzle_bits(&key.id()) >= POW_BITS;
        [
            KeyPair::named(name).filter(fit).find(|key| key.id() < server).expect("there is no end of keys"),
            KeyPair::named(name).filter(fit).find(|key| key.id() > server).expect("there is no end of keys"),
        ]
    }

    /// Sees to it that all that came before has left no trace: a node that is introduced now is
    /// the only one that the server names, and nobody went into a port; had the server wanted
    /// to dial anybody it met before, it would have done so before it dialled this node.
    /// Then the server ends, and its log must hold one line about each of the addresses
    /// `refused`, with the text beside it.
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
