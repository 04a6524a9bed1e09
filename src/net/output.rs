//! What goes out: the service's actions, the outboxes of step 9, and the ends of connections.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;

use log::{debug, warn};
use mio::net::TcpStream;
use mio::{Interest, Token};

use crate::id::NodeId;
use crate::limits::{DIALS_MAX, READ_BYTES_PER_TURN};
use crate::net::Service;
use crate::net::client::Answered;
use crate::net::conn::{Fault, Incoming, Overdue, Phase, Queued, Side};
use crate::net::event_loop::{EventLoop, Helper, LoopError, Notice};
use crate::net::listener::Pool;
use crate::net::names::Question;
use crate::net::peer::{Dial, Peer, Pushed, Written};
use crate::net::tls::TlsFault;
use crate::node::action::{Action, ClientId, ConnId, DialError, DialId};
use crate::node::params::Endpoint;
use crate::node::persisted::{Batch, Saved};

impl<S: Service> EventLoop<S> {
    /// Does what the service wants done, in its order.
    pub(super) fn perform(&mut self) {
        if self.actions.is_empty() {
            return;
        }
        let mut actions = mem::take(&mut self.actions);
        for action in actions.iter() {
            match action {
                Action::Dial { dial, to, expect } => self.dial(*dial, to, *expect),
                Action::Send { conn, message } => {
                    let (head, value) = actions.bytes(message);
                    self.send(*conn, head, value);
                }
                Action::Reply { client, message } => {
                    let (head, value) = actions.bytes(message);
                    self.reply(*client, head, value);
                }
                Action::Save { batch } => self.save(batch),
                Action::Close { conn, fault } => {
                    let open = self.connections.find(conn.0);
                    if let Some(slot) = open.filter(|slot| self.connections.at(*slot).phase == Phase::Open) {
                        if let Some(fault) = fault {
                            let address = self.connections.at(slot).address;
                            let now = self.now.mono;
                            self.strangers.warn(now, format_args!("peer refused addr={address} fault=\"{fault}\""));
                        }
                        self.drain(slot);
                    }
                }
            }
        }
        actions.clear();
        self.actions = actions;
    }

    /// Sends a message to a peer, if that is still there and reads what it is sent.
    fn send(&mut self, conn: ConnId, head: &[u8], value: &[u8]) {
        let Some(slot) = self.connections.find(conn.0) else {
            return;
        };
        let conn = self.connections.at(slot);
        if let (Phase::Open, Side::Peer(peer)) = (conn.phase, &mut conn.side) {
            match peer.push(head, value) {
                Pushed::Taken => self.connections.touch(slot),
                Pushed::Dropped => self.counters.outbox_drops += 1,
            }
        }
    }

    /// Answers a client, if that is still there.
    fn reply(&mut self, client: ClientId, head: &[u8], value: &[u8]) {
        let mut answered = Answered::NotOwed;
        if let Some(slot) = self.connections.find(client.connection) {
            let conn = self.connections.at(slot);
            if let (Phase::Open | Phase::Draining, Side::Client(owed)) = (conn.phase, &mut conn.side) {
                answered = owed.answer(client.request, head, value);
                if answered == Answered::Released {
                    self.connections.touch(slot);
                }
            }
        }
        if answered == Answered::NotOwed {
            self.counters.replies_late += 1;
        }
    }

    /// Begins to open a connection.
    fn dial(&mut self, id: DialId, to: &Endpoint, expect: Option<NodeId>) {
        match to {
            Endpoint::Address(address) => {
                self.dial_next(Dial { id, expect, left: vec![*address], error: DialError::Unreachable });
            }
            Endpoint::Name { host, port } => {
                let question = Question { dial: id, expect, host: host.clone(), port: *port };
                if let Err(question) = self.names.ask(question) {
                    warn!("name not resolved name={} fault=\"too many wait\"", question.host);
                    self.notices.push_back(Notice::DialFailed(id, DialError::Unreachable));
                }
            }
        }
    }

    /// Has a batch saved. The service wants one at a time, so there is a place for it, unless
    /// nobody saves here; that the keeper is gone, it says itself.
    fn save(&mut self, batch: &Arc<Batch>) {
        let taken =
            self.disk_writer.as_ref().is_some_and(|disk_writer| disk_writer.batches.try_send(batch.clone()).is_ok());
        if !taken {
            self.notices.push_back(Notice::Saved(Saved::Failed));
        }
    }

