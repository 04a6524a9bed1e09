//! The GET of a client, from request to answer. If the key is in the scope of this node, it answers from
//! its storage. Otherwise it asks the nodes nearest to the key until enough of them agree
//! ([`crate::node::query::read_quorum`]).
//!
//! Guarantees (`PROTOCOL.md` 1 and 3):
//!
//! - Each GET is answered once, within `request_timeout`, and by FAILURE only after a lookup.
//! - Only verified values are returned.
//! - A client that has read or written a version through this node gets an older one only after all of
//!   the k closest nodes were asked.
//!
//! Replicas with an older record are repaired afterwards ([`crate::node::query::read_repair`]).

use std::sync::Arc;

use log::debug;

use crate::contact::Contact;
use crate::id::Key;
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::{Actions, ClientId, Taken};
use crate::node::params::{Reads, Serving};
use crate::node::purpose::{Outcome, Purpose, QueryId};
use crate::node::query::read_quorum::{Found, Head, Next, Phase, QuorumRead, Response, Winner};
use crate::node::query::{Get, Query};
use crate::node::records::accept::Replica;
use crate::node::rpc::outbound::Report;
use crate::node::status::Access;
use crate::node::timers::Timer;
use crate::record::envelope::{deletes, verify};
use crate::record::{Class, Life, Precedence, Rank, Record, end_of_life};
use crate::storage::Held;
use crate::time::{Now, Time};
use crate::wire::peer::{Content, RecordBlock, Reply};

/// A record that this node stores or that a running PUT of this node carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) record: &'a Record,
    /// When its life ends.
    pub(crate) expires: Time,
    /// Its entry in the storage; `None` if it is from a running PUT.
    held: Option<&'a Held>,
}

/// Starting a GET, and answering it from this node.
impl Node {
    /// A client asks for the value of `key`.
    pub(crate) fn start_get(&mut self, now: Now, client: ClientId, key: Key, out: &mut Actions) -> Taken {
        let access = self.access(now);
        if let Some(Known { record, held, .. }) = self.served_here(now, &key, access) {
            let seen = record.rank().precedence();
            let newest = if held.is_some_and(Held::is_shown) { Some(seen) } else { self.versions.newest(&key) };
            if newest <= Some(seen) {
                let found = answer(client, key, value_of(record), out);
                if let Some(held) = held {
                    held.show();
                }
                self.counters.gets += 1;
                self.counters.gets_local += 1;
                self.counters.gets_found += found;
                if newest != Some(seen) {
                    self.versions.remember(key, seen);
                }
                return Taken::Done;
            }
        }
        if !self.wants_requests_of(client.connection) {
            return Taken::NoRoom;
        }
        self.counters.gets += 1;
        let params = &self.params;
        let read = QuorumRead::new(params.reads, params.read_quorum, params.replication_min, params.k);
        let get = Get { client, key, lookup: None, since: now.mono, again: false, read, phase: Phase::LookingUp };
        let query = self.queries.insert(Query::Get(Box::new(get)));
        let end = now.mono + self.params.request_timeout;
        let end = if let Access::Starting { until } = access { until.min(end) } else { end };
        self.timers.set(Timer::Answer(query), end);
        if !access.waits() {
            self.look_up_value(now, query, out);
        }
        Taken::InFlight
    }

    /// The record of `key` that this node may return without asking a peer: the newest that it knows, if
    /// it is responsible for the key or a PUT of one of its clients is not finished. The caller checks
    /// that no client has seen a newer one.
    fn served_here(&self, now: Now, key: &Key, access: Access) -> Option<Known<'_>> {
        if self.params.reads == Reads::Secure && !access.waits() {
            return None;
        }
        let known = self.newest_known(now, key, self.storage.find(now.mono, key))?;
        let is_responsible = match access {
            Access::Isolated | Access::Alone | Access::Leaving => true,
            Access::Starting { .. } | Access::Settling => false,
            Access::Settled => self.params.serving == Serving::Yes && self.in_scope(key, known.record.replication),
        };
        let is_writing = || self.queries.writing(key).is_some() || self.put_retries.contains(key);
        (is_responsible || is_writing()).then_some(known)
    }

    /// The newest record of `key` that this node knows: the larger of `held`, which is the stored one, and the
    /// one of a running PUT.
    pub(crate) fn newest_known<'a>(&'a self, now: Now, key: &Key, held: Option<&'a Held>) -> Option<Known<'a>> {
        let held = held.map(|held| Known { record: &held.record, expires: held.expires, held: Some(held) });
        let Some(put) = self.queries.writing(key).filter(|put| put.expires > now.mono) else { return held };
        match held {
            Some(held) if held.record.compare(&put.record).is_gt() => Some(held),
            Some(_) | None => Some(Known { record: &put.record, expires: put.expires, held: None }),
        }
    }

    /// A client has read or written the version `seen` through this node.
    pub(crate) fn remember_seen(&mut self, key: Key, seen: Precedence) {
        self.versions.remember(key, seen);
        self.storage.doubt(&key);
    }
}

