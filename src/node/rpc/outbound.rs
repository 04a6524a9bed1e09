//! Requests to peers: a purpose becomes a message on a connection, and its outcome returns to the part of
//! the node that asked.
//!
//! A message is composed from its purpose when it leaves. So a request that waits for a connection, or is
//! sent a second time, never carries an outdated age of a record.
//!
//! Every outcome passes through [`Node::on_outcome`], which knows the owner of each purpose. The owner gets
//! exactly one final outcome of each request that [`Node::call`] has accepted.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;

use crate::contact::Contact;
use crate::id::{Key, NodeId, RpcId};
use crate::limits::PENDING_MAX;
use crate::node::Node;
use crate::node::action::{Actions, ConnId, DialError};
use crate::node::purpose::{Copied, Outcome, Purpose};
use crate::node::rpc::peers::{Conn, Ending};
use crate::node::timers::Timers;
use crate::pending::{Deadlines, Passed, Request as PendingRequest, Taken};
use crate::record::{Record, age_at};
use crate::time::{Now, Time};
use crate::wire::peer::{ErrorCode, PeerMessage, RecordBlock, Reply, Request, Want};

/// A request to a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) to: Contact,
    pub(crate) purpose: Purpose,
    /// The connection that carries it; `None` while it waits for one.
    pub(crate) conn: Option<ConnId>,
    /// Whether it was sent again because its first connection ended.
    pub(crate) is_retry: bool,
    /// When it was sent, or began to wait for a connection.
    since: Time,
    /// When it was first sent.
    begun: Time,
    /// How often the peer, or the own outbox, had no room for it.
    refusals: u32,
    /// Whether its owner has had the final outcome: a late reply is still used, but not awaited.
    pub(crate) expired: bool,
}

/// A request, and what happened to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report<'a> {
    pub(crate) call: &'a Call,
    pub(crate) outcome: Outcome<'a>,
}

/// The pause before a request is sent again that was refused for want of room; further pauses double.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);

/// The longest such pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Requests that were refused for want of room and are sent again after a pause.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    calls: BTreeMap<u64, Call>,
    due: Timers<u64>,
    next: u64,
}

impl BackOff {
    /// When the next request is sent again.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.due.next()
    }
}

/// Sending again after a pause.
impl Node {
    /// The peer has no room for `call` now (ERROR 429), or the outbox has none. The request is sent again after
    /// a pause, as long as its owner may wait for it; the refusal says nothing about what the peer stores.
    fn back_off(&mut self, now: Now, call: Call, out: &mut Actions) {
        let pause = BACK_OFF_MIN * 2_u32.saturating_pow(call.refusals.min(10));
        let pause = self.jitter(pause.min(BACK_OFF_MAX));
        let may_wait = now.mono + pause < call.begun + self.params.request_timeout;
        let has_own_pause =
            matches!(call.purpose, Purpose::Offer(_) | Purpose::Ping | Purpose::AskTime | Purpose::Relay(..));
        if call.expired || !may_wait || has_own_pause || self.back_off.calls.len() >= PENDING_MAX {
            return self.on_outcome(now, &call, Outcome::Failed, out);
        }
        let id = self.back_off.next;
        self.back_off.next += 1;
        self.back_off.calls.insert(id, Call { refusals: call.refusals + 1, ..call });
        self.back_off.due.set(id, now.mono + pause);
        if matches!(call.purpose, Purpose::Lookup(_)) {
            self.on_outcome(now, &call, Outcome::Passed(Passed::Hedge), out); // it may ask another node too
        }
    }

