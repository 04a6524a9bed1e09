//! Asking peers: from a purpose to a request on a connection, and from its reply, its silence
//! or its failure back to whoever wanted it.
//!
//! What is asked follows from the purpose alone, so a request that waits for a connection, or is
//! sent once more, is encoded when it leaves: the age of a record is never stale.

use std::net::SocketAddr;

use rand::RngExt;

use crate::contact::{Contact, is_dialable};
use crate::id::{Key, NodeId, RpcId};
use crate::lookup::Step;
use crate::node::Node;
use crate::node::action::{Actions, ConnId, DialError};
use crate::node::query::QueryId;
use crate::node::query::read_repair::RepairId;
use crate::node::replication::schedule::OfferId;
use crate::node::rpc::peers::Ending;
use crate::pending::{Deadlines, Passed, Request as PendingRequest, Taken};
use crate::record::{Record, age_at};
use crate::time::{Now, Time};
use crate::wire::codec::List;
use crate::wire::peer::{PeerMessage, RecordBlock, Reply, Request, StoreOutcome, Want};

/// A request to a peer, and what it is for.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Ask {
    /// Whom.
    pub(in crate::node) to: Contact,
    /// What for.
    pub(in crate::node) why: Purpose,
    /// Over which connection it went out; `None` while it waits for one.
    pub(in crate::node) conn: Option<ConnId>,
    /// Whether it was cut off once already.
    pub(in crate::node) again: bool,
    /// When it went out, or began to wait.
    since: Time,
    /// Whether whoever wanted the answer goes on without it.
    pub(in crate::node) expired: bool,
}

/// What a peer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Purpose {
    /// The next step of a search: FIND VALUE for a GET; for a PUT too, to learn who holds an older
    /// record; FIND NODE otherwise.
    Lookup(QueryId),
    /// The value of which it has told a GET the head.
    Fetch(QueryId),
    /// A copy of what a PUT stores, in its spreading of that number.
    Store(QueryId, u32),
    /// Which record of the key of a PUT a bystander of that spreading holds.
    VersionProbe(QueryId, u32),
    /// A copy of what a GET has found, for it was behind.
    Repair(RepairId),
    /// Whether it is there.
    Ping,
    /// A copy of a record that it lacks.
    HandOver(Key),
    /// Which of the records that it is offered it lacks.
    Offer(OfferId),
    /// What it holds, from that key on.
    Sync(Key),
    /// A record that it holds and this node has missed.
    FetchMissing(Key),
}

impl Purpose {
    /// Whether a copy is handed over: whoever takes it may wait for its disk.
    fn is_copy(self) -> bool {
        matches!(self, Purpose::Store(..) | Purpose::Repair(_) | Purpose::HandOver(_))
    }
}

/// Sending.
impl Node {
    /// Asks `to`. `false` if a bound was met and nobody is asked.
    pub(in crate::node) fn ask(&mut self, now: Now, to: Contact, why: Purpose, out: &mut Actions) -> bool {
        let ask = Ask { to, why, conn: None, again: false, since: now.mono, expired: false };
        self.send_or_dial(now, ask, out)
    }

    /// Asks once more what was cut off.
    pub(in crate::node) fn ask_again(&mut self, now: Now, request: &PendingRequest<Ask>, out: &mut Actions) -> bool {
        let ask = Ask { conn: None, again: true, since: now.mono, expired: false, ..request.why };
        self.send_or_dial(now, ask, out)
    }

