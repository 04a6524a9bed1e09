//! Requests to peers: a purpose becomes a message on a connection, and its outcome returns to the part of
//! the node that asked.
//!
//! A message is composed from its purpose when it leaves. So a request that waits for a connection, or is
//! sent a second time, never carries an outdated age of a record.
//!
//! Every outcome passes through [`Node::on_outcome`], which knows the owner of each purpose. The owner gets
//! exactly one final outcome of each request. No bound turns into an outcome: a request without room waits
//! ([`crate::node::rpc::waiting`]), and if too many wait, its owner does ([`Node::may_call`]).

use std::time::Duration;

use rand::RngExt;

use crate::contact::{Contact, Family};
use crate::id::{Key, NodeId, RpcId};
use crate::limits::{
    HEAD_REPLY_SIZE_MAX, PEER_MESSAGE_SIZE_MAX, PROBE_REPLY_SIZE_MAX, STORE_REPLY_SIZE, SYNC_REPLY_SIZE_MAX,
    WANT_SIZE_MAX,
};
use crate::node::Node;
use crate::node::action::{Actions, ConnId, DialError};
use crate::node::purpose::{Attempt, Copied, OfferId, Outcome, Purpose};
use crate::node::rpc::bridges::Loss;
use crate::node::rpc::peers::{Conn, Ending};
use crate::pending::{Answer, AnswerKind, Deadlines, Passed, Request as PendingRequest, Taken};
use crate::record::{Record, age_at};
use crate::time::{Now, Time};
use crate::wire::peer::{ErrorCode, PeerMessage, RecordBlock, Reply, Request, Want};

/// A bridge has not answered a RELAY after this number of `rpc_timeout`: one for each stage of its PUT, which are a
/// lookup, copies and version probes.
const RELAY_TIMEOUTS: u32 = 3;

/// A request to a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) to: Contact,
    pub(crate) purpose: Purpose,
    /// The connection that carries it; `None` while it waits for one.
    pub(crate) conn: Option<ConnId>,
    /// How often it was sent again because its connection ended.
    pub(crate) cut_offs: u8,
    /// When it was sent, or began to wait for a connection.
    pub(crate) since: Time,
    /// When its owner made it.
    pub(crate) begun: Time,
    /// When it times out, if it was sent before and is sent again: its connection has ended meanwhile.
    pub(super) timeout_at: Option<Time>,
    /// How often the peer, or this node, had no room for it.
    pub(crate) refusals: u32,
    /// Whether it has waited for an answer of its peer, and it is its turn.
    pub(super) has_waited: bool,
    /// Whether its owner has had the final outcome: a late reply is still used, but not awaited.
    pub(crate) expired: bool,
}

/// A request, and what happened to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report<'a> {
    pub(crate) call: &'a Call,
    pub(crate) outcome: Outcome<'a>,
}

/// Sending.
impl Node {
    /// Sends a request to `to`, now or when there is room for it. The caller has made sure that it may
    /// wait ([`Node::may_call`]).
    pub(crate) fn call(&mut self, now: Now, to: Contact, purpose: Purpose, out: &mut Actions) {
        let call = Call {
            to,
            purpose,
            conn: None,
            cut_offs: 0,
            since: now.mono,
            begun: now.mono,
            timeout_at: None,
            refusals: 0,
            has_waited: false,
            expired: false,
        };
        self.dispatch(now, call, out);
    }

    /// Whether a request can be made that is sent now or waits. If not, its owner waits.
    pub(crate) fn may_call(&self) -> bool {
        self.waiting.has_room()
    }

    /// Sends a request again whose connection ended. It keeps its deadline: otherwise a peer that connects again and again
    /// would put it off.
    pub(super) fn call_again(&mut self, now: Now, request: &PendingRequest<Call>, out: &mut Actions) {
        let call = request.why;
        let (cut_offs, timeout_at) = (call.cut_offs + 1, Some(request.deadlines.timeout_at));
        self.dispatch(now, Call { conn: None, cut_offs, timeout_at, has_waited: false, ..call }, out);
    }

    /// Sends `call`, dials its peer, or lets it wait. A node that has left sends nothing.
    pub(super) fn dispatch(&mut self, now: Now, call: Call, out: &mut Actions) {
        if !self.has_left() && !self.send_or_dial(now, Call { since: now.mono, ..call }, out) {
            self.counters.requests_dropped += 1;
            self.back_off(now, call, out);
        }
    }

