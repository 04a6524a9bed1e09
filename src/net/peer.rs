//! This node's side of a connection to a peer: a TLS session, and what waits in front of it.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use crate::id::NodeId;
use crate::limits::PEER_OUTBOX_MAX;
use crate::net::outbox::Outbox;
use crate::net::socket::Socket;
use crate::net::tls::Session;
use crate::node::action::{DialError, DialId};

/// One end of a connection between nodes.
pub(super) struct Peer {
    pub(super) session: Session,
    /// What is still to be told of the dial that led here; taken when it is.
    pub(super) dial: Option<Dial>,
    outbox: Outbox,
    is_ending: bool,
}

/// An attempt to reach a node, over all addresses of its name.
#[derive(Debug)]
pub(super) struct Dial {
    /// What the node calls it.
    pub(super) id: DialId,
    /// Who must be met.
    pub(super) expect: Option<NodeId>,
    /// Where it has not been tried yet, the next one last.
    pub(super) left: Vec<SocketAddr>,
    /// What to say if no address is left.
    pub(super) error: DialError,
}

/// How far writing got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing is left.
    All,
    /// The socket takes no more for now.
    Blocked,
}

impl Peer {
    /// A connection over `session`, opened for `dial`, if this node opened it.
    pub(super) fn new(session: Session, dial: Option<Dial>) -> Self {
        Self { session, dial, outbox: Outbox::default(), is_ending: false }
    }

    /// Takes a message to be sent, unless it does not fit: then none of it is taken.
    pub(super) fn push(&mut self, head: &[u8], value: &[u8]) -> Pushed {
        if self.outbox.len() + head.len() + value.len() > PEER_OUTBOX_MAX {
            return Pushed::Dropped;
        }
        self.outbox.push(head, value);
        Pushed::Taken
    }

    /// Whether anything waits to be written.
    pub(super) fn wants_write(&self) -> bool {
        !self.outbox.is_empty() || self.session.wants_write()
    }

    /// Says goodbye to the other side's TLS once all that waits is written.
    pub(super) fn announce_end(&mut self) {
        self.is_ending = true;
    }

    /// Forgets what was not encrypted yet: nobody will read it.
    pub(super) fn abandon(&mut self) {
        self.outbox.clear();
    }

    /// Writes what waits. Messages of one turn share TLS records, and records share writes.
    pub(super) fn write(&mut self, socket: &mut Socket) -> io::Result<Written> {
        loop {
            self.feed();
            if !self.session.wants_write() {
                return Ok(Written::All);
            }
            match self.session.write_to(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Written::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands the session as much as it may hold.
    fn feed(&mut self) {
        while !self.outbox.is_empty() {
            match self.session.send(self.outbox.waiting()) {
                0 => return,
                taken => self.outbox.advance(taken),
            }
        }
        if self.is_ending {
            self.session.close(); // once; and not after an alert
        }
    }
}

/// What became of a message for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits to be written.
    Taken,
    /// Too much waits already.
    Dropped,
}