    fn send_or_dial(&mut self, now: Now, ask: Ask, out: &mut Actions) -> bool {
        if self.has_left() {
            return false;
        }
        let route = self.peers.route(&ask.to.id);
        if route.is_none() && !self.dial_to_ask(ask.to, out) {
            return false;
        }
        let rpc = RpcId::new(self.rng.random());
        let timeout_at = now.mono + self.params.rpc_timeout;
        let deadlines = match route {
            Some(conn) => self.deadlines(now, conn, ask.why, timeout_at),
            // A handshake takes a few round trips.
            None => Deadlines { hedge_at: now.mono + self.params.rpc_timeout / 2, ..Deadlines::at(timeout_at) },
        };
        if self.pending.insert(rpc, ask.to.id, ask, deadlines).is_err() {
            self.counters.requests_dropped += 1;
            return false;
        }
        match route {
            Some(conn) => self.transmit(now, conn, rpc, out),
            None if self.peers.wait_for_dial(&ask.to.id, rpc) => {}
            None => {
                self.pending.take(&rpc, &ask.to.id);
                self.counters.requests_dropped += 1;
                return false;
            }
        }
        true
    }

    /// Until when a request that goes out over `conn` may be without its answer; at `timeout_at` at the
    /// latest, and only then where others could not give it meanwhile.
    fn deadlines(&self, now: Now, conn: ConnId, why: Purpose, timeout_at: Time) -> Deadlines {
        if !matches!(why, Purpose::Lookup(_) | Purpose::Store(..)) {
            return Deadlines::at(timeout_at);
        }
        let (rtts, rpc_timeout) = (self.peers.rtts(conn), self.params.rpc_timeout);
        let give_up_at = match why {
            Purpose::Store(..) => rtts.give_up_on_copy_after(rpc_timeout),
            _ => rtts.answers.give_up_after(rpc_timeout),
        };
        let give_up_at = (now.mono + give_up_at).min(timeout_at);
        Deadlines {
            hedge_at: (now.mono + rtts.answers.hedge_after(rpc_timeout)).min(give_up_at),
            give_up_at,
            timeout_at,
        }
    }

    /// Sends a request that has waited for `conn`, unless it is over, or nobody wants it any more.
    pub(in crate::node) fn transmit_late(&mut self, now: Now, conn: ConnId, rpc: RpcId, out: &mut Actions) {
        if let Some(&PendingRequest { why: ask, deadlines: Deadlines { timeout_at, .. }, .. }) = self.pending.find(&rpc)
        {
            self.pending.put_off(&rpc, self.deadlines(now, conn, ask.why, timeout_at));
            self.transmit(now, conn, rpc, out);
        }
    }

    /// Sends a pending request over `conn`, unless it is over, or nobody wants it any more.
    fn transmit(&mut self, now: Now, conn: ConnId, rpc: RpcId, out: &mut Actions) {
        let Some(ask) = self.pending.get_mut(&rpc).filter(|ask| !ask.expired) else { return };
        ask.conn = Some(conn);
        ask.since = now.mono;
        let ask = *ask;
        if self.write_request(now, conn, rpc, &ask, out) {
            self.peers.asked(conn);
            self.counters.rpcs_sent += 1;
        } else {
            self.pending.take(&rpc, &ask.to.id);
        }
    }

    fn write_request(&mut self, now: Now, conn: ConnId, rpc: RpcId, ask: &Ask, out: &mut Actions) -> bool {
        let to = ask.to.id;
        let store = |record: &Record, expires: Time, out: &mut Actions| {
            let block = block_of(record, expires, now.mono);
            out.send(conn, &PeerMessage::Request(rpc, Request::Store(block)), Some(record.value.clone()));
        };
        match ask.why {
            Purpose::Ping => out.send(conn, &PeerMessage::Request(rpc, Request::Ping), None),
            Purpose::Lookup(query) => match self.find_value_for(query, &to) {
                Some(request) => out.send(conn, &PeerMessage::Request(rpc, request), None),
                None => return false,
            },
            Purpose::Fetch(query) => match self.queries.get(query) {
                Some(get) => {
                    let request = Request::FindValue { key: get.key, want: Want::default() };
                    out.send(conn, &PeerMessage::Request(rpc, request), None);
                }
                None => return false,
            },
            Purpose::Store(query, attempt) => match self.queries.put(query) {
                Some(put) if put.attempt == attempt => store(&put.record, put.expires, out),
                Some(_) | None => return false,
            },
            Purpose::VersionProbe(query, attempt) => match self.queries.put(query) {
                Some(put) if put.attempt == attempt => {
                    let only = put.record.key;
                    let request = Request::Sync { from: only, to: only };
                    out.send(conn, &PeerMessage::Request(rpc, request), None);
                }
                Some(_) | None => return false,
            },
            Purpose::Repair(id) => match self.repairs.copy(id) {
                Some((record, expires)) => store(record, expires, out),
                None => return false,
            },
            Purpose::HandOver(key) => {
                if let Some(held) = self.storage.find(now.mono, &key) {
                    store(&held.record, held.expires, out);
                    self.counters.repairs += 1;
                } else {
                    self.handed(now, &to);
                    return false;
                }
            }
            Purpose::Offer(offer) => return self.write_offer(now, conn, rpc, offer, out),
            Purpose::Sync(from) => return self.write_sync(conn, rpc, from, out),
            Purpose::FetchMissing(key) => {
                let request = Request::FindValue { key, want: Want::default() };
                out.send(conn, &PeerMessage::Request(rpc, request), None);
            }
        }
        true
    }

