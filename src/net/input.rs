//! Step 6 of a turn: what comes in.
//!
//! A client's bytes are split where the socket's read has put them; only half a message is
//! copied, into the inbox, until the rest comes. A peer's bytes pass through its session into the
//! inbox. Either way the connection is read only when all whole messages before were taken, so an
//! inbox never holds more than one read and half a message.

use std::{io, mem};

use arrayvec::ArrayVec;

use crate::limits::{BATCH_MAX, FRAMES_PER_TURN, HANDSHAKES_PER_TURN, READ_BYTES_PER_TURN};
use crate::net::Service;
use crate::net::conn::{Fault, Incoming, Phase, Queued, Rest, Side};
use crate::net::event_loop::EventLoop;
use crate::node::action::{ClientId, ConnId, Origin};
use crate::wire::Source;
use crate::wire::api::ApiRequest;
use crate::wire::codec::WireError;
use crate::wire::frame::next_frame;

/// Why no further message was taken from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// What is left is half a message, or nothing.
    Dry,
    /// It has had its share of this turn.
    Spent,
    /// It must read its answers first.
    Full,
    /// The service wants no requests for now.
    Unwelcome,
    /// It was closed meanwhile.
    Closing,
    /// What comes next is no message.
    Malformed(WireError),
}

/// What a connection may still take of a turn.
struct Budget {
    bytes: usize,
    frames: usize,
}

impl Budget {
    fn of_a_turn() -> Self {
        Self { bytes: READ_BYTES_PER_TURN, frames: FRAMES_PER_TURN }
    }
}

/// Requests that are decoded before the first of them is served, each with its size.
type Batch<'a> = ArrayVec<(ApiRequest<'a>, usize), BATCH_MAX>;

/// Decodes whole requests of `bytes` until `batch` is full, or returns why there are no more.
fn decode<'a>(mut bytes: &'a [u8], batch: &mut Batch<'a>) -> Option<Stop> {
    while !batch.is_full() {
        let (frame, len) = match next_frame(Source::Module, bytes) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Some(Stop::Dry),
            Err(error) => return Some(Stop::Malformed(error)),
        };
        match ApiRequest::decode(frame) {
            Ok(request) => batch.push((request, len)),
            Err(error) => return Some(Stop::Malformed(error)),
        }
        bytes = &bytes[len..];
    }
    None
}

impl<S: Service> EventLoop<S> {
    /// Serves all connections that are ready, each within its budget.
    pub(super) fn serve_ready(&mut self) {
        if self.service.wants_requests() {
            self.connections.unpark();
        }
        let mut handshakes = HANDSHAKES_PER_TURN;
        for _ in 0..self.connections.ready() {
            let Some(slot) = self.connections.next_ready() else {
                return;
            };
            let conn = self.connections.at(slot);
            match (conn.phase, &conn.side) {
                (Phase::Handshaking, _) if handshakes == 0 => self.connections.wake(slot),
                (Phase::Handshaking, _) => {
                    handshakes -= 1;
                    self.serve_peer(slot);
                }
                (Phase::Open, Side::Peer(_)) => self.serve_peer(slot),
                (Phase::Open, Side::Client(_)) => self.serve_client(slot),
                (Phase::Lingering, _) => self.linger(slot),
                (Phase::Connecting | Phase::Draining | Phase::Over, _) => {}
            }
        }
    }

    fn serve_client(&mut self, slot: usize) {
        let mut budget = Budget::of_a_turn();
        let mut buffer = mem::take(&mut self.buffer);
        let mut inbox = mem::take(&mut self.connections.at(slot).inbox);
        let served = self.serve_requests(slot, &mut buffer, &mut inbox, &mut budget);
        self.buffer = buffer;
        let written = self.write_answers(slot);
        match written.and(served) {
            Ok((taken, stop)) => self.put_back(slot, inbox, taken, stop),
            Err(error) => self.end(slot, &Fault::Io(error)),
        }
    }