    /// Sends the requests again whose pause is over.
    pub(crate) fn send_again(&mut self, now: Now, out: &mut Actions) {
        while let Some(id) = self.back_off.due.take_next(now.mono) {
            let Some(call) = self.back_off.calls.remove(&id) else { continue };
            if !self.send_or_dial(now, Call { conn: None, since: now.mono, ..call }, out) {
                self.on_outcome(now, &call, Outcome::Failed, out);
            }
        }
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
}

/// Sending.
impl Node {
    /// Sends a request to `to`. `false` if a bound refuses it; then no outcome follows.
    pub(crate) fn call(&mut self, now: Now, to: Contact, purpose: Purpose, out: &mut Actions) -> bool {
        let call = Call {
            to,
            purpose,
            conn: None,
            is_retry: false,
            since: now.mono,
            begun: now.mono,
            refusals: 0,
            expired: false,
        };
        self.send_or_dial(now, call, out)
    }

    /// Sends a request again whose connection ended.
    pub(crate) fn call_again(&mut self, now: Now, call: &Call, out: &mut Actions) -> bool {
        self.send_or_dial(now, Call { conn: None, is_retry: true, since: now.mono, ..*call }, out)
    }

    fn send_or_dial(&mut self, now: Now, call: Call, out: &mut Actions) -> bool {
        if self.has_left() {
            return false;
        }
        let route = self.peers.route(&call.to.id);
        if route.is_none() && !self.dial_to_ask(call.to, out) {
            return false;
        }
        let rpc = RpcId::new(self.rng.random());
        let timeout_at = now.mono + self.params.rpc_timeout;
        let deadlines = match route {
            Some(conn) => self.deadlines(now, conn, call.purpose, timeout_at),
            // A handshake takes a few round trips.
            None => Deadlines { hedge_at: now.mono + self.params.rpc_timeout / 2, ..Deadlines::at(timeout_at) },
        };
        if self.pending.insert(rpc, call.to.id, call, deadlines).is_err() {
            self.counters.requests_dropped += 1;
            return false;
        }
        match route {
            Some(conn) => self.transmit(now, conn, rpc, out),
            None if self.peers.wait_for_dial(&call.to.id, rpc) => {}
            None => {
                self.pending.take(&rpc, &call.to.id);
                self.counters.requests_dropped += 1;
                return false;
            }
        }
        true
    }