    /// `false` if a bound of this node refuses it.
    fn send_or_dial(&mut self, now: Now, call: Call, out: &mut Actions) -> bool {
        let route = self.peers.route(&call.to.id);
        if route.is_none() && !self.dial_to_ask(call.to, out) {
            return false;
        }
        let rpc = RpcId::new(self.rng.random());
        let timeout_at = call.timeout_at.unwrap_or(now.mono + self.timeout_of(call.purpose));
        let deadlines = match route {
            Some(conn) => self.deadlines(now, conn, call.purpose, timeout_at),
            None => self.deadlines_of_dial(now, timeout_at),
        };
        if self.pending.insert(rpc, call.to.id, call, deadlines).is_err() {
            return false;
        }
        match route {
            Some(conn) => self.transmit(now, conn, rpc, out),
            None if self.peers.wait_for_dial(&call.to.id, rpc) => {}
            None => {
                self.pending.take(&rpc, &call.to.id);
                return false;
            }
        }
        true
    }

    /// The host had no room for the request `rpc` in the outbox of `conn`.
    pub fn on_unsent(&mut self, now: Now, conn: ConnId, rpc: RpcId, out: &mut Actions) {
        if let Some(peer) = self.peers.find(conn).map(|conn| conn.peer)
            && let Taken::InFlight(call) = self.pending.take(&rpc, &peer)
        {
            self.end_call(now, conn, out);
            self.back_off(now, call, out);
        }
        self.finish(now, out);
    }

    /// The time after which a peer has not answered. A bridge answers a RELAY after a lookup and copies of its own, in
    /// which it waits for nodes that do not answer.
    fn timeout_of(&self, purpose: Purpose) -> Duration {
        let rpc_timeout = self.params.rpc_timeout;
        if matches!(purpose, Purpose::Relay(..)) { RELAY_TIMEOUTS * rpc_timeout } else { rpc_timeout }
    }

    /// The deadlines of a request that waits for a dial. A handshake takes a few round trips.
    fn deadlines_of_dial(&self, now: Now, timeout_at: Time) -> Deadlines {
        let rpc_timeout = self.params.rpc_timeout;
        let give_up_at = (now.mono + rpc_timeout).min(timeout_at);
        Deadlines { hedge_at: (now.mono + rpc_timeout / 2).min(give_up_at), give_up_at, timeout_at }
    }

    /// The deadlines of a request that leaves on `conn`. Lookups, copies of PUTs and RELAY have some before
    /// `timeout_at`: for the others no other peer could help meanwhile.
    fn deadlines(&self, now: Now, conn: ConnId, purpose: Purpose, timeout_at: Time) -> Deadlines {
        let (rtts, rpc_timeout) = (self.peers.rtts(conn), self.params.rpc_timeout);
        let give_up_after = match purpose {
            Purpose::Lookup(_) => rtts.answers.give_up_after(rpc_timeout),
            Purpose::Copy(Copied::Put(_)) => rtts.give_up_on_copy_after(rpc_timeout),
            Purpose::Copy(Copied::Repair(_) | Copied::HandOver(_))
            | Purpose::Fetch(_)
            | Purpose::ProbeVersion(_)
            | Purpose::AskVersion(_)
            | Purpose::Ping
            | Purpose::AskTime
            | Purpose::Offer(_)
            | Purpose::Sync(_) => return Deadlines::at(timeout_at),
            Purpose::Relay(..) => {
                let late_at = (now.mono + rpc_timeout).min(timeout_at);
                return Deadlines { hedge_at: late_at, give_up_at: late_at, timeout_at };
            }
            // Many values may be under way. No client waits for them, and any other answer shows that the peer lives.
            Purpose::FetchMissing(_) => return Deadlines::at(now.mono + self.params.request_timeout),
        };
        let give_up_at = (now.mono + give_up_after).min(timeout_at);
        let hedge_at = (now.mono + rtts.answers.hedge_after(rpc_timeout)).min(give_up_at);
        Deadlines { hedge_at, give_up_at, timeout_at }
    }