    /// Takes note of what became of batches.
    ///
    /// # Errors
    ///
    /// If the keeper is gone.
    pub(super) fn take_saved(&mut self) -> Result<(), LoopError> {
        let Some(disk_writer) = &self.disk_writer else { return Ok(()) };
        loop {
            match disk_writer.results.try_recv() {
                Ok(saved) => self.notices.push_back(Notice::Saved(saved)),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(LoopError::HelperGone { helper: Helper::DiskWriter }),
            }
        }
    }

    /// Dials the addresses of the names that were resolved.
    ///
    /// # Errors
    ///
    /// If the thread that resolves them is gone.
    pub(super) fn dial_resolved(&mut self) -> Result<(), LoopError> {
        loop {
            let answer = match self.names.next_answer() {
                Ok(answer) => answer,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(LoopError::HelperGone { helper: Helper::Names }),
            };
            let question = answer.question;
            let mut left = answer.addresses.unwrap_or_else(|error| {
                warn!("name not resolved name={} fault=\"{error}\"", question.host);
                Vec::new()
            });
            left.reverse();
            let (id, expect) = (question.dial, question.expect);
            self.dial_next(Dial { id, expect, left, error: DialError::Unreachable });
        }
    }

    /// Tries the next address of `dial`, or says that there is none.
    fn dial_next(&mut self, mut dial: Dial) {
        while let Some(address) = dial.left.pop() {
            match self.connect(address) {
                Ok(socket) => {
                    let session = self.tls.dial(dial.expect.as_ref());
                    let side = Side::Peer(Box::new(Peer::new(session, Some(dial))));
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    self.connections.insert(socket, address, side, Phase::Connecting, interest, self.now.mono);
                    return;
                }
                Err(error) => debug!("dial failed addr={address} fault=\"{error}\""),
            }
        }
        self.notices.push_back(Notice::DialFailed(dial.id, dial.error));
    }

    fn connect(&mut self, address: SocketAddr) -> std::io::Result<TcpStream> {
        if self.connections.len(Pool::Peers) >= self.options.peer_connections_max + DIALS_MAX {
            return Err(std::io::ErrorKind::QuotaExceeded.into());
        }
        let mut socket = TcpStream::connect(address)?;
        let _ = socket.set_nodelay(true); // it works without, only slower
        let token = Token(self.connections.next_slot());
        self.poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(socket)
    }

    /// Step 9: writes what this turn has brought for each connection.
    pub(super) fn flush_touched(&mut self) {
        while let Some(slot) = self.connections.next_touched() {
            self.flush(slot);
        }
    }

    fn flush(&mut self, slot: usize) {
        let now = self.now.mono;
        if self.connections.at(slot).phase == Phase::Connecting {
            self.finish_connecting(slot);
        }
        let conn = self.connections.at(slot);
        if !matches!(conn.phase, Phase::Handshaking | Phase::Open | Phase::Draining) {
            return;
        }
        let written = match conn.write(now) {
            Ok(written) => written,
            Err(error) => return self.end(slot, &Fault::Io(error)),
        };
        let interest = match written {
            Written::All => Interest::READABLE,
            Written::Blocked => Interest::READABLE | Interest::WRITABLE,
        };
        if interest != conn.interest {
            conn.interest = interest;
            if let Err(error) = self.poll.registry().reregister(&mut conn.socket, Token(slot), interest) {
                return self.end(slot, &Fault::Io(error));
            }
        }
        if conn.phase == Phase::Draining && conn.is_done() {
            return self.part(slot);
        }
        if conn.queued == Queued::Full && matches!(&conn.side, Side::Client(client) if !client.is_full(0)) {
            conn.queued = Queued::No;
            self.connections.wake(slot);
        }
        self.connections.arm(slot);
    }