    /// Takes the next step of a search, as often as it wants one.
    pub(in crate::node) fn drive(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        loop {
            let enough = self.queries.answers_missing(query);
            let Some(lookup) = self.queries.lookup(query) else { return };
            let step = match enough {
                Some(enough) => lookup.step_frugally(enough, |id| self.peers.smoothed_rtt(id)),
                None => lookup.step(),
            };
            match step {
                Step::Ask(contact) => {
                    if !self.ask(now, contact, Purpose::Lookup(query), out)
                        && let Some(lookup) = self.queries.lookup(query)
                    {
                        lookup.on_timeout(&contact.id);
                        self.value_missed(query, &contact.id);
                    }
                }
                Step::Wait => return self.read_on(now, query, out),
                Step::Done => return self.lookup_done(now, query, out),
            }
        }
    }
}

/// What becomes of a request.
impl Node {
    /// `id` takes longer to answer a search than most would: another is asked meanwhile.
    pub(in crate::node) fn hedge(&mut self, now: Now, query: QueryId, id: &NodeId, out: &mut Actions) {
        if let Some(lookup) = self.queries.lookup(query) {
            lookup.on_hedge(id);
            self.value_missed(query, id);
            self.drive(now, query, out);
        }
    }

    /// `id` takes too long to answer the search of a PUT: another takes its place, if there is one. A
    /// GET waits for it, for it may hold the value.
    fn give_up_on(&mut self, now: Now, query: QueryId, id: &NodeId, out: &mut Actions) {
        if self.queries.put(query).is_some()
            && let Some(lookup) = self.queries.lookup(query)
        {
            lookup.on_give_up(id);
            self.drive(now, query, out);
        }
    }