    /// Takes requests until there are no more, or no more may be; returns how many bytes they were,
    /// and why it stopped.
    fn serve_requests(
        &mut self,
        slot: usize,
        buffer: &mut [u8],
        inbox: &mut Vec<u8>,
        budget: &mut Budget,
    ) -> io::Result<(usize, Stop)> {
        let now = self.now.mono;
        let (mut taken, mut stop) = (0, Stop::Dry);
        if !inbox.is_empty() {
            (taken, stop) = self.take_requests(slot, inbox, budget);
            inbox.drain(..taken);
        }
        while stop == Stop::Dry && self.connections.at(slot).is_readable() {
            if budget.bytes == 0 {
                return Ok((taken, Stop::Spent));
            }
            let len = self.connections.at(slot).fill(buffer, now)?;
            if len == 0 {
                break;
            }
            budget.bytes = budget.bytes.saturating_sub(len);
            let used;
            if inbox.is_empty() {
                (used, stop) = self.take_requests(slot, &buffer[..len], budget);
                inbox.extend_from_slice(&buffer[used..len]);
            } else {
                inbox.extend_from_slice(&buffer[..len]);
                (used, stop) = self.take_requests(slot, inbox, budget);
                inbox.drain(..used);
            }
            taken += used;
        }
        Ok((taken, stop))
    }

    /// Hands whole requests of `bytes` to the service; returns how many bytes they were, and why
    /// there are no more. Of several it is told the keys first.
    fn take_requests(&mut self, slot: usize, bytes: &[u8], budget: &mut Budget) -> (usize, Stop) {
        let mut taken = 0;
        loop {
            let mut batch = Batch::new();
            let end = decode(&bytes[taken..], &mut batch);
            if batch.len() > 1 {
                self.service.foresee(batch.iter().map(|(request, _)| request.key()));
            }
            // By reference: the list itself is a thousand bytes, however few it holds.
            for &(request, len) in &batch {
                if let Some(stop) = self.stops(slot, budget) {
                    return (taken, stop);
                }
                taken += len;
                budget.frames -= 1;
                self.take_request(slot, request);
            }
            if let Some(stop) = end {
                let is_open = self.connections.at(slot).phase == Phase::Open;
                return (taken, if is_open { stop } else { Stop::Closing });
            }
        }
    }

    /// Why no further request of a client may be taken; `None` if one may.
    fn stops(&mut self, slot: usize, budget: &Budget) -> Option<Stop> {
        let conn = self.connections.at(slot);
        if conn.phase != Phase::Open {
            Some(Stop::Closing)
        } else if conn.client().is_full(self.actions.answers().len()) {
            Some(Stop::Full)
        } else if budget.frames == 0 {
            Some(Stop::Spent)
        } else if !self.service.wants_requests() {
            Some(Stop::Unwelcome)
        } else {
            None
        }
    }

    /// Hands a request to the service. Its answer waits to be written with those before it, if it
    /// comes at once and none of those is missing.
    fn take_request(&mut self, slot: usize, request: ApiRequest<'_>) {
        let conn = self.connections.at(slot);
        let connection = conn.id;
        let client = conn.client();
        let asked = ClientId { connection, request: client.mint() };
        match (request.is_answered(), client.is_owed()) {
            (true, false) => self.actions.expect(asked),
            (true, true) => client.owe(asked.request),
            (false, _) => {}
        }
        self.service.on_request(self.now, asked, request, &mut self.actions);
        if self.actions.is_awaited() {
            // It comes later, and so do all that follow it; those before it are first in the outbox.
            let answers = self.actions.answers();
            let client = self.connections.at(slot).client();
            client.answered(answers, 0);
            client.owe(asked.request);
            answers.clear();
            self.connections.touch(slot);
        }
        // Most requests are answered at once: looking here saves them a call, 22 instructions of 800.
        if !self.actions.is_empty() {
            self.perform();
        }
    }

    /// Writes the answers that came at once, behind those that wait already.
    fn write_answers(&mut self, slot: usize) -> io::Result<()> {
        let answers = self.actions.answers();
        if answers.is_empty() {
            return Ok(());
        }
        let conn = self.connections.at(slot);
        let written = if conn.phase == Phase::Open && conn.client().outbox().is_empty() {
            conn.write_answers(answers, self.now.mono)
        } else {
            Ok(0)
        };
        if let Ok(len) = written
            && len < answers.len()
        {
            conn.client().answered(answers, len);
            self.connections.touch(slot);
        }
        answers.clear();
        written.map(drop)
    }