    /// The deadlines of a request that leaves on `conn`. Only lookups and copies of PUTs have some before
    /// `timeout_at`: for the others no other peer could help meanwhile.
    fn deadlines(&self, now: Now, conn: ConnId, purpose: Purpose, timeout_at: Time) -> Deadlines {
        let (rtts, rpc_timeout) = (self.peers.rtts(conn), self.params.rpc_timeout);
        let give_up_after = match purpose {
            Purpose::Lookup(_) => rtts.answers.give_up_after(rpc_timeout),
            Purpose::Copy(Copied::Put(_)) => rtts.give_up_on_copy_after(rpc_timeout),
            Purpose::Copy(Copied::Repair(_) | Copied::HandOver(_))
            | Purpose::Fetch(_)
            | Purpose::ProbeVersion(_)
            | Purpose::Relay(..)
            | Purpose::Ping
            | Purpose::AskTime
            | Purpose::Offer(_)
            | Purpose::Sync(_)
            | Purpose::FetchMissing(_) => return Deadlines::at(timeout_at),
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

    /// Sends a pending request on `conn`; it fails if its purpose no longer exists.
    fn transmit(&mut self, now: Now, conn: ConnId, rpc: RpcId, out: &mut Actions) {
        let Some(call) = self.pending.get_mut(&rpc).filter(|call| !call.expired) else { return };
        call.conn = Some(conn);
        call.since = now.mono;
        let call = *call;
        if self.compose(now, conn, rpc, &call, out) {
            if let Some(conn) = self.peers.conns.get_mut(&conn) {
                conn.calls += 1;
            }
            self.counters.rpcs_sent += 1;
        } else {
            self.pending.take(&rpc, &call.to.id);
            self.on_outcome(now, &call, Outcome::Failed, out);
        }
    }

    /// Writes the message of a request. `false` if its purpose no longer exists.
    fn compose(&mut self, now: Now, conn: ConnId, rpc: RpcId, call: &Call, out: &mut Actions) -> bool {
        let request = match call.purpose {
            Purpose::Copy(copied) => return self.write_copy(now, conn, rpc, copied, out),
            Purpose::Relay(attempt, family) => return self.write_relay(now, conn, rpc, attempt, family, out),
            Purpose::Offer(offer) => return self.write_offer(now, conn, rpc, offer, out),
            Purpose::Lookup(query) => self.lookup_request(query, &call.to.id),
            Purpose::Fetch(query) => self.queries.get(query).map(|get| value_request(get.key)),
            Purpose::ProbeVersion(attempt) => {
                self.queries.attempt(attempt).map(|put| Request::Sync { from: put.key(), to: put.key() })
            }
            Purpose::Ping => Some(Request::Ping),
            Purpose::AskTime => Some(Request::Time),
            Purpose::Sync(from) => self.sync_request(from),
            Purpose::FetchMissing(key) => {
                Some(Request::FindValue { key, want: Want { catching_up: true, ..Want::default() } })
            }
        };
        let Some(request) = request else { return false };
        out.send(conn, &PeerMessage::Request(rpc, request), None);
        true
    }
}

/// Outcomes.
impl Node {
    /// A reply has arrived on the connection `from`.
    pub(crate) fn on_reply(&mut self, now: Now, from: &Conn, rpc: RpcId, reply: Reply<'_>, out: &mut Actions) {
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
            Purpose::Relay(..) => matches!(reply, Reply::Stored { .. } | Reply::Error(_)),
            Purpose::ProbeVersion(_) | Purpose::Sync(_) => matches!(reply, Reply::Synced { .. }),
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
        let report = Report { call, outcome };
        match call.purpose {
            Purpose::Lookup(query) => self.on_lookup_outcome(now, query, report, out),
            Purpose::Fetch(query) => self.on_fetch_outcome(now, query, report, out),
            Purpose::ProbeVersion(attempt) => self.on_probe_outcome(now, attempt, report, out),
            Purpose::Copy(copied) => self.on_copy_outcome(now, copied, report, out),
            Purpose::Relay(attempt, _) => self.on_relay_outcome(now, attempt, report, out),
            Purpose::Ping => self.on_ping_outcome(&call.to.id),
            Purpose::AskTime => self.on_time_outcome(now, report, out),
            Purpose::Offer(offer) => self.on_offer_outcome(now, offer, outcome),
            Purpose::Sync(from) => self.on_sync_outcome(now, from, report),
            Purpose::FetchMissing(key) => self.on_missing_outcome(now, key, report),
        }
    }

    /// The requests in flight to `to` that `which` selects fail, in the order in which they were made.
    pub(crate) fn fail_calls(&mut self, now: Now, to: &NodeId, which: impl Fn(&Call) -> bool, out: &mut Actions) {
        for (_, request) in self.pending.cut_off(to, which) {
            self.on_outcome(now, &request.why, Outcome::Failed, out);
        }
    }

    /// Handles the deadlines that have passed by `now`.
    ///
    /// A slow reply matters to lookups only: they ask another peer meanwhile.
    pub(crate) fn pass_deadlines(&mut self, now: Now, out: &mut Actions) {
        while let Some((_, passed, request)) = self.pending.passed(now.mono) {
            let call = request.why;
            let is_final = match passed {
                Passed::Hedge => false,
                Passed::GiveUp => self.queries.can_replace(call.purpose),
                Passed::Timeout => true,
            };
            request.why.expired |= is_final;
            if is_final || matches!(call.purpose, Purpose::Lookup(_)) {
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
                self.hang_up(now, conn, Ending::Failed, out);
                self.probe(call.to, out);
            }
            // The peer sends, but does not answer: a PING decides whether it stays in the table.
            Some(conn) => {
                self.end_call(now, conn, out);
                if call.purpose == Purpose::Ping {
                    self.contact_failed(now, &call.to.id, out);
                    self.note_absent(now, call.to, DialError::Unreachable);
                } else {
                    self.ping(now, call.to, out);
                }
            }
            None => self.not_reached(now, call.to, DialError::Unreachable, out),
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
