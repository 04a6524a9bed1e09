//! Output: the service's actions, the flush of step 9, and the end of connections.

use std::fmt::Display;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use log::{debug, warn};
use mio::net::TcpStream;
use mio::{Interest, Token};
use rustix::net::sockopt::set_socket_linger;

use crate::id::NodeId;
use crate::limits::DIALS_MAX;
use crate::net::Service;
use crate::net::account::UNREAD_TIMEOUT;
use crate::net::client::Replied;
use crate::net::conn::{CloseReason, Incoming, Phase, Side, Timeout};
use crate::net::event_loop::{EventLoop, Helper, LoopError, Notice};
use crate::net::listener::Pool;
use crate::net::peer::{Dial, Peer, Pushed, Written, dial_error};
use crate::net::resolver::Question;
use crate::net::slice::{FIRST_OUTPUT_SLICE, OUTPUT_SLICE};
use crate::net::tls::TlsFault;
use crate::node::action::{Action, ClientId, ConnId, DialError, DialId, Sent};
use crate::node::params::Endpoint;
use crate::node::persisted::{Batch, Saved};

impl<S: Service> EventLoop<S> {
    /// Performs the service's actions in their order.
    pub(super) fn perform(&mut self) {
        if self.actions.is_empty() {
            return;
        }
        let mut actions = mem::take(&mut self.actions);
        for action in actions.iter() {
            match action {
                Action::Dial { dial, to, expect } => self.dial(*dial, to, *expect),
                Action::Send { conn, sent, message } => {
                    let (head, value) = actions.bytes(message);
                    self.send(*conn, *sent, head, value);
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
                            self.limited_log.warn(now, format_args!("peer refused addr={address} fault=\"{fault}\""));
                        }
                        self.drain(slot);
                    }
                }
            }
        }
        actions.clear();
        self.actions = actions;
    }

    /// Appends a message to the outbox of a peer. It is lost if the connection has ended. If there is no room
    /// for it, the peer gets ERROR 429 instead of a reply, and the service learns that a request was not sent.
    fn send(&mut self, id: ConnId, sent: Sent, head: &[u8], value: &[u8]) {
        let Some(slot) = self.connections.find(id.0) else {
            return;
        };
        let conn = self.connections.at(slot);
        let (Phase::Open, Side::Peer(peer)) = (conn.phase, &mut conn.side) else { return };
        if peer.push(head, value) == Pushed::NoRoom {
            self.counters.outbox_drops += 1;
            match sent {
                Sent::Reply(rpc) => peer.push_refusal(rpc),
                Sent::Request(rpc) => self.notices.push_back(Notice::Unsent(id, rpc)),
                Sent::Other => {}
            }
        }
        self.connections.queue_flush(slot);
    }

    /// Sends a reply to a client. It is lost if the connection has ended.
    fn reply(&mut self, client: ClientId, head: &[u8], value: &[u8]) {
        let mut replied = Replied::NotExpected;
        if let Some(slot) = self.connections.find(client.connection) {
            let conn = self.connections.at(slot);
            if let (Phase::Open | Phase::Draining, Side::Client(state)) = (conn.phase, &mut conn.side) {
                replied = state.reply(client.request, head, value);
                self.connections.count(slot);
                match replied {
                    Replied::Queued => self.connections.queue_flush(slot),
                    Replied::Held => self.connections.wake_if_room(slot),
                    Replied::NotExpected => {}
                }
            }
        }
        if replied == Replied::NotExpected {
            self.counters.replies_late += 1;
        }
    }

    /// Begins to connect to a peer.
    fn dial(&mut self, id: DialId, to: &Endpoint, expect: Option<NodeId>) {
        match to {
            Endpoint::Address(address) => self.dial_next(Dial::new(id, expect, vec![*address])),
            Endpoint::Name { host, port } => {
                let question = Question { dial: Dial::new(id, expect, Vec::new()), host: host.clone(), port: *port };
                if let Err(question) = self.resolver.ask(question) {
                    warn!("name not resolved name={} fault=\"too many wait\"", question.host);
                    self.dial_next(question.dial);
                }
            }
        }
    }

    /// Sends a batch to the disk writer. The service sends one at a time, so the channel has room. If the
    /// thread has panicked, [`Self::take_saved`] finds that.
    fn save(&mut self, batch: &Arc<Batch>) {
        let is_sent = self.disk_writer.as_ref().is_some_and(|writer| writer.batches.try_send(batch.clone()).is_ok());
        if !is_sent {
            self.notices.push_back(Notice::Saved(Saved::Failed));
        }
    }

    /// Receives the results of the disk writer.
    ///
    /// # Errors
    ///
    /// If its thread has panicked.
    pub(super) fn take_saved(&mut self) -> Result<(), LoopError> {
        let Some(writer) = &self.disk_writer else { return Ok(()) };
        loop {
            match writer.results.try_recv() {
                Ok(saved) => self.notices.push_back(Notice::Saved(saved)),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(LoopError::HelperGone { helper: Helper::DiskWriter }),
            }
        }
    }

    /// Dials the addresses of resolved names.
    ///
    /// # Errors
    ///
    /// If the thread of the resolver has panicked.
    pub(super) fn dial_resolved(&mut self) -> Result<(), LoopError> {
        loop {
            let answer = match self.resolver.next_answer() {
                Ok(answer) => answer,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(LoopError::HelperGone { helper: Helper::Resolver }),
            };
            let Question { mut dial, host, .. } = answer.question;
            match answer.addresses {
                Ok(addresses) => dial.left.extend(addresses.into_iter().rev()),
                Err(error) => warn!("name not resolved name={host} fault=\"{error}\""), // no address was tried
            }
            self.dial_next(dial);
        }
    }

    /// Tries the next address of `dial`, or reports that the dial has failed.
    fn dial_next(&mut self, mut dial: Dial) {
        while let Some(address) = dial.left.pop() {
            match self.connect(address) {
                Ok(socket) => {
                    let session = self.tls.dial(dial.expect.as_ref());
                    let side = Side::Peer(Box::new(Peer::new(session, Some(dial))));
                    self.connections.insert(socket, address, side, self.now.mono);
                    return;
                }
                Err(error) => {
                    debug!("dial failed addr={address} fault=\"{error}\"");
                    dial.failed(dial_error(&error));
                }
            }
        }
        self.notices.push_back(Notice::DialFailed(dial.id, dial.error()));
    }

    fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        if self.connections.len(Pool::Peers) >= self.options.peer_connections_max + DIALS_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let mut socket = TcpStream::connect(address)?;
        self.register(&mut socket, Interest::READABLE | Interest::WRITABLE)?;
        Ok(socket)
    }

    /// Step 9: writes the output of this turn, and what is left of earlier output as long as there is time. If deferred
    /// input has taken all of it, that is written in the next turn.
    pub(super) fn flush_queued(&mut self) {
        self.flush_new();
        if !self.connections.has_deferred_flush() {
            return;
        }
        self.is_output_next = self.is_time_over();
        if self.is_output_next {
            return;
        }
        self.begin_deferred(self.pace.output);
        while let Some(slot) = self.connections.next_deferred_flush() {
            self.flush(slot, OUTPUT_SLICE);
            if self.is_time_over() {
                return;
            }
        }
    }

    /// Writes new output: the first part of it, so that large answers of many clients do not delay small ones.
    pub(super) fn flush_new(&mut self) {
        while let Some(slot) = self.connections.next_to_flush() {
            self.flush(slot, FIRST_OUTPUT_SLICE);
        }
    }

    /// Writes all output that sockets accept.
    fn flush_all(&mut self) {
        while let Some(slot) = self.connections.next_to_flush().or_else(|| self.connections.next_deferred_flush()) {
            self.flush(slot, usize::MAX);
        }
    }

    /// Writes about `share` bytes of the output of a connection at most.
    fn flush(&mut self, slot: usize, share: usize) {
        let now = self.now.mono;
        if self.connections.at(slot).phase == Phase::Connecting {
            self.finish_connecting(slot);
        }
        let conn = self.connections.at(slot);
        if !matches!(conn.phase, Phase::Handshaking | Phase::Open | Phase::Draining) {
            return;
        }
        let written = match conn.write(share, now) {
            Ok(written) => written,
            Err(error) => return self.end(slot, &CloseReason::Io(error)),
        };
        conn.deferred.output = written != Written::All;
        let interest = match written {
            Written::All => Interest::READABLE,
            Written::Part => conn.interest,
            Written::Blocked => Interest::READABLE | Interest::WRITABLE,
        };
        if interest != conn.interest {
            conn.interest = interest;
            if let Err(error) = self.poll.registry().reregister(&mut conn.socket.stream, Token(slot), interest) {
                return self.end(slot, &CloseReason::Io(error));
            }
        }
        if conn.phase == Phase::Draining && conn.is_done() {
            return self.end_output(slot);
        }
        if written == Written::Part {
            self.connections.queue_flush(slot);
        }
        self.connections.count(slot);
        self.connections.wake_if_room(slot);
        self.connections.arm(slot);
    }

    /// Ends a client that has read too little for too long. Its socket is tried once more before: the kernel
    /// reports room only when a third of its buffer is free, which can take a slow client longer than the time it has.
    pub(super) fn end_unless_read(&mut self, slot: usize) {
        self.flush(slot, OUTPUT_SLICE);
        if self.connections.at(slot).behind_since().is_some_and(|since| since + UNREAD_TIMEOUT <= self.now.mono) {
            self.abort(slot, &Timeout::Unread);
        }
    }

    /// Ends clients that do not read while all together hold too many answers. Before, the sockets get all output that
    /// they accept.
    pub(super) fn close_least_recent_readers(&mut self) {
        if self.connections.account.is_exceeded() {
            self.flush_all();
        }
        while self.connections.account.is_exceeded()
            && let Some(slot) = self.connections.least_recent_reader()
        {
            self.abort(slot, &"no room for more answers, and of all clients it has not read for the longest time");
        }
    }

    /// Closes a client that does not read. Its answers are dropped, also those in the kernel, which would keep them
    /// for minutes otherwise.
    fn abort(&mut self, slot: usize, fault: &dyn Display) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let address = conn.address;
        self.counters.faults += 1;
        self.limited_log.warn(now, format_args!("client dropped addr={address} fault=\"{fault}\""));
        let _ = set_socket_linger(&conn.socket.stream, Some(Duration::ZERO)); // without it the memory is freed later
        self.connections.close(slot, now);
    }

    /// Enters the TLS handshake, if TCP has connected.
    fn finish_connecting(&mut self, slot: usize) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        match conn.has_connected() {
            Ok(false) => {}
            Ok(true) => {
                conn.enter(Phase::Handshaking, now);
                self.connections.queue_ready(slot);
            }
            Err(error) => self.end(slot, &CloseReason::Io(error)),
        }
    }

    /// Stops reading a connection, and closes it after its last output.
    pub(super) fn drain(&mut self, slot: usize) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        conn.enter(Phase::Draining, now);
        conn.deferred.output = true; // there is no hurry
        if let Side::Peer(peer) = &mut conn.side {
            peer.close_after_output();
        }
        self.connections.queue_flush(slot);
        self.connections.arm(slot);
    }

    /// Announces the end of the output, and closes the connection when that causes no reset.
    fn end_output(&mut self, slot: usize) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        if conn.incoming == Incoming::Ended || conn.socket.stream.shutdown(Shutdown::Write).is_err() {
            return self.connections.close(slot, now);
        }
        conn.enter(Phase::Lingering, now);
        conn.deferred.input = true; // there is no hurry
        self.linger(slot);
    }

    /// Discards input until the other side ends or the time for that is over.
    pub(super) fn linger(&mut self, slot: usize) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        match conn.discard(&mut self.buffer, now) {
            Ok(true) | Err(_) => self.connections.close(slot, now),
            Ok(false) => {
                if conn.is_readable() {
                    self.connections.queue_ready(slot);
                }
                self.connections.arm(slot);
            }
        }
    }

    /// Ends a connection for `reason`.
    pub(super) fn end(&mut self, slot: usize, reason: &CloseReason) {
        let conn = self.connections.at(slot);
        match (conn.phase, &conn.side) {
            (Phase::Connecting | Phase::Handshaking, _) => self.refuse_peer(slot, reason),
            (Phase::Open, Side::Peer(_)) => self.drop_peer(slot, reason),
            (Phase::Open, Side::Client(_)) => self.drop_client(slot, reason),
            (Phase::Draining | Phase::Lingering | Phase::Closed, _) => self.connections.close(slot, self.now.mono),
        }
    }

    /// Ends a connection to a peer before its handshake is complete. A dial continues with its next address.
    fn refuse_peer(&mut self, slot: usize, reason: &CloseReason) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let address = conn.address;
        let Side::Peer(peer) = &mut conn.side else {
            unreachable!("only peers connect and shake hands");
        };
        let dial = peer.dial.take();
        let is_not_authentic = matches!(reason, CloseReason::Tls(fault) if !matches!(fault, TlsFault::Alert(_)));
        if dial.is_none() || is_not_authentic {
            self.counters.faults += 1;
            self.limited_log.warn(now, format_args!("peer refused addr={address} fault=\"{reason}\""));
        } else {
            debug!("dial failed addr={address} fault=\"{reason}\"");
        }
        if peer.session.wants_write() && matches!(reason, CloseReason::Tls(_)) {
            self.drain(slot); // sends the alert
        } else {
            self.connections.close(slot, now);
        }
        if let Some(mut dial) = dial {
            dial.failed(match reason {
                CloseReason::Closed => DialError::Refused,
                CloseReason::Io(error) => dial_error(error),
                CloseReason::Tls(_) if is_not_authentic => DialError::NotAuthentic,
                CloseReason::Tls(_) | CloseReason::Timeout(_) | CloseReason::Wire(_) => DialError::Unreachable,
            });
            self.dial_next(dial);
        }
    }

    /// Ends an open connection to a peer, which the service knows.
    fn drop_peer(&mut self, slot: usize, reason: &CloseReason) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let (id, address) = (ConnId(conn.id), conn.address);
        let Side::Peer(peer) = &mut conn.side else {
            unreachable!("the caller has matched the side");
        };
        self.notices.push_back(Notice::Closed(id));
        match reason {
            CloseReason::Closed | CloseReason::Io(_) => {
                debug!("peer gone addr={address} fault=\"{reason}\"");
                self.connections.close(slot, now);
            }
            CloseReason::Wire(_) | CloseReason::Tls(_) | CloseReason::Timeout(_) => {
                self.counters.faults += 1;
                let node = peer.session.peer().expect("an open connection has a verified peer");
                self.limited_log.warn(now, format_args!("peer dropped addr={address} id={node:.8} fault=\"{reason}\""));
                if matches!(reason, CloseReason::Tls(_)) {
                    peer.drop_outbox();
                }
                self.drain(slot);
            }
        }
    }

    /// Ends an open connection of a client. Its replies are still sent, unless the socket has failed.
    fn drop_client(&mut self, slot: usize, reason: &CloseReason) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let address = conn.address;
        match reason {
            CloseReason::Io(_) => return self.connections.close(slot, now),
            CloseReason::Closed => {}
            CloseReason::Timeout(Timeout::Idle) => debug!("client dropped addr={address} fault=\"{reason}\""),
            CloseReason::Wire(_) | CloseReason::Tls(_) | CloseReason::Timeout(_) => {
                conn.discarded = true;
                self.counters.faults += 1;
                self.limited_log.warn(now, format_args!("client dropped addr={address} fault=\"{reason}\""));
            }
        }
        self.drain(slot);
    }
}