    /// A reply came in over `conn` from `from`, who sits at `address`.
    pub(in crate::node) fn on_reply(
        &mut self,
        now: Now,
        from: (NodeId, SocketAddr),
        rpc: RpcId,
        reply: Reply<'_>,
        out: &mut Actions,
    ) {
        let (from, address) = from;
        let ask = match self.pending.take(&rpc, &from) {
            Taken::InFlight(ask) => {
                if let Some(conn) = ask.conn {
                    self.peers.answered(conn);
                    self.close_if_retired(now, conn, out);
                }
                ask
            }
            Taken::Expired(ask) => ask,
            Taken::Unknown => {
                self.counters.replies_dropped += 1;
                return;
            }
        };
        if let Some(rtts) = ask.conn.and_then(|conn| self.peers.rtts_mut(conn)) {
            let of = if ask.why.is_copy() { &mut rtts.copies } else { &mut rtts.answers };
            of.observe(now.mono - ask.since);
        }
        self.someone_answered(now, out);
        match (ask.why, reply) {
            (Purpose::Lookup(query), Reply::Nodes(contacts)) => {
                self.nothing_heard(query, ask.to);
                self.nodes_found(now, query, from, address, contacts, out);
            }
            (Purpose::Lookup(query), Reply::Value { contacts, record }) if self.may_find_value(query) => {
                self.record_heard(now, query, ask.to, &record, out);
                self.nodes_found(now, query, from, address, contacts, out);
            }
            (Purpose::Fetch(query), Reply::Value { record, .. }) => self.record_heard(now, query, ask.to, &record, out),
            (Purpose::Fetch(query), Reply::Nodes(_)) => {
                self.nothing_heard(query, ask.to);
                self.drive(now, query, out);
            }
            (Purpose::Store(query, attempt), Reply::Stored { key, outcome, held })
                if self.is_current(query, attempt, &key) =>
            {
                if outcome == StoreOutcome::Held {
                    self.heard_to_hold(now, &key, held, &from);
                }
                self.copy_answered(now, query, &ask, (outcome, held), out);
            }
            (Purpose::VersionProbe(query, attempt), Reply::Synced { entries, .. }) => {
                self.version_probed(now, query, attempt, &ask, entries.iter().next(), out);
            }
            (Purpose::Ping, Reply::Pong) => self.ping_done(&from),
            (Purpose::HandOver(key), Reply::Stored { key: of, outcome, held }) if of == key => {
                self.copy_taken(now, &ask, &key, (outcome, held));
            }
            (Purpose::Offer(offer), Reply::Wanted(keys)) => self.offer_answered(now, offer, keys),
            (Purpose::Sync(first), Reply::Synced { more, entries }) => self.page_told(now, &ask, first, more, entries),
            (Purpose::FetchMissing(key), Reply::Value { record, .. }) if record.key == key => {
                self.fetched(now, &ask, &record);
            }
            (Purpose::FetchMissing(_), Reply::Nodes(_)) => self.request_failed(now, &ask, out),
            (_, reply) => {
                let copy = matches!(ask.why, Purpose::HandOver(_) | Purpose::Store(..) | Purpose::Repair(_));
                let stored = copy && matches!(reply, Reply::Stored { .. });
                if !stored && !matches!(reply, Reply::Error(_)) {
                    self.counters.replies_dropped += 1;
                }
                self.request_failed(now, &ask, out);
            }
        }
    }

    fn nodes_found(
        &mut self,
        now: Now,
        query: QueryId,
        from: NodeId,
        address: SocketAddr,
        contacts: List<'_, Contact>,
        out: &mut Actions,
    ) {
        let families = self.params.families;
        let worth = move |contact: &Contact| is_dialable(contact.address, address) && families.reach(contact.address);
        let Some(lookup) = self.queries.lookup(query) else { return };
        if lookup.on_answer(&from, contacts.iter().filter(worth).take(self.params.k)) {
            self.drive(now, query, out);
        }
    }

    /// The request was not served, or the reply says all there is to it.
    fn request_over(&mut self, now: Now, ask: &Ask, out: &mut Actions) {
        match ask.why {
            Purpose::Lookup(query) => {
                self.value_missed(query, &ask.to.id);
                if let Some(lookup) = self.queries.lookup(query) {
                    lookup.on_failure(&ask.to.id);
                    self.drive(now, query, out);
                }
            }
            Purpose::Fetch(query) => {
                self.value_missed(query, &ask.to.id);
                self.drive(now, query, out);
            }
            Purpose::Store(query, attempt) => self.copy_failed(now, query, attempt, out),
            Purpose::VersionProbe(query, attempt) => self.version_probe_failed(now, query, attempt, out),
            Purpose::Repair(id) => self.repairs.copy_over(id),
            Purpose::Ping => self.ping_done(&ask.to.id),
            Purpose::HandOver(_) => self.handed(now, &ask.to.id),
            Purpose::Offer(offer) => self.offer_over(now, offer),
            Purpose::Sync(_) => self.neighbour_failed(now, &ask.to.id),
            Purpose::FetchMissing(key) => self.fetch_over(now, &key),
        }
    }