    /// Goes on to TLS, if TCP is open.
    fn finish_connecting(&mut self, slot: usize) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        match conn.has_connected() {
            Ok(false) => {}
            Ok(true) => {
                conn.enter(Phase::Handshaking, now);
                self.connections.wake(slot);
            }
            Err(error) => self.end(slot, &Fault::Io(error)),
        }
    }

    /// Reads no more from a connection; closes it once all that it is owed is out.
    pub(super) fn drain(&mut self, slot: usize) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        conn.enter(Phase::Draining, now);
        if let Side::Peer(peer) = &mut conn.side {
            peer.announce_end();
        }
        self.connections.touch(slot);
        self.connections.arm(slot);
    }

    /// All is out: closes the connection as soon as that does no harm to it.
    fn part(&mut self, slot: usize) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        if conn.incoming == Incoming::Ended || conn.shut().is_err() {
            return self.connections.finish(slot, now);
        }
        conn.enter(Phase::Lingering, now);
        self.linger(slot);
    }

    /// Throws away what a connection still sends, until it ends or its time is over.
    pub(super) fn linger(&mut self, slot: usize) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        match conn.discard(&mut self.buffer, READ_BYTES_PER_TURN, now) {
            Ok(true) | Err(_) => self.connections.finish(slot, now),
            Ok(false) => {
                if conn.is_readable() {
                    self.connections.wake(slot);
                }
                self.connections.arm(slot);
            }
        }
    }

    /// A connection ends, by the other side or for a fault of it.
    pub(super) fn end(&mut self, slot: usize, fault: &Fault) {
        let conn = self.connections.at(slot);
        match (conn.phase, &conn.side) {
            (Phase::Connecting | Phase::Handshaking, _) => self.refuse(slot, fault),
            (Phase::Open, Side::Peer(_)) => self.drop_peer(slot, fault),
            (Phase::Open, Side::Client(_)) => self.drop_client(slot, fault),
            (Phase::Draining | Phase::Lingering | Phase::Over, _) => self.connections.finish(slot, self.now.mono),
        }
    }

    /// Nobody was met, or nobody that is welcome.
    fn refuse(&mut self, slot: usize, fault: &Fault) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let address = conn.address;
        let Side::Peer(peer) = &mut conn.side else {
            unreachable!("only peers are dialled and shake hands");
        };
        let dial = peer.dial.take();
        let is_false = matches!(fault, Fault::Tls(fault) if !matches!(fault, TlsFault::Alert(_)));
        if dial.is_none() || is_false {
            self.counters.faults += 1;
            self.strangers.warn(now, format_args!("peer refused addr={address} fault=\"{fault}\""));
        } else {
            debug!("dial failed addr={address} fault=\"{fault}\"");
        }
        if peer.session.wants_write() && matches!(fault, Fault::Tls(_)) {
            self.drain(slot); // the alert
        } else {
            self.connections.finish(slot, now);
        }
        if let Some(mut dial) = dial {
            if is_false {
                dial.error = DialError::NotAuthentic;
            }
            self.dial_next(dial);
        }
    }

    /// A peer that the node knows is gone, or has to go.
    fn drop_peer(&mut self, slot: usize, fault: &Fault) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let (id, address) = (ConnId(conn.id), conn.address);
        let Side::Peer(peer) = &mut conn.side else {
            unreachable!("the caller has looked");
        };
        self.notices.push_back(Notice::Closed(id));
        match fault {
            Fault::Closed | Fault::Io(_) => {
                debug!("peer gone addr={address} fault=\"{fault}\"");
                self.connections.finish(slot, now);
            }
            Fault::Wire(_) | Fault::Tls(_) | Fault::Overdue(_) => {
                self.counters.faults += 1;
                let node = peer.session.peer().expect("an open connection has a proven peer");
                self.strangers.warn(now, format_args!("peer dropped addr={address} id={node:.8} fault=\"{fault}\""));
                if matches!(fault, Fault::Tls(_)) {
                    peer.abandon();
                }
                self.drain(slot);
            }
        }
    }

    /// A client is gone, or has to go; what it is owed is still sent, if it can be.
    fn drop_client(&mut self, slot: usize, fault: &Fault) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let address = conn.address;
        match fault {
            Fault::Io(_) => return self.connections.finish(slot, now),
            Fault::Closed => {}
            Fault::Overdue(Overdue::Silence) => debug!("client dropped addr={address} fault=\"{fault}\""),
            Fault::Wire(_) | Fault::Tls(_) | Fault::Overdue(_) => {
                conn.discarded = true;
                self.counters.faults += 1;
                self.strangers.warn(now, format_args!("client dropped addr={address} fault=\"{fault}\""));
            }
        }
        self.drain(slot);
    }
}