    /// Sends a request that has waited for `conn`, if it is still pending.
    pub(crate) fn transmit_waiting(&mut self, now: Now, conn: ConnId, rpc: RpcId, out: &mut Actions) {
        if let Some(&PendingRequest { why: call, deadlines, .. }) = self.pending.find(&rpc) {
            self.pending.put_off(&rpc, self.deadlines(now, conn, call.purpose, deadlines.timeout_at));
            self.transmit(now, conn, rpc, out);
        }
    }

    /// Sends a pending request on `conn`, or lets it wait if the peer owes too much. It fails if its purpose no
    /// longer exists.
    fn transmit(&mut self, now: Now, conn: ConnId, rpc: RpcId, out: &mut Actions) {
        let Some(call) = self.pending.in_flight_mut(&rpc) else { return };
        call.conn = Some(conn);
        call.since = now.mono;
        let call = *call;
        let message = self.message_of(&call);
        if let Some(answer) = message.as_ref().map(Message::largest_answer) {
            let is_turn = call.has_waited || !self.waiting.is_queued(&call.to.id, answer.kind);
            if !is_turn || !self.pending.has_room_for(&call.to.id, answer) {
                self.pending.take(&rpc, &call.to.id);
                let call = Call { conn: None, timeout_at: None, has_waited: false, ..call };
                return self.wait_for_answer(now, call, answer.kind);
            }
            self.pending.owe(&rpc, answer);
        }
        if message.is_some_and(|message| self.write(now, conn, rpc, message, out)) {
            if let Some(conn) = self.peers.conns.get_mut(&conn) {
                conn.calls += 1;
            }
            self.counters.rpcs_sent += 1;
        } else {
            self.pending.take(&rpc, &call.to.id);
            self.on_outcome(now, &call, Outcome::Failed, out);
        }
    }

    /// What a request says; `None` if its purpose no longer exists.
    fn message_of(&mut self, call: &Call) -> Option<Message> {
        Some(Message::Request(match call.purpose {
            Purpose::Copy(copied) => return Some(Message::Copy(copied)),
            Purpose::Relay(attempt, family) => return Some(Message::Relay(attempt, family)),
            Purpose::Offer(offer) => return Some(Message::Offer(offer)),
            Purpose::Lookup(query) => self.lookup_request(query, &call.to.id)?,
            Purpose::Fetch(query) => value_request(self.queries.read(query)?.key),
            Purpose::ProbeVersion(attempt) => {
                let key = self.queries.attempt(attempt)?.key();
                Request::Sync { from: key, to: key }
            }
            Purpose::AskVersion(key) => Request::Sync { from: key, to: key },
            Purpose::Ping => Request::Ping,
            Purpose::AskTime => Request::Time,
            Purpose::Sync(from) => self.sync_request(from)?,
            Purpose::FetchMissing(key) => {
                Request::FindValue { key, want: Want { catching_up: true, ..Want::default() } }
            }
        }))
    }

    /// Writes `message`. `false` if what it is about no longer exists.
    fn write(&mut self, now: Now, conn: ConnId, rpc: RpcId, message: Message, out: &mut Actions) -> bool {
        match message {
            Message::Copy(copied) => self.write_copy(now, conn, rpc, copied, out),
            Message::Relay(attempt, family) => self.write_relay(now, conn, rpc, attempt, family, out),
            Message::Offer(offer) => self.write_offer(now, conn, rpc, offer, out),
            Message::Request(request) => {
                out.send(conn, &PeerMessage::Request(rpc, request), None);
                true
            }
        }
    }
}

