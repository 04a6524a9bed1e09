//! Step 6 of a turn: input.
//!
//! A client's bytes are split into messages in the read buffer; only an incomplete message is copied, into
//! the inbox, until its rest arrives. A peer's bytes pass through its TLS session into the inbox. A
//! connection is read only after all complete messages before were processed, so an inbox never has more
//! than one read and one incomplete message.

use std::{io, mem};

use arrayvec::ArrayVec;

use crate::limits::{BATCH_MAX, CLIENT_BUFFER_KEPT_MAX};
use crate::net::Service;
use crate::net::conn::{CloseReason, Incoming, Partial, Phase, Queued, Side};
use crate::net::event_loop::EventLoop;
use crate::net::outbox;
use crate::net::slice::{Budget, FIRST_SLICE, IN_FLIGHT_WORK, PEER_MESSAGE_WORK, QUERY_WORK, SLICE, verification_work};
use crate::node::action::{ClientId, ConnId, Origin, Taken};
use crate::wire::Source;
use crate::wire::api::ApiRequest;
use crate::wire::codec::WireError;
use crate::wire::frame::next_frame;

/// TLS handshakes that advance in one turn. One costs some 200 microseconds, as much as a thousand requests of a
/// client, and a flood of handshakes must not delay those.
const HANDSHAKES_PER_TURN: usize = 1;

/// Why no further message of a connection was processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The rest is an incomplete message, or nothing.
    Incomplete,
    /// Its slice is used up.
    SliceUsed,
    /// The client must read its replies first.
    ClientFull,
    /// The service has no room for the next request.
    NoRoom,
    /// The connection is closing.
    Closing,
    /// The next bytes are not a message.
    Malformed(WireError),
}

/// Requests that are decoded together before the first of them is served, each with its size.
type Batch<'a> = ArrayVec<(ApiRequest<'a>, usize), BATCH_MAX>;