    fn serve_peer(&mut self, slot: usize) {
        let now = self.now.mono;
        let mut budget = Budget::of_a_turn();
        let mut buffer = mem::take(&mut self.buffer);
        let mut inbox = mem::take(&mut self.connections.at(slot).inbox);
        let (mut taken, mut stop) = self.take_frames(slot, &inbox, &mut budget);
        inbox.drain(..taken);
        let mut fault = None;
        while stop == Stop::Dry && fault.is_none() && self.connections.at(slot).is_readable() {
            if budget.bytes == 0 {
                stop = Stop::Spent;
                break;
            }
            match self.connections.at(slot).fill(&mut buffer, now) {
                Ok(0) => break,
                Ok(len) => {
                    budget.bytes = budget.bytes.saturating_sub(len);
                    fault = self.decrypt(slot, &buffer[..len], &mut inbox).err();
                }
                Err(error) => fault = Some(Fault::Io(error)),
            }
            // What came before a fault came from the peer all the same.
            let used;
            (used, stop) = self.take_frames(slot, &inbox, &mut budget);
            inbox.drain(..used);
            taken += used;
        }
        self.buffer = buffer;
        match fault {
            Some(fault) => self.end(slot, &fault),
            None => self.put_back(slot, inbox, taken, stop),
        }
    }

    /// Passes `bytes` through the session of a peer, and tells the service once it is proven who
    /// that is.
    fn decrypt(&mut self, slot: usize, bytes: &[u8], inbox: &mut Vec<u8>) -> Result<(), Fault> {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let Side::Peer(peer) = &mut conn.side else {
            unreachable!("only peers speak TLS");
        };
        let received = peer.session.receive(bytes, inbox).map_err(Fault::Tls);
        if peer.session.has_ended() {
            conn.incoming = Incoming::Ended;
        }
        let proven = peer.session.peer().filter(|_| conn.phase == Phase::Handshaking);
        let (id, address) = (ConnId(conn.id), conn.address);
        if let Some(node) = proven {
            let origin = peer.dial.take().map_or(Origin::Accepted, |dial| Origin::Dialled(dial.id));
            conn.enter(Phase::Open, now);
            self.connections.touch(slot);
            self.call(|service, now, out| service.on_secured(now, id, node, address, origin, out));
        } else if conn.phase == Phase::Handshaking {
            self.connections.touch(slot); // the handshake's next flight
        }
        received
    }

    /// Hands whole messages of `bytes` to the service, as `take_requests` does.
    fn take_frames(&mut self, slot: usize, bytes: &[u8], budget: &mut Budget) -> (usize, Stop) {
        let mut taken = 0;
        loop {
            let conn = self.connections.at(slot);
            if !matches!(conn.phase, Phase::Open | Phase::Handshaking) {
                return (taken, Stop::Closing);
            }
            let id = ConnId(conn.id);
            let (frame, len) = match next_frame(Source::Peer, &bytes[taken..]) {
                Ok(None) => return (taken, Stop::Dry),
                Ok(Some(_)) if budget.frames == 0 => return (taken, Stop::Spent),
                Ok(Some(whole)) => whole,
                Err(error) => return (taken, Stop::Malformed(error)),
            };
            taken += len;
            budget.frames -= 1;
            self.call(|service, now, out| service.on_frame(now, id, frame, out));
        }
    }

    /// Leaves a connection until the next time.
    fn put_back(&mut self, slot: usize, inbox: Vec<u8>, taken: usize, stop: Stop) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let rest = match (stop, taken) {
            (Stop::Dry, _) if inbox.is_empty() => Rest::Nothing,
            (Stop::Dry, 0) => Rest::SameHalf,
            (Stop::Dry, _) => Rest::NewHalf,
            _ => Rest::Nothing, // what is left waits for us
        };
        if stop != Stop::Closing {
            conn.inbox = inbox;
        } else if !inbox.is_empty() {
            conn.discarded = true;
        }
        conn.note_rest(rest, now);
        let is_full = matches!(&conn.side, Side::Client(client) if client.is_full(0));
        match stop {
            Stop::Dry if conn.incoming == Incoming::Ended => return self.end(slot, &Fault::Closed),
            Stop::Dry | Stop::Closing => {}
            Stop::Full if is_full => conn.queued = Queued::Full,
            Stop::Spent | Stop::Full => self.connections.wake(slot), // who was full has its answers by now
            Stop::Unwelcome => self.connections.park(slot),
            Stop::Malformed(error) => return self.end(slot, &Fault::Wire(error)),
        }
        self.connections.arm(slot);
    }
}