/// A request that is about to leave.
#[derive(Clone, Copy, Debug)]
enum Message {
    /// STORE of that copy.
    Copy(Copied),
    /// RELAY of the record of that PUT.
    Relay(Attempt, Family),
    /// That OFFER.
    Offer(OfferId),
    /// Any other request.
    Request(Request<'static>),
}

impl Message {
    /// The largest answer to it.
    fn largest_answer(&self) -> Answer {
        let (kind, bytes) = match self {
            Message::Request(Request::FindValue { want, .. }) if !want.head_only => {
                (AnswerKind::Value, PEER_MESSAGE_SIZE_MAX)
            }
            Message::Request(Request::FindValue { .. } | Request::FindNode { .. }) => {
                (AnswerKind::Listing, HEAD_REPLY_SIZE_MAX)
            }
            Message::Request(Request::Sync { from, to }) if from == to => (AnswerKind::Listing, PROBE_REPLY_SIZE_MAX),
            Message::Request(Request::Sync { .. }) => (AnswerKind::Listing, SYNC_REPLY_SIZE_MAX),
            Message::Offer(_) | Message::Request(Request::Offer(_)) => (AnswerKind::Acknowledgement, WANT_SIZE_MAX),
            Message::Copy(_)
            | Message::Relay(..)
            | Message::Request(Request::Store(_) | Request::Relay { .. } | Request::Ping | Request::Time) => {
                (AnswerKind::Acknowledgement, STORE_REPLY_SIZE)
            }
        };
        Answer { kind, bytes }
    }
}

/// Outcomes.
impl Node {
    /// A reply has arrived on the connection `id`, which is `from`.
    pub(crate) fn on_reply(
        &mut self,
        now: Now,
        id: ConnId,
        from: &Conn,
        rpc: RpcId,
        reply: Reply<'_>,
        out: &mut Actions,
    ) {
        let call = match self.pending.take(&rpc, &from.peer) {
            Taken::InFlight(call) => {
                if let Some(conn) = call.conn {
                    self.end_call(now, conn, out);
                }
                call
            }
            Taken::Expired(call) => call,
            Taken::Unknown => {
                self.counters.replies_dropped += 1;
                return;
            }
        };
        self.contact_answered(now, id, &from.peer, out);
        self.send_waiting(now, &from.peer, out);
        if let Some(conn) = call.conn.and_then(|conn| self.peers.conns.get_mut(&conn)) {
            let is_copy = matches!(call.purpose, Purpose::Copy(_));
            let rtt = if is_copy { &mut conn.rtts.copies } else { &mut conn.rtts.answers };
            rtt.observe(now.mono - call.since);
        }
        if matches!(reply, Reply::Error(ErrorCode::LEAVING)) {
            self.contact_left(now, &from.peer, out);
        }
        self.peer_answered(now, out);
        if matches!(reply, Reply::Error(ErrorCode::TOO_MANY)) {
            return self.back_off(now, call, out);
        }
        if self.is_answered_by(call.purpose, &reply) {
            return self.on_outcome(now, &call, Outcome::Reply { reply, address: from.address }, out);
        }
        if let Reply::Error(code) = reply {
            return self.on_outcome(now, &call, Outcome::Refused(code), out);
        }
        self.counters.replies_dropped += 1;
        self.on_outcome(now, &call, Outcome::Failed, out);
    }

    /// Whether a reply of this kind answers a request for `purpose`.
    fn is_answered_by(&self, purpose: Purpose, reply: &Reply<'_>) -> bool {
        match purpose {
            Purpose::Lookup(query) => match reply {
                Reply::Value { .. } => !self.queries.is_maintenance(query),
                other => matches!(other, Reply::Nodes(_)),
            },
            Purpose::Fetch(_) => matches!(reply, Reply::Value { .. } | Reply::Nodes(_)),
            Purpose::FetchMissing(key) => match reply {
                Reply::Value { record, .. } => record.key == key,
                other => matches!(other, Reply::Nodes(_)),
            },
            Purpose::Copy(_) => matches!(reply, Reply::Stored { .. }),
            // An error that comes late counts too: the PUT does not wait for that bridge any more.
            Purpose::Relay(..) => matches!(reply, Reply::Stored { .. } | Reply::Error(_)),
            Purpose::ProbeVersion(_) | Purpose::AskVersion(_) | Purpose::Sync(_) => {
                matches!(reply, Reply::Synced { .. })
            }
            Purpose::Ping => matches!(reply, Reply::Pong),
            Purpose::AskTime => matches!(reply, Reply::Time(_)),
            Purpose::Offer(_) => matches!(reply, Reply::Wanted(_)),
        }
    }

