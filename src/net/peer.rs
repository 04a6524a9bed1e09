//! One connection to a peer: its TLS session, and the messages that are not encrypted yet.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use crate::id::{NodeId, RpcId};
use crate::limits::{BUFFER_KEPT_MAX, PEER_OUTBOX_MAX};
use crate::net::outbox::Outbox;
use crate::net::socket::Socket;
use crate::net::tls::Session;
use crate::node::action::{DialError, DialId};
use crate::wire::peer::{ErrorCode, PeerMessage, Reply};

/// Bytes of an outbox that are reserved for refusals: ERROR 429 to each of the requests that one peer may have
/// in flight.
const REFUSALS_MAX: usize = 1 << 20;

/// The state of one connection to a peer.
pub(super) struct Peer {
    pub(super) session: Session,
    /// The dial that opened this connection, until its result is reported; `None` if the peer dialled.
    pub(super) dial: Option<Dial>,
    outbox: Outbox,
    is_ending: bool,
}

/// An attempt to connect to a node, at one address of its name after the other.
#[derive(Debug)]
pub(super) struct Dial {
    /// The node's id of this dial.
    pub(super) id: DialId,
    /// The expected id of the peer.
    pub(super) expect: Option<NodeId>,
    /// The addresses that were not tried yet, the next one last.
    pub(super) left: Vec<SocketAddr>,
    /// The error to report if no address is left; `None` if none was tried.
    error: Option<DialError>,
}

/// The result of writing to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All output is written.
    All,
    /// The share of the connection is written; the socket may accept more bytes.
    Part,
    /// The socket accepts no more bytes for now.
    Blocked,
}

impl Dial {
    /// The dial `id`, which expects the peer `expect` at one of the addresses `left`.
    pub(super) fn new(id: DialId, expect: Option<NodeId>, left: Vec<SocketAddr>) -> Self {
        Self { id, expect, left, error: None }
    }

    /// An attempt at one address has failed. A node is refused only at all its addresses, and a fault of this
    /// host at one of them leaves the result open.
    pub(super) fn failed(&mut self, error: DialError) {
        let weight = |error: &DialError| match error {
            DialError::Refused => 0,
            DialError::Unreachable => 1,
            DialError::NotAuthentic => 2,
            DialError::LocalFault => 3,
        };
        self.error = self.error.into_iter().chain([error]).max_by_key(weight);
    }

    /// The error to report. A name without an address was not resolved.
    pub(super) fn error(&self) -> DialError {
        self.error.unwrap_or(DialError::LocalFault)
    }
}

/// What an error of the system says about a dial. Every error that is not known to come from the remote host
/// counts as a fault of this host, also "no route to host": the route may be missing here.
pub(super) fn dial_error(error: &io::Error) -> DialError {
    match error.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => DialError::Refused,
        ErrorKind::TimedOut => DialError::Unreachable,
        _ => DialError::LocalFault,
    }
}

impl Peer {
    /// A connection over `session`, opened by `dial` or accepted.
    pub(super) fn new(session: Session, dial: Option<Dial>) -> Self {
        Self { session, dial, outbox: Outbox::new(BUFFER_KEPT_MAX), is_ending: false }
    }

    /// Appends a message to the outbox, or nothing of it if it would exceed the bound.
    pub(super) fn push(&mut self, head: &[u8], value: &[u8]) -> Pushed {
        if self.outbox.len() + head.len() + value.len() > PEER_OUTBOX_MAX {
            return Pushed::NoRoom;
        }
        self.outbox.push(head, value);
        Pushed::Queued
    }

    /// Appends ERROR 429 as the reply to `rpc`, for which room is reserved. A peer that has read none of some
    /// thousand refusals gets no more.
    pub(super) fn push_refusal(&mut self, rpc: RpcId) {
        let mut refusal = Vec::new();
        PeerMessage::Reply(rpc, Reply::Error(ErrorCode::TOO_MANY)).encode(&mut refusal);
        if self.outbox.len() + refusal.len() <= PEER_OUTBOX_MAX + REFUSALS_MAX {
            self.outbox.push(&refusal, &[]);
        }
    }

    /// Whether any output is not written yet.
    pub(super) fn wants_write(&self) -> bool {
        !self.outbox.is_empty() || self.session.wants_write()
    }

    /// Sends a TLS `close_notify` after all output.
    pub(super) fn close_after_output(&mut self) {
        self.is_ending = true;
    }

    /// Drops the messages that are not encrypted yet, since the peer will not read them.
    pub(super) fn drop_outbox(&mut self) {
        self.outbox.clear();
    }

    /// Writes the output, about `share` bytes at most. Messages of one turn share TLS records, and records share
    /// writes.
    pub(super) fn write(&mut self, socket: &mut Socket, share: usize) -> io::Result<Written> {
        let mut written = 0;
        loop {
            self.encrypt();
            if !self.session.wants_write() {
                return Ok(Written::All);
            }
            if written >= share {
                return Ok(Written::Part);
            }
            match self.session.write_to(socket) {
                Ok(len) => written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Written::Blocked),
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves messages from the outbox into the session, up to the bound of its buffer.
    fn encrypt(&mut self) {
        while !self.outbox.is_empty() {
            match self.session.send(self.outbox.unsent()) {
                0 => return,
                taken => self.outbox.advance(taken),
            }
        }
        if self.is_ending {
            self.session.close(); // repeated calls, and calls after an alert, have no effect
        }
    }
}

/// The result of [`Peer::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The message is in the outbox.
    Queued,
    /// The outbox has no room for the message.
    NoRoom,
}
