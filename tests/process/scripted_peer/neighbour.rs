//! A peer that can be dialled, and that answers requests in threads of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::common::PATIENCE;
use crate::scripted_peer::connection::{Ending, PeerConnection};
use crate::scripted_peer::message::{self, Contact, Hello, Message, Record};
use crate::scripted_peer::tls::Dialect;

/// A message, or the end of a connection, at a neighbour; and the side that opened the connection.
pub(crate) type Incoming = (Opened, Result<Message, Ending>);

/// The side that opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    ByServer,
    ByPeer,
}

/// A peer that listens.
pub(crate) struct Neighbour {
    pub(crate) address: SocketAddr,
    behaviour: Behaviour,
    sender: Sender<Incoming>,
    incoming: Receiver<Incoming>,
    over: Arc<AtomicBool>,
}

/// How a neighbour answers requests.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) dialect: Dialect,
    pub(crate) hello: Hello,
    /// Its only record.
    pub(crate) record: Option<Record>,
    /// The contacts that it names for every target.
    pub(crate) names: Vec<Contact>,
}

impl Neighbour {
    /// Listens on a free port, which it puts into its HELLO.
    pub(crate) fn start(mut behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        behaviour.hello.port = address.port();
        let (sender, incoming) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let neighbour =
            Self { address, behaviour: behaviour.clone(), sender: sender.clone(), incoming, over: over.clone() };
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let (behaviour, sender) = (behaviour.clone(), sender.clone());
                thread::spawn(move || behaviour.attend(socket, &sender));
            }
        });
        neighbour
    }

    /// Dials the server at `address`; messages over that connection arrive here too.
    pub(crate) fn dial(&self, address: SocketAddr) {
        let mut conn = PeerConnection::dial(address, &self.behaviour.dialect).expect("a handshake");
        conn.send(&self.behaviour.hello.bytes());
        let (behaviour, sender) = (self.behaviour.clone(), self.sender.clone());
        thread::spawn(move || behaviour.serve(conn, Opened::ByPeer, &sender));
    }

    /// Waits until a server that dialled this peer has read its HELLO.
    pub(crate) fn expect_met(&self) {
        self.expect(message::PING_REPLY);
    }

    /// Waits for the next event of any connection.
    pub(crate) fn next(&self) -> Incoming {
        self.incoming.recv_timeout(PATIENCE).expect("something comes in")
    }

    /// Waits for a message of `kind`, and skips others; returns the side that opened its connection.
    pub(crate) fn expect(&self, kind: u16) -> Opened {
        loop {
            if let (opened, Ok(message)) = self.next()
                && message.kind == kind
            {
                return opened;
            }
        }
    }

    /// Waits for the end of a connection, and skips messages.
    pub(crate) fn expect_end(&self) -> (Opened, Ending) {
        loop {
            if let (opened, Err(ending)) = self.next() {
                return (opened, ending);
            }
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address); // wakes the one that listens
    }
}

impl Behaviour {
    /// The behaviour of a lone node that speaks `dialect`, in the network `network`.
    pub(crate) fn of_node(dialect: Dialect, network: &str) -> Self {
        Self { dialect, hello: Hello::of_node(network, 0), record: None, names: Vec::new() }
    }

    /// Serves a connection that the server opened.
    fn attend(&self, socket: TcpStream, sender: &Sender<Incoming>) {
        match PeerConnection::answer(socket, &self.dialect) {
            Ok(mut conn) => {
                conn.send(&self.hello.bytes());
                conn.request(message::PING, &[]); // for expect_met
                self.serve(conn, Opened::ByServer, sender);
            }
            Err(ending) => drop(sender.send((Opened::ByServer, Err(ending)))), // the test may be over
        }
    }

    /// Serves a connection until its end.
    fn serve(&self, mut conn: PeerConnection, opened: Opened, sender: &Sender<Incoming>) {
        loop {
            let incoming = conn.receive();
            if let Ok(request) = &incoming {
                self.reply(request, &mut conn);
            }
            let ended = incoming.is_err();
            if sender.send((opened, incoming)).is_err() || ended {
                return;
            }
        }
    }

    /// Replies if `request` is a request.
    fn reply(&self, request: &Message, conn: &mut PeerConnection) {
        let names = || self.names.iter().flat_map(Contact::bytes).collect();
        let (kind, rest) = match request.kind {
            message::PING => (message::PING_REPLY, Vec::new()),
            message::FIND_NODE => (message::FIND_NODE_REPLY, names()),
            message::FIND_VALUE => match &self.record {
                Some(record) if request.rest().starts_with(&record.key) => {
                    (message::FIND_VALUE_REPLY, [&[0], &record.bytes()[..]].concat())
                }
                _ => (message::FIND_NODE_REPLY, names()),
            },
            message::STORE => {
                let record = Record::read(request.rest());
                let held = [&record.key[..], &[0, record.flags], &record.version.to_be_bytes()].concat();
                (message::STORE_REPLY, held)
            }
            _ => return,
        };
        conn.send(&message::rpc(kind, &request.rpc(), &rest));
    }
}