    /// The request was refused, which is no failure of the contact, or can never be answered: its
    /// connection is gone, or none came to be.
    pub(in crate::node) fn request_failed(&mut self, now: Now, ask: &Ask, out: &mut Actions) {
        if !ask.expired {
            self.request_over(now, ask, out);
        }
    }

    /// Those of `requests` that are not over fail.
    pub(in crate::node) fn fail_requests(&mut self, now: Now, requests: Vec<RpcId>, to: &NodeId, out: &mut Actions) {
        for rpc in requests {
            match self.pending.take(&rpc, to) {
                Taken::InFlight(ask) | Taken::Expired(ask) => self.request_failed(now, &ask, out),
                Taken::Unknown => {}
            }
        }
    }

    /// Does what follows from deadlines that have passed by `now`.
    pub(in crate::node) fn pass_deadlines(&mut self, now: Now, out: &mut Actions) {
        while let Some((_, passed, request)) = self.pending.passed(now.mono) {
            let ask = request.why;
            match (passed, ask.why) {
                (Passed::Hedge, Purpose::Lookup(query)) => self.hedge(now, query, &ask.to.id, out),
                (Passed::GiveUp, Purpose::Lookup(query)) => self.give_up_on(now, query, &ask.to.id, out),
                (Passed::GiveUp, Purpose::Store(query, attempt)) => {
                    // Where nobody is left to take its place, nothing is won by not waiting.
                    if self.queries.put(query).is_some_and(|put| put.attempt == attempt && !put.next_targets.is_empty())
                    {
                        request.why.expired = true;
                        self.request_over(now, &ask, out);
                    }
                }
                (Passed::Hedge | Passed::GiveUp, _) => {}
                (Passed::Timeout, _) => {
                    request.why.expired = true;
                    self.counters.rpcs_silent += 1;
                    if !ask.expired {
                        self.request_timed_out(now, &ask, out);
                    }
                    self.peer_timed_out(now, &ask, out);
                }
            }
        }
    }

    /// The answer will not come, or not in time: whoever wanted it is told so.
    fn request_timed_out(&mut self, now: Now, ask: &Ask, out: &mut Actions) {
        match ask.why {
            Purpose::Lookup(query) => {
                self.value_missed(query, &ask.to.id);
                if let Some(lookup) = self.queries.lookup(query) {
                    lookup.on_timeout(&ask.to.id);
                    self.drive(now, query, out);
                }
            }
            Purpose::Store(..)
            | Purpose::VersionProbe(..)
            | Purpose::Ping
            | Purpose::HandOver(_)
            | Purpose::Offer(_)
            | Purpose::Sync(_)
            | Purpose::Fetch(_)
            | Purpose::FetchMissing(_)
            | Purpose::Repair(_) => self.request_over(now, ask, out),
        }
    }

    /// Nothing has come of a request for `rpc_timeout`: that counts against whom it went to.
    fn peer_timed_out(&mut self, now: Now, ask: &Ask, out: &mut Actions) {
        match ask.conn {
            // Nothing at all came since it was asked: a connection that died without a word, to
            // a peer that may have come back since.
            Some(conn) if self.peers.quiet_since(conn, ask.since) => {
                self.hang_up(now, conn, Ending::Failed, out);
                self.probe(ask.to, out);
            }
            // It talks, but does not answer: whether it is worth its place, a PING decides.
            Some(conn) => {
                self.peers.answered(conn);
                self.close_if_retired(now, conn, out);
                if ask.why == Purpose::Ping {
                    self.contact_failed(now, &ask.to.id, out);
                } else {
                    self.ping(now, ask.to, out);
                }
            }
            None => self.not_met(now, ask.to, DialError::Unreachable, out),
        }
    }
}

/// `record` as it is sent at `now`.
pub(in crate::node) fn block_of(record: &Record, expires: Time, now: Time) -> RecordBlock<'_> {
    RecordBlock::of(record, age_at(now, record.ttl, expires))
}