/// Answers a GET by SUCCESS with `value`, or by FAILURE if there is none. Returns the number of values
/// found, for the counter.
fn answer(client: ClientId, key: Key, value: Option<&Arc<[u8]>>, out: &mut Actions) -> u64 {
    match value {
        Some(value) => out.reply_value(client, key, value),
        None => out.reply_failure(client, key),
    }
    u64::from(value.is_some())
}

impl Get {
    /// `peer` replied with the record that it stores, or without one.
    pub(crate) fn on_reply(&mut self, now: Now, peer: Contact, record: Option<&RecordBlock<'_>>) {
        let Some(block) = record else { return self.read.on_response(Replica::Peer(peer), Response::Nothing) };
        self.read.on_response(Replica::Peer(peer), response(now, &self.key, block));
        if let Some(lookup) = self.lookup.as_mut().filter(|_| self.read.goes_past_replicas()) {
            lookup.calm_down();
        }
    }

    /// Whether there is a winner, and it is no older than the version that clients have seen.
    fn has_enough(&self) -> bool {
        self.read.winner().is_some_and(|winner| self.read.allows(winner.rank()))
    }

    fn log(&self, now: Now, value: Option<&Arc<[u8]>>) {
        let (found, took) = (value.is_some(), now.mono.since(self.since).as_millis());
        let asked = self.lookup.as_ref().map_or(0, Lookup::asked);
        debug!("get done key={:.8} found={found} asked={asked} took_ms={took}", self.key);
    }
}

/// Asking peers.
impl Node {
    /// Starts the first or the second lookup of a GET.
    pub(crate) fn look_up_value(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some((key, since)) = self.queries.get(query).map(|get| (get.key, get.since)) else { return };
        self.timers.set(Timer::Answer(query), since + self.params.request_timeout);
        let lookup = self.look_up(key, self.params.k);
        if let Some(get) = self.queries.get(query) {
            get.lookup = Some(lookup);
            get.phase = Phase::LookingUp;
        }
        self.advance(now, query, out);
    }

    /// The request for the value of a head that a peer sent has had an outcome.
    pub(crate) fn on_fetch_outcome(&mut self, now: Now, query: QueryId, report: Report<'_>, out: &mut Actions) {
        let peer = report.call.to;
        let Some(get) = self.queries.get(query) else { return };
        match report.outcome {
            Outcome::Reply { reply: Reply::Value { record, .. }, .. } => get.on_reply(now, peer, Some(&record)),
            Outcome::Reply { .. } => get.on_reply(now, peer, None),
            Outcome::Passed(_) | Outcome::Refused(_) | Outcome::Failed => get.read.on_no_response(&peer.id),
        }
        self.advance(now, query, out);
    }

    /// Adds what this node itself stores at this moment, like the response of another replica, and the
    /// newest version that its clients have seen. If it has slept, what it stores may be old, and counts only
    /// after the other nodes have responded.
    fn add_own_response(&mut self, now: Now, query: QueryId) {
        let Some((key, phase)) = self.queries.get(query).map(|get| (get.key, get.phase)) else { return };
        if self.sleep.is_behind() && phase == Phase::LookingUp {
            return;
        }
        let (held, over) = self.storage.known(now.mono, &key);
        let known = self.newest_known(now, &key, held);
        let known = known.map(|known| Found { record: known.record.clone(), expires: known.expires });
        let over = over.and_then(|tombstone| tombstone.plain);
        let newest = self.versions.newest(&key);
        let Some(get) = self.queries.get(query) else { return };
        get.read.remember(newest);
        match (known, over) {
            (Some(found), _) => get.read.on_response(Replica::Me, Response::Value(found)),
            (None, Some(version)) => {
                let rank = Rank { class: Class::Plain, life: Life::Over, version };
                get.read.on_response(Replica::Me, Response::Head(Head { rank, crc: 0, replication: 1 }));
            }
            (None, None) => {}
        }
    }

