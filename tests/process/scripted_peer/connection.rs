//! One connection to the server under test, driven by a script. Calls block; a wait longer than
//! [`PATIENCE`] fails the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustls::{AlertDescription, ClientConnection, Connection, ServerConnection};

use crate::common::PATIENCE;
use crate::scripted_peer::message::{self, Hello, Message};
use crate::scripted_peer::tls::{Dialect, Hash, any_name, hash};

/// How a connection ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// The other side closed TLS.
    Closed,
    /// TCP ended, or was reset, without a close of TLS.
    Cut,
    /// The other side sent an alert.
    Alert(AlertDescription),
    /// This side found a fault.
    Fault(rustls::Error),
}

/// A TCP connection with bounded waits.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    bounded(TcpStream::connect_timeout(&address, PATIENCE).expect("a listener"))
}

/// The next incoming connection.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    bounded(listener.accept().expect("a connection").0)
}

fn bounded(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(PATIENCE)).expect("a bound that is not zero");
    socket.set_write_timeout(Some(PATIENCE)).expect("a bound that is not zero");
    socket.set_nodelay(true).expect("it is TCP");
    socket
}

/// One end of a TLS connection.
pub(crate) struct PeerConnection {
    socket: TcpStream,
    pub(crate) tls: Connection,
    /// Bytes per write to the socket.
    stride: usize,
    inbox: Vec<u8>,
    ending: Option<Ending>,
    asked: u64,
}

impl PeerConnection {
    /// Opens a connection to `address` in `dialect`. The server may not have verified it yet when this
    /// returns.
    pub(crate) fn dial(address: SocketAddr, dialect: &Dialect) -> Result<Self, Ending> {
        Self::dial_over(connect(address), dialect, usize::MAX)
    }

    /// As [`Self::dial`], over `socket`, in writes of `stride` bytes.
    pub(crate) fn dial_over(socket: TcpStream, dialect: &Dialect, stride: usize) -> Result<Self, Ending> {
        let tls = ClientConnection::new(dialect.client(), any_name()).expect("a client");
        Self::open(socket, tls.into(), stride)
    }

    /// Completes the handshake with the side that dialled `socket`.
    pub(crate) fn answer(socket: TcpStream, dialect: &Dialect) -> Result<Self, Ending> {
        let tls = ServerConnection::new(dialect.server(0)).expect("a server");
        Self::open(bounded(socket), tls.into(), usize::MAX)
    }

    /// Completes the handshake over `socket`.
    pub(crate) fn open(socket: TcpStream, tls: Connection, stride: usize) -> Result<Self, Ending> {
        let mut conn = Self { socket, tls, stride, inbox: Vec::new(), ending: None, asked: 0 };
        conn.flush();
        while conn.tls.is_handshaking() && conn.ending.is_none() {
            conn.pump();
        }
        if conn.tls.is_handshaking() { Err(conn.ending.expect("it is over")) } else { Ok(conn) }
    }

    /// The local address.
    pub(crate) fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("it is connected")
    }

    /// The id that the other side has proven, and its public key.
    pub(crate) fn met(&self) -> (Hash, Vec<u8>) {
        let shown = self.tls.peer_certificates().and_then(<[_]>::first).expect("a node shows its key").to_vec();
        (hash(shown.last_chunk::<32>().expect("a key")), shown)
    }

    /// Sends any `bytes`; after the end of the connection they are dropped.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(self.stride.min(16 << 10)) {
            self.tls.writer().write_all(part).expect("the session buffers");
            self.flush();
        }
    }

    /// Sends bytes below TLS.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    /// Closes TLS.
    pub(crate) fn close(&mut self) {
        self.tls.send_close_notify();
        self.flush();
    }

    /// Waits for the next message.
    pub(crate) fn receive(&mut self) -> Result<Message, Ending> {
        loop {
            if let Some(message) = Message::take(&mut self.inbox) {
                return Ok(message);
            }
            if let Some(ending) = &self.ending {
                return Err(ending.clone());
            }
            self.pump();
        }
    }

    /// Waits for the end; returns the messages before it, and the kind of end.
    pub(crate) fn expect_end(&mut self) -> (Vec<Message>, Ending) {
        let mut messages = Vec::new();
        loop {
            match self.receive() {
                Ok(message) => messages.push(message),
                Err(ending) => {
                    assert!(self.inbox.is_empty(), "half a message before the end: {:?}", self.inbox);
                    return (messages, ending);
                }
            }
        }
    }

    /// Sends `hello`, and waits for the server's, which must be the first message.
    pub(crate) fn greet(&mut self, hello: &Hello) -> Hello {
        self.send(&hello.bytes());
        Hello::read(&self.receive().expect("a HELLO"))
    }

    /// Sends a request; returns its RPC id.
    pub(crate) fn request(&mut self, kind: u16, rest: &[u8]) -> Hash {
        self.asked += 1;
        let id = hash(&self.asked.to_be_bytes());
        self.send(&message::rpc(kind, &id, rest));
        id
    }

    /// Sends a request, and waits for its reply. Requests that come before it get no reply.
    pub(crate) fn ask(&mut self, kind: u16, rest: &[u8]) -> Message {
        let id = self.request(kind, rest);
        loop {
            let message = self.receive().expect("a reply");
            if message.kind >= message::PING_REPLY {
                assert_eq!(message.rpc(), id, "a reply to nothing: {message:?}");
                return message;
            }
        }
    }

    /// Expects a reply to a PING.
    pub(crate) fn expect_pong(&mut self) {
        assert_eq!(self.ask(message::PING, &[]).kind, message::PING_REPLY);
    }

    /// Reads from the socket, at least one byte, and lets TLS respond.
    fn pump(&mut self) {
        let mut chunk = vec![0; 64 << 10];
        let mut bytes = match self.socket.read(&mut chunk) {
            Ok(count) => &chunk[..count],
            Err(error) if error.kind() == ErrorKind::ConnectionReset => &[],
            Err(error) => panic!("nothing came from the server in time: {error}"),
        };
        if bytes.is_empty() {
            self.ending = Some(Ending::Cut);
        }
        while !bytes.is_empty() && self.ending.is_none() {
            self.tls.read_tls(&mut bytes).expect("a record");
            let state = self.tls.process_new_packets();
            self.flush();
            match state {
                Ok(state) => {
                    let mut plain = vec![0; state.plaintext_bytes_to_read()];
                    self.tls.reader().read_exact(&mut plain).expect("as many as there are");
                    self.inbox.extend(plain);
                    self.ending = state.peer_has_closed().then_some(Ending::Closed);
                }
                Err(rustls::Error::AlertReceived(alert)) => self.ending = Some(Ending::Alert(alert)),
                Err(error) => self.ending = Some(Ending::Fault(error)),
            }
        }
    }

    fn flush(&mut self) {
        let mut wire = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire).expect("memory takes all");
        }
        for part in wire.chunks(self.stride) {
            // If the server has closed meanwhile, the next read reports it.
            if self.socket.write_all(part).is_err() {
                return;
            }
        }
    }
}