    /// Passes the outcome of a request to the part of the node that asked.
    ///
    /// A request that has expired has had its final outcome; after that only a reply is passed on.
    pub(super) fn on_outcome(&mut self, now: Now, call: &Call, outcome: Outcome<'_>, out: &mut Actions) {
        if call.expired && !matches!(outcome, Outcome::Reply { .. }) {
            return;
        }
        if matches!(outcome, Outcome::Passed(Passed::Timeout) | Outcome::Failed) {
            self.note_unheard(now, call.to, call.purpose);
        }
        let report = Report { call, outcome };
        match call.purpose {
            Purpose::Lookup(query) => self.on_lookup_outcome(now, query, report, out),
            Purpose::Fetch(query) => self.on_fetch_outcome(now, query, report, out),
            Purpose::ProbeVersion(attempt) => self.on_probe_outcome(now, attempt, report, out),
            Purpose::AskVersion(key) => self.on_unheard_outcome(now, key, report, out),
            Purpose::Copy(copied) => self.on_copy_outcome(now, copied, report, out),
            Purpose::Relay(attempt, _) => self.on_relay_outcome(now, attempt, report, out),
            Purpose::Ping => self.on_ping_outcome(&call.to.id),
            Purpose::AskTime => self.on_time_outcome(now, report, out),
            Purpose::Offer(offer) => self.on_offer_outcome(now, offer, outcome),
            Purpose::Sync(from) => self.on_sync_outcome(now, from, report),
            Purpose::FetchMissing(key) => self.on_missing_outcome(now, key, report),
        }
    }

    /// The requests to `to` that `which` selects fail: those in flight in the order in which they were made, then
    /// those that wait.
    pub(crate) fn fail_calls(&mut self, now: Now, to: &NodeId, which: impl Fn(&Call) -> bool, out: &mut Actions) {
        let waiting = self.waiting.take_all(to, &which);
        let in_flight = self.pending.cut_off(to, which).into_iter().map(|(_, request)| request.why);
        for call in in_flight.chain(waiting) {
            self.on_outcome(now, &call, Outcome::Failed, out);
        }
        self.resume_waiting_for_room(now, out);
    }

    /// Handles the deadlines that have passed by `now`.
    ///
    /// A slow reply matters to lookups, copies and RELAYs only: they ask another peer meanwhile.
    pub(crate) fn pass_deadlines(&mut self, now: Now, out: &mut Actions) {
        while let Some((_, passed, request)) = self.pending.passed(now.mono) {
            let call = request.why;
            let is_final = passed == Passed::Timeout;
            request.why.expired |= is_final;
            let may_be_late = matches!(call.purpose, Purpose::Lookup(_) | Purpose::Relay(..) | Purpose::Copy(_));
            if is_final || may_be_late {
                self.on_outcome(now, &call, Outcome::Passed(passed), out);
            }
            if passed == Passed::Timeout {
                self.counters.rpcs_silent += 1;
                self.peer_timed_out(now, &call, out);
            }
        }
    }

    /// A request has no reply after `rpc_timeout`: that counts against its peer.
    fn peer_timed_out(&mut self, now: Now, call: &Call, out: &mut Actions) {
        match call.conn {
            // No message at all has arrived since it was sent: the connection is dead, but the peer may have
            // restarted meanwhile.
            Some(conn) if self.peers.find(conn).is_some_and(|conn| conn.last_heard < call.since) => {
                let has_reconnected = self.peers.heard_since(&call.to.id, call.since);
                self.hang_up(now, conn, if has_reconnected { Ending::Closed } else { Ending::Failed }, out);
                self.probe(call.to, out);
                if has_reconnected {
                    self.doubt(now, call, out);
                }
            }
            // The peer sends, but does not answer.
            Some(conn) => {
                self.end_call(now, conn, out);
                self.doubt(now, call, out);
            }
            None => self.not_reached(now, call.to, DialError::Unreachable, out),
        }
    }

    /// A peer that sends has left `call` without an answer: a PING decides whether it stays live. A PING may have been lost
    /// with its connection, so a second one follows on another.
    fn doubt(&mut self, now: Now, call: &Call, out: &mut Actions) {
        let is_lost = call.conn.is_some_and(|conn| self.peers.find(conn).is_none());
        if call.purpose != Purpose::Ping {
            self.ping(now, call.to, out);
        } else if is_lost && call.cut_offs == 0 {
            if self.begin_ping(call.to.id) {
                self.dispatch(now, Call { conn: None, cut_offs: 1, timeout_at: None, ..*call }, out);
            }
        } else {
            self.contact_failed(now, &call.to.id, Loss::Silent, out);
            self.note_absent(now, call.to, DialError::Unreachable);
        }
    }
}

fn value_request(key: Key) -> Request<'static> {
    Request::FindValue { key, want: Want::default() }
}

/// The record block of `record`, sent at `now`.
pub(crate) fn block_of(record: &Record, expires: Time, now: Time) -> RecordBlock<'_> {
    RecordBlock::of(record, age_at(now, record.ttl, expires))
}