    /// Evaluates the responses to a GET, and fetches a value or answers the client if possible. Does
    /// nothing for other queries.
    pub(crate) fn read_on(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.add_own_response(now, query);
        loop {
            let Some(get) = self.queries.get(query).filter(|get| get.lookup.is_some()) else { return };
            match get.read.next(get.phase) {
                Next::Fetch(contact) => {
                    if !self.call(now, contact, Purpose::Fetch(query), out)
                        && let Some(get) = self.queries.get(query)
                    {
                        get.read.on_no_response(&contact.id);
                    }
                }
                Next::Wait => return,
                Next::Answer => return self.answer_get(now, query, out),
            }
        }
    }
}

/// Answering.
impl Node {
    /// Answers a GET. If there is no winner that is new enough, and some candidates did not reply, the
    /// lookup is repeated once instead.
    fn answer_get(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(get) = self.queries.get(query) else { return };
        let has_gaps = get.lookup.as_ref().is_some_and(|lookup| lookup.asked() > lookup.answered().count());
        if !get.has_enough() && has_gaps && !get.again {
            get.again = true;
            return self.look_up_value(now, query, out);
        }
        self.end_get(now, query, out);
    }

    /// The time of a GET is over: answers with the winner so far, or by FAILURE if clients have seen a
    /// newer version.
    pub(crate) fn give_up_get(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.add_own_response(now, query);
        let Some(get) = self.queries.get(query) else { return };
        if get.has_enough() {
            return self.end_get(now, query, out);
        }
        let end = get.since + self.params.request_timeout;
        if get.lookup.is_none() && now.mono < end && !self.status.is_leaving() {
            // The start-up wait is over, but a contact may still answer before `request_timeout`.
            return self.timers.set(Timer::Answer(query), end);
        }
        get.log(now, None);
        out.reply_failure(get.client, get.key);
        self.end_query(query);
    }

    /// Answers with the winner, and repairs replicas with an older record.
    fn end_get(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(Query::Get(get)) = self.end_query(query) else { return };
        let winner = get.read.winner();
        if let Some(winner) = &winner {
            let seen = winner.rank().precedence();
            match get.phase {
                Phase::LookedUp => self.versions.replace(get.key, seen),
                Phase::LookingUp => self.versions.remember(get.key, seen),
            }
            self.storage.doubt(&get.key);
        }
        let mut value = None;
        if let Some(Winner::Record { from, found }) = winner
            && found.expires > now.mono
        {
            value = value_of(&found.record);
            if let (Replica::Peer(contact), Some(lookup)) = (from, &get.lookup) {
                self.counters.gets_hops += lookup.path_of(&contact.id).map_or(0, |path| u64::from(path.hops));
            }
            self.repair_behind(now, &get, found, out);
        }
        get.log(now, value);
        self.counters.gets_found += answer(get.client, get.key, value, out);
    }
}

/// The value to return to a client; `None` if the owner has deleted a signed value.
fn value_of(record: &Record) -> Option<&Arc<[u8]>> {
    (!deletes(record.class, &record.value)).then_some(&record.value)
}

/// The response that the reply `block` stands for. A record that every node would refuse to store is
/// invalid.
fn response(now: Now, key: &Key, block: &RecordBlock<'_>) -> Response {
    if block.key != *key || block.version.is_too_early(now.wall) {
        return Response::Invalid;
    }
    let head = Response::Head(Head { rank: block.rank(), crc: block.crc, replication: block.replication });
    let end = end_of_life(now, block.ttl, block.age, block.class, block.version);
    match (block.content, end) {
        (Content::Tombstone, _) | (Content::Head, Some(_)) => head,
        (Content::Value(value), Some(expires)) => {
            let verified = verify(key, block.class, block.version, block.ttl, value).is_ok();
            let record = block.to_record().filter(|_| verified);
            record.map_or(Response::Invalid, |record| Response::Value(Found { record, expires }))
        }
        // The life ended in transit, or the peer stores a record beyond its life.
        (Content::Head | Content::Value(_), None) => Response::Nothing,
    }
}