/// Decodes complete requests of `bytes` until `batch` is full; otherwise returns why there are no more.
fn decode<'a>(mut bytes: &'a [u8], batch: &mut Batch<'a>) -> Option<Stop> {
    while !batch.is_full() {
        let (frame, len) = match next_frame(Source::Module, bytes) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Some(Stop::Incomplete),
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
    /// Serves each connection with an event, and then, unless it is the turn of deferred output, those that have waited
    /// for room and the deferred ones. In a late turn each gets a large slice, whatever time that takes: the answers for
    /// which deadlines wait may have come meanwhile.
    pub(super) fn serve_ready(&mut self) {
        let mut handshakes = HANDSHAKES_PER_TURN;
        let first_slice = if self.is_late { SLICE } else { FIRST_SLICE };
        for _ in 0..self.connections.ready() {
            if let Some(slot) = self.connections.next_ready() {
                self.serve(slot, Budget::whole(first_slice), &mut handshakes);
            }
        }
        if self.is_late {
            for _ in 0..self.connections.deferred() {
                if let Some(slot) = self.connections.next_deferred() {
                    self.serve(slot, Budget::whole(SLICE), &mut handshakes);
                }
            }
        }
        if !mem::take(&mut self.is_output_next) {
            self.serve_parked();
            self.serve_deferred(&mut handshakes);
        }
    }

    /// Serves parked connections whose requests the service has room for again: each once, as long as there is time.
    fn serve_parked(&mut self) {
        for _ in 0..self.connections.parked() {
            if !self.service.wants_requests() {
                return;
            }
            let is_wanted = |id| self.service.wants_requests_of(id);
            let Some(slot) = self.connections.next_parked(is_wanted) else { return };
            self.begin_deferred(self.pace.input);
            self.serve_client(slot, Budget::whole(FIRST_SLICE));
            if self.is_time_over() {
                return;
            }
        }
    }

    /// Serves deferred connections: each once, as long as there is time.
    fn serve_deferred(&mut self, handshakes: &mut usize) {
        for _ in 0..self.connections.deferred() {
            let Some(slot) = self.connections.next_deferred() else { return };
            let until = self.begin_deferred(self.pace.input);
            self.serve(slot, Budget::until(until, SLICE), handshakes);
            if self.is_time_over() {
                return;
            }
        }
    }

    fn serve(&mut self, slot: usize, budget: Budget, handshakes: &mut usize) {
        let conn = self.connections.at(slot);
        match (conn.phase, &conn.side) {
            (Phase::Handshaking, _) if *handshakes == 0 => self.connections.queue_ready(slot),
            (Phase::Handshaking, _) => {
                *handshakes -= 1;
                self.serve_peer(slot, budget);
            }
            (Phase::Open, Side::Peer(_)) => self.serve_peer(slot, budget),
            (Phase::Open, Side::Client(_)) => self.serve_client(slot, budget),
            (Phase::Lingering, _) => self.linger(slot),
            (Phase::Connecting | Phase::Draining | Phase::Closed, _) => {}
        }
    }

    fn serve_client(&mut self, slot: usize, mut budget: Budget) {
        let mut buffer = mem::take(&mut self.buffer);
        let mut inbox = mem::take(&mut self.connections.at(slot).inbox);
        let is_fresh = inbox.is_empty();
        let served = self.serve_requests(slot, &mut buffer, &mut inbox, &mut budget);
        self.buffer = buffer;
        let is_heavy = budget.is_heavy(self.actions.answers().len());
        self.note_slice(slot, is_heavy, is_fresh && matches!(served, Ok((_, Stop::Incomplete))));
        let written = self.write_replies(slot);
        match written.and(served) {
            Ok((taken, stop)) => self.finish_input(slot, inbox, taken, stop),
            Err(error) => self.end(slot, &CloseReason::Io(error)),
        }
        // Not at the end of the turn only: until then each client could add an answer.
        self.close_least_recent_readers();
    }

    /// Reads and processes requests; returns the number of bytes that were processed, and why it stopped.
    fn serve_requests(
        &mut self,
        slot: usize,
        buffer: &mut [u8],
        inbox: &mut Vec<u8>,
        budget: &mut Budget,
    ) -> io::Result<(usize, Stop)> {
        let now = self.now.mono;
        let (mut taken, mut stop) = (0, Stop::Incomplete);
        if !inbox.is_empty() {
            (taken, stop) = self.take_requests(slot, inbox, budget);
            inbox.drain(..taken);
        }
        while stop == Stop::Incomplete && self.connections.at(slot).is_readable() {
            if budget.is_spent(|| self.clock.mono()) {
                return Ok((taken, Stop::SliceUsed));
            }
            let read_size = self.connections.account.read_size().min(budget.bytes());
            let len = self.connections.at(slot).read(&mut buffer[..read_size], now)?;
            if len == 0 {
                break;
            }
            budget.spend_read(len);
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

    /// Passes complete requests of `bytes` to the service; returns the number of bytes that were processed,
    /// and why it stopped. For several requests, the service may prefetch their keys first.
    fn take_requests(&mut self, slot: usize, bytes: &[u8], budget: &mut Budget) -> (usize, Stop) {
        let mut taken = 0;
        loop {
            let mut batch = Batch::new();
            let end = decode(&bytes[taken..], &mut batch);
            if batch.len() > 1 {
                self.service.prefetch(batch.iter().map(|(request, _)| request.key()));
                if let ApiRequest::Put(_) = batch[0].0 {
                    self.service.prefetch_for_puts(batch.iter().map(|(request, _)| request.key()));
                }
            }
            // By reference: the list takes a thousand bytes, even if it has few elements.
            for &(request, len) in &batch {
                if let Some(stop) = self.stop_before_request(slot, budget) {
                    return (taken, stop);
                }
                if let ApiRequest::Put(put) = &request {
                    budget.spend(verification_work(put));
                }
                match self.take_request(slot, request) {
                    Taken::Done => budget.spend(1),
                    Taken::InFlight => {
                        let is_awaited = self.connections.at(slot).client().awaits_latest();
                        budget.spend(if is_awaited { IN_FLIGHT_WORK } else { QUERY_WORK });
                        budget.answers = 0;
                    }
                    Taken::NoRoom => return (taken, Stop::NoRoom),
                }
                taken += len;
            }
            if let Some(stop) = end {
                let is_open = self.connections.at(slot).phase == Phase::Open;
                return (taken, if is_open { stop } else { Stop::Closing });
            }
        }
    }

    /// Why the next request of a client must wait; `None` if it can be processed.
    fn stop_before_request(&mut self, slot: usize, budget: &mut Budget) -> Option<Stop> {
        let answers = self.actions.answers().len();
        if self.connections.at(slot).phase != Phase::Open {
            Some(Stop::Closing)
        } else if budget.is_spent(|| self.clock.mono()) {
            Some(Stop::SliceUsed)
        } else if answers < budget.answers {
            None
        } else if answers >= budget.output() {
            Some(Stop::SliceUsed)
        } else if self.has_room(slot, answers, budget) {
            None
        } else {
            Some(Stop::ClientFull)
        }
    }

    /// Whether there is room for a further answer to a client, beside `answers` bytes of immediate replies. This
    /// remains true for more bytes until a request is unanswered.
    fn has_room(&mut self, slot: usize, answers: usize, budget: &mut Budget) -> bool {
        let room = self.connections.account.room();
        let client = self.connections.at(slot).client();
        let Some(max) = client.room(room).filter(|max| answers <= *max) else { return false };
        budget.answers = if client.has_unanswered() { 0 } else { max.min(budget.output()) };
        true
    }

    /// Passes a request to the service. An immediate reply is collected with those before it, unless an
    /// earlier request is unanswered.
    fn take_request(&mut self, slot: usize, request: ApiRequest<'_>) -> Taken {
        let conn = self.connections.at(slot);
        let connection = conn.id;
        let client = conn.client();
        let id = ClientId { connection, request: client.next_request() };
        let waits_for_others = client.has_unanswered();
        if request.is_answered() && !waits_for_others {
            self.actions.expect(id);
        }
        let taken = self.service.on_request(self.now, id, request, &mut self.actions);
        let is_awaited = self.actions.is_awaited();
        if taken == Taken::NoRoom {
            return taken;
        }
        if is_awaited {
            // The reply arrives later, so the replies before it go to the outbox now.
            let replies = self.actions.answers();
            let client = self.connections.at(slot).client();
            client.push_replies(replies, 0);
            client.expect_reply(id.request, request.answer_size_max());
            replies.clear();
            self.connections.count(slot);
            self.connections.queue_flush(slot);
        } else if request.is_answered() && waits_for_others {
            // Its reply may be among the actions.
            self.connections.at(slot).client().expect_reply(id.request, request.answer_size_max());
            self.connections.count(slot);
        }
        // Most requests are answered immediately. This check saves a call, 22 of 800 instructions.
        if !self.actions.is_empty() {
            self.perform();
        }
        taken
    }

    /// Writes the immediate replies after all earlier output.
    fn write_replies(&mut self, slot: usize) -> io::Result<()> {
        let replies = self.actions.answers();
        if replies.is_empty() {
            return Ok(());
        }
        let conn = self.connections.at(slot);
        let written = if conn.phase == Phase::Open && conn.client().outbox().is_empty() {
            conn.write_replies(replies, self.now.mono)
        } else {
            Ok(0)
        };
        if let Ok(len) = written
            && len < replies.len()
        {
            conn.client().push_replies(replies, len);
            conn.deferred.output |= len > 0; // the socket is full
            self.connections.count(slot);
            self.connections.queue_flush(slot);
        }
        replies.clear();
        written.map(drop)
    }

    fn serve_peer(&mut self, slot: usize, mut budget: Budget) {
        let now = self.now.mono;
        let mut buffer = mem::take(&mut self.buffer);
        let mut inbox = mem::take(&mut self.connections.at(slot).inbox);
        let is_fresh = inbox.is_empty();
        let (mut taken, mut stop) = self.take_frames(slot, &inbox, &mut budget);
        inbox.drain(..taken);
        let mut failure = None;
        while stop == Stop::Incomplete && failure.is_none() && self.connections.at(slot).is_readable() {
            if budget.is_spent(|| self.clock.mono()) {
                stop = Stop::SliceUsed;
                break;
            }
            match self.connections.at(slot).read(&mut buffer, now) {
                Ok(0) => break,
                Ok(len) => {
                    budget.spend_read(len);
                    failure = self.decrypt(slot, &buffer[..len], &mut inbox).err();
                }
                Err(error) => failure = Some(CloseReason::Io(error)),
            }
            // Messages before a failure are valid.
            let used;
            (used, stop) = self.take_frames(slot, &inbox, &mut budget);
            inbox.drain(..used);
            taken += used;
        }
        self.buffer = buffer;
        self.note_slice(slot, budget.is_heavy(0), is_fresh && stop == Stop::Incomplete);
        match failure {
            Some(reason) => self.end(slot, &reason),
            None => self.finish_input(slot, inbox, taken, stop),
        }
    }

    /// Passes `bytes` through the session of a peer into `inbox`. When the handshake has verified the id of
    /// the peer, reports the connection to the service.
    fn decrypt(&mut self, slot: usize, bytes: &[u8], inbox: &mut Vec<u8>) -> Result<(), CloseReason> {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let Side::Peer(peer) = &mut conn.side else {
            unreachable!("only peers speak TLS");
        };
        let received = peer.session.receive(bytes, inbox).map_err(CloseReason::Tls);
        if peer.session.has_ended() {
            conn.incoming = Incoming::Ended;
        }
        let verified = peer.session.peer().filter(|_| conn.phase == Phase::Handshaking);
        let (id, address) = (ConnId(conn.id), conn.address);
        if let Some(node) = verified {
            let origin = peer.dial.take().map_or(Origin::Accepted, |dial| Origin::Dialled(dial.id));
            conn.enter(Phase::Open, now);
            self.connections.queue_flush(slot);
            self.call(|service, now, out| service.on_secured(now, id, node, address, origin, out));
        } else if conn.phase == Phase::Handshaking {
            self.connections.queue_flush(slot); // sends the next message of the handshake
        }
        received
    }

    /// Passes complete messages of `bytes` to the service, as `take_requests` does.
    fn take_frames(&mut self, slot: usize, bytes: &[u8], budget: &mut Budget) -> (usize, Stop) {
        let mut taken = 0;
        loop {
            let conn = self.connections.at(slot);
            if !matches!(conn.phase, Phase::Open | Phase::Handshaking) {
                return (taken, Stop::Closing);
            }
            let id = ConnId(conn.id);
            let (frame, len) = match next_frame(Source::Peer, &bytes[taken..]) {
                Ok(None) => return (taken, Stop::Incomplete),
                Ok(Some(_)) if budget.is_spent(|| self.clock.mono()) => return (taken, Stop::SliceUsed),
                Ok(Some(whole)) => whole,
                Err(error) => return (taken, Stop::Malformed(error)),
            };
            taken += len;
            budget.spend(PEER_MESSAGE_WORK);
            self.call(|service, now, out| service.on_frame(now, id, frame, out));
        }
    }

    /// Decides whether the connection is deferred from now on: if its slice was heavy, until one slice is light and
    /// `is_all` that it sent. So one that always sends much gets all of it served in one slice.
    fn note_slice(&mut self, slot: usize, is_heavy: bool, is_all: bool) {
        let conn = self.connections.at(slot);
        conn.deferred.input = is_heavy || conn.deferred.input && !is_all;
    }

    /// Stores the rest of the input, and queues the connection for the next turn if necessary.
    fn finish_input(&mut self, slot: usize, inbox: Vec<u8>, taken: usize, stop: Stop) {
        let now = self.now.mono;
        let conn = self.connections.at(slot);
        let partial = match (stop, taken) {
            (Stop::Incomplete, _) if inbox.is_empty() => Partial::No,
            (Stop::Incomplete, 0) => Partial::Same,
            (Stop::Incomplete, _) => Partial::New,
            _ => Partial::No, // the rest waits for this node, not for the other side
        };
        if stop != Stop::Closing {
            conn.inbox = inbox;
            if conn.inbox.is_empty() {
                let kept_max = match conn.side {
                    Side::Client(_) => CLIENT_BUFFER_KEPT_MAX,
                    Side::Peer(_) => usize::MAX,
                };
                outbox::empty(&mut conn.inbox, kept_max);
            }
        } else if !inbox.is_empty() {
            conn.discarded = true;
        }
        conn.note_partial(partial, now);
        self.connections.count(slot);
        let room = self.connections.account.room();
        let conn = self.connections.at(slot);
        let is_full = matches!(&conn.side, Side::Client(client) if client.room(room).is_none());
        match stop {
            Stop::Incomplete if conn.incoming == Incoming::Ended => return self.end(slot, &CloseReason::Closed),
            Stop::Incomplete | Stop::Closing => {}
            Stop::ClientFull if is_full => conn.queued = Queued::Full,
            // A client that was full and is not any more has got its replies meanwhile.
            Stop::SliceUsed | Stop::ClientFull => self.connections.queue_ready(slot),
            Stop::NoRoom => self.connections.park(slot),
            Stop::Malformed(error) => return self.end(slot, &CloseReason::Wire(error)),
        }
        self.connections.arm(slot);
    }
}
