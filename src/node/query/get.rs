//! The GET of a client, from request to answer. If the key is in the scope of this node, it answers from
//! its storage. Otherwise it asks the nodes nearest to the key until enough of them agree
//! ([`crate::node::query::read_quorum`]).
//!
//! GETs of one key share lookups. Those that come in one turn of the event loop share one, whose requests leave at the
//! end of that turn. A GET that comes later must not see the answers to them, also if none has arrived: a newer record
//! may have been confirmed since peers sent these. All GETs that come while a lookup runs share the following one, which
//! begins when the running one ends, or has run for `rpc_timeout`. Each GET has its own deadline and its own place in the
//! accounts ([`crate::node::query`]). A lookup runs as long as a GET waits for it. When it ends, its result is compared
//! with the newest version that clients have seen through this node by then. If that one is newer, and is newer than when
//! the lookup began, the GETs go on to the following lookup.
//!
//! Guarantees (`PROTOCOL.md` 1 and 3):
//!
//! - Each GET is answered once, within `request_timeout`, and before that by FAILURE only after a lookup in which
//!   enough nodes have answered: at least one, unless this node is the whole network, and fewer were silent than the
//!   replicas that every record has.
//! - No bound of this node ends a lookup or takes part in its result.
//! - Only verified values are returned.
//! - A client that has read or written a version through this node gets an older one only after all of
//!   the k closest nodes were asked.
//!
//! Replicas with an older record are repaired afterwards ([`crate::node::query::read_repair`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use log::debug;

use crate::contact::Contact;
use crate::id::Key;
use crate::limits::GET_RETRY_PAUSE;
use crate::node::Node;
use crate::node::action::{Actions, ClientId, Taken};
use crate::node::params::{Reads, Serving};
use crate::node::purpose::{Outcome, Purpose, QueryId};
use crate::node::query::read_quorum::{Found, Head, Next, Phase, QuorumRead, Response, Winner};
use crate::node::query::write_quorum::Put;
use crate::node::query::{Get, Joined, Query, Read};
use crate::node::records::accept::Replica;
use crate::node::rpc::outbound::Report;
use crate::node::status::{Access, Status};
use crate::node::timers::Timer;
use crate::pending::Passed;
use crate::record::envelope::{deletes, verify};
use crate::record::{Class, Life, Precedence, Rank, Record, Tombstone, end_of_life};
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
        let query = self.queries.insert(Query::Get(Get::new(client, key, now.mono)));
        let end = now.mono + self.params.request_timeout;
        let end = if let Access::Starting { until } = access { until.min(end) } else { end };
        self.timers.set(Timer::Answer(query), end);
        if !access.waits() {
            self.look_up_value(now, query, out);
        }
        Taken::InFlight
    }

    /// The record of `key` that this node may return without asking a peer: the newest that it knows, if
    /// it is responsible for the key, or too few nodes store the record of a PUT of its clients. The caller checks
    /// that no client has seen a newer one.
    fn served_here(&self, now: Now, key: &Key, access: Access) -> Option<Known<'_>> {
        if self.params.reads == Reads::Secure && !access.waits() {
            return None;
        }
        let known = self.readable(now, key, self.storage.find(now.mono, key))?;
        // Most nodes miss nothing, and this is part of every GET.
        if !self.missed.is_empty() && self.has_missed(key, known.record) {
            return None;
        }
        let is_responsible = match access {
            Access::Isolated => self.table.live() == 0 && !self.join.may_hear_more(now),
            Access::Alone | Access::Leaving => true,
            Access::Starting { .. } | Access::Settling => false,
            Access::Settled => {
                self.params.serving == Serving::Yes && self.surely_in_scope(key, known.record.replication.into())
            }
        };
        // Other nodes may have stored the record of an earlier PUT, and a later one, while this node slept.
        let is_undecided = || match self.undecided(key) {
            Some(put) => !self.sleep.is_behind_since(put.taken()),
            None => !self.sleep.is_behind() && self.put_retries.contains(key),
        };
        (is_responsible || is_undecided()).then_some(known)
    }

    /// Whether this node has refused a newer record than `known`, which others may store.
    #[cold]
    fn has_missed(&self, key: &Key, known: &Record) -> bool {
        self.missed.replaces(key, known.rank().precedence()) && self.status.has_joined()
    }

    /// The newest record of `key` that this node knows: the larger of `held`, which is the stored one, and the
    /// one of a running PUT.
    pub(crate) fn newest_known<'a>(&'a self, now: Now, key: &Key, held: Option<&'a Held>) -> Option<Known<'a>> {
        newest_of(now, held, self.queries.writing(key))
    }

    /// The same for a GET, without a PUT that enough nodes store: a newer one may have been confirmed since.
    fn readable<'a>(&'a self, now: Now, key: &Key, held: Option<&'a Held>) -> Option<Known<'a>> {
        newest_of(now, held, self.undecided(key))
    }

    /// The latest running PUT of `key`, unless enough nodes store its record.
    fn undecided(&self, key: &Key) -> Option<&Put> {
        self.queries.writing(key).filter(|put| !put.was_stored())
    }

    /// A client has read or written the version `seen` through this node.
    pub(crate) fn remember_seen(&mut self, key: Key, seen: Precedence) {
        self.versions.remember(key, seen);
        self.storage.doubt(&key);
    }
}

/// The larger one of `held` and the record of `put`.
fn newest_of<'a>(now: Now, held: Option<&'a Held>, put: Option<&'a Put>) -> Option<Known<'a>> {
    let held = held.map(|held| Known { record: &held.record, expires: held.expires, held: Some(held) });
    let Some(put) = put.filter(|put| put.expires > now.mono) else { return held };
    match held {
        Some(held) if held.record.compare(&put.record).is_gt() => Some(held),
        Some(_) | None => Some(Known { record: &put.record, expires: put.expires, held: None }),
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

impl Read {
    /// `peer` replied with the record that it stores, which may be tentative, or without one.
    pub(crate) fn on_reply(&mut self, now: Now, peer: Contact, record: Option<&RecordBlock<'_>>, is_tentative: bool) {
        let from = Replica::Peer(peer);
        let Some(block) = record else { return self.quorum.on_response(from, Response::Nothing) };
        self.quorum.on_response(from, response(now, &self.key, block));
        if is_tentative {
            self.quorum.on_tentative(&from);
        }
        if self.quorum.goes_past_replicas() {
            self.lookup.calm_down();
        }
    }

    /// The candidates that were asked and have not replied.
    fn gaps(&self) -> usize {
        self.lookup.asked() - self.lookup.answered().count()
    }

    /// Whether no candidate has replied.
    fn is_unheard(&self) -> bool {
        self.lookup.answered().next().is_none()
    }

    /// Whether clients have read or written a newer version through this node since the lookup began.
    fn is_overtaken(&self) -> bool {
        self.quorum.newest_seen() > self.seen_before
    }
}

/// The answer to a GET.
#[derive(Clone, Debug, Default)]
struct Answer {
    /// The value, if there is one.
    value: Option<Arc<[u8]>>,
    /// The version that the client sees.
    seen: Option<Precedence>,
    /// The hops to the peer that sent it.
    hops: u64,
    /// The candidates that were asked.
    asked: usize,
}

impl Answer {
    /// The winner of `quorum`, if its life has not ended.
    fn new(now: Now, quorum: &QuorumRead) -> Self {
        let winner = quorum.winner();
        let value = match winner {
            Some(Winner::Record { found, .. }) if found.expires > now.mono => value_of(&found.record).cloned(),
            Some(_) | None => None,
        };
        Self { value, seen: winner.map(|winner| winner.rank().precedence()), ..Self::default() }
    }
}

impl Read {
    fn answer(&self, now: Now) -> Answer {
        let mut answer = Answer { asked: self.lookup.asked(), ..Answer::new(now, &self.quorum) };
        if let Some(Winner::Record { from: Replica::Peer(contact), .. }) =
            self.quorum.winner().filter(|winner| winner.is_alive(now))
        {
            answer.hops = self.lookup.path_of(&contact.id).map_or(0, |path| u64::from(path.hops));
        }
        answer
    }
}

/// What this node itself knows of a key.
struct Own {
    response: Option<Response>,
    /// The newest version that its clients have seen.
    newest: Option<Precedence>,
    /// Whether PUTs may not have reached it.
    is_tentative: bool,
}

impl Own {
    /// Adds it to `quorum`, like the response of another replica.
    fn respond(self, quorum: &mut QuorumRead) {
        quorum.remember(self.newest);
        if let Some(response) = self.response {
            quorum.on_response(Replica::Me, response);
        }
        if self.is_tentative {
            quorum.on_tentative(&Replica::Me);
        }
    }
}

/// Looking up.
impl Node {
    /// The GET `query` needs the value from peers: it joins a lookup, or begins one.
    pub(crate) fn look_up_value(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(&Get { key, since, .. }) = self.queries.get(query) else { return };
        self.timers.set(Timer::Answer(query), since + self.params.request_timeout);
        match self.queries.join_read(now.mono, query) {
            Joined::Begin => self.begin_read(now, key, BTreeSet::from([query]), out),
            Joined::Running => {}
            Joined::Next(running) => {
                // A lookup that takes long must not use up the time of the GETs that wait for the next one.
                let since = self.queries.read(running).map_or(now.mono, |read| read.since);
                let follow_at = (since + self.params.rpc_timeout).max(now.mono);
                self.timers.hasten(Timer::Follow(running), follow_at);
            }
        }
    }

    /// Begins a lookup for the GETs `waiting` of `key`.
    fn begin_read(&mut self, now: Now, key: Key, waiting: BTreeSet<QueryId>, out: &mut Actions) {
        let lookup = self.look_up(key, self.params.k);
        let read = Read::new(now.mono, lookup, self.empty_quorum(), self.versions.newest(&key));
        let query = self.queries.begin_read(read, waiting);
        self.advance(now, query, out);
    }

    /// The lookup `running` has taken long: the next one begins, if a GET waits for it.
    pub(crate) fn follow(&mut self, now: Now, running: QueryId, out: &mut Actions) {
        let Some(key) = self.queries.read(running).map(|read| read.key) else { return };
        if let Some(next) = self.queries.take_next(&key, running).filter(|next| !next.is_empty()) {
            self.begin_read(now, key, next, out);
        }
    }

    pub(super) fn empty_quorum(&self) -> QuorumRead {
        let params = &self.params;
        QuorumRead::new(params.reads, params.read_quorum, params.replication_min, params.k)
    }

    /// The request for the value of a head that a peer sent has had an outcome.
    pub(crate) fn on_fetch_outcome(&mut self, now: Now, query: QueryId, report: Report<'_>, out: &mut Actions) {
        let peer = report.call.to;
        let is_over = match &report.outcome {
            Outcome::Reply { reply: Reply::Value { record, .. }, .. } => self.is_over_here(now, record),
            _ => false,
        };
        let Some(read) = self.queries.read(query) else { return };
        match report.outcome {
            Outcome::Reply { reply: Reply::Value { record, is_tentative, .. }, .. } => {
                read.on_reply(now, peer, Some(&record).filter(|_| !is_over), is_tentative);
            }
            Outcome::Reply { .. } => read.on_reply(now, peer, None, false),
            Outcome::Passed(Passed::Hedge | Passed::GiveUp) => read.quorum.on_late_fetch(&peer.id),
            Outcome::Passed(Passed::Timeout) | Outcome::Refused(_) | Outcome::Failed => {
                read.quorum.on_no_response(&peer.id);
            }
        }
        self.advance(now, query, out);
    }

    /// Whether this node has stored a successor of the signed `record`, whose life is over.
    pub(crate) fn is_over_here(&self, now: Now, record: &RecordBlock<'_>) -> bool {
        let is_over = |over: Tombstone| over.signed >= Some(record.version);
        record.class == Class::Signed && self.storage.tombstone(now, &record.key).is_some_and(is_over)
    }

    /// What this node itself knows of `key` at this moment.
    fn own_response(&self, now: Now, key: &Key) -> Own {
        let (newest, is_tentative) = (self.versions.newest(key), self.is_tentative(key));
        let (held, over) = self.storage.known(now, key);
        let known = self.readable(now, key, held);
        let known = known.map(|known| Found { record: known.record.clone(), expires: known.expires });
        let over = over.and_then(|tombstone| tombstone.plain);
        let response = known.map(Response::Value).or_else(|| {
            let rank = Rank { class: Class::Plain, life: Life::Over, version: over? };
            Some(Response::Head(Head { rank, crc: 0, replication: 1 }))
        });
        Own { response, newest, is_tentative }
    }

    /// Whether others may have replaced what this node stores: it has slept or restarted, and has not synchronized since.
    fn is_behind(&self) -> bool {
        let is_about_to_join = self.status == Status::Joining && self.table.live() > 0;
        (is_about_to_join || self.join.is_behind()) && !self.is_only_node()
    }

    /// Whether this node is behind, no other node has told of the winner of the lookup, and those that have not replied
    /// may be all that store the record.
    fn is_unproven(&mut self, query: QueryId) -> bool {
        let (is_behind, replication_min) = (self.is_behind(), usize::from(self.params.replication_min));
        self.queries.read(query).is_some_and(|read| {
            let may_be_all = read.is_unheard() || read.gaps() >= replication_min;
            is_behind && may_be_all && read.quorum.is_told_by_me_alone()
        })
    }

    fn add_own_response(&mut self, now: Now, query: QueryId) {
        let Some(key) = self.queries.read(query).map(|read| read.key) else { return };
        let own = self.own_response(now, &key);
        if let Some(read) = self.queries.read(query) {
            own.respond(&mut read.quorum);
        }
    }

    /// Evaluates the responses to a lookup of a value, and fetches the value or answers the GETs if possible. Does
    /// nothing for other queries.
    pub(crate) fn read_on(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.add_own_response(now, query);
        while let Some(read) = self.queries.read(query) {
            match read.quorum.next(read.phase) {
                Next::Fetch(contact) => self.call(now, contact, Purpose::Fetch(query), out),
                Next::Wait => return,
                Next::Answer => return self.end_lookup(now, query, out),
            }
        }
    }
}

/// Answering.
impl Node {
    /// A lookup has ended. If it has no winner that is new enough, this node repeats it: once if some candidates did
    /// not reply, and each time if `replication_min` or more were silent, because these may be all replicas. If no
    /// candidate replied, it repeats the lookup after a pause: the others may still be there.
    fn end_lookup(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let others_may_exist = !self.is_only_node() && !self.status.is_leaving();
        let is_unproven = self.is_unproven(query);
        let Some(read) = self.queries.read(query) else { return };
        let has_enough = read.quorum.has_enough() && !is_unproven;
        if read.repairs.is_some() {
            let end = if has_enough { Waiters::Answer } else { Waiters::GoOn };
            return self.end_read(now, query, end, out);
        }
        let may_be_hidden = read.lookup.silent() >= usize::from(self.params.replication_min);
        if !has_enough && (may_be_hidden || read.gaps() > 0 && !read.again) {
            return self.look_up_again(now, query, out);
        }
        let is_unheard = read.is_unheard();
        if !has_enough && (is_unheard && others_may_exist || is_unproven) {
            read.is_paused = true;
            return self.timers.set(Timer::Retry(query), now.mono + GET_RETRY_PAUSE);
        }
        if !has_enough && read.is_overtaken() {
            // A client has written or read a newer version meanwhile: what peers have said may be older than that.
            return self.end_read(now, query, Waiters::GoOn, out);
        }
        self.end_read(now, query, Waiters::Answer, out);
    }

    /// Repeats the lookup of a value. The responses so far still count.
    pub(crate) fn look_up_again(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(key) = self.queries.read(query).map(|read| read.key) else { return };
        self.timers.cancel(Timer::Retry(query));
        let lookup = self.look_up(key, self.params.k);
        if let Some(read) = self.queries.read(query) {
            (read.again, read.is_paused) = (true, false);
            (read.lookup, read.phase) = (lookup, Phase::LookingUp);
        }
        self.advance(now, query, out);
    }

    /// Ends a lookup, and begins the next one for the GETs that wait for that. The winner answers the GETs that wait
    /// for this one, and repairs replicas with an older record; or these GETs wait for the next lookup too.
    fn end_read(&mut self, now: Now, query: QueryId, waiters: Waiters, out: &mut Actions) {
        let Some((read, waiting, mut next)) = self.queries.end_read(query) else { return };
        self.timers.cancel(Timer::Follow(query));
        self.timers.cancel(Timer::Retry(query));
        match waiters {
            Waiters::GoOn => next.extend(waiting),
            Waiters::Answer => {
                let answer = read.answer(now);
                if !waiting.is_empty() {
                    self.remember_winner(read.key, read.phase, &answer);
                }
                if let Some(Winner::Record { found, .. }) = read.quorum.winner().filter(|winner| winner.is_alive(now)) {
                    self.repair_behind(now, &read, found, out);
                }
                for get in waiting {
                    self.answer_get(now, get, &answer, out);
                }
            }
        }
        if !next.is_empty() {
            self.go_on(now, read.key, next, out);
        }
    }

    /// The GETs `waiting` of `key` wait for the latest lookup, or for a new one.
    fn go_on(&mut self, now: Now, key: Key, waiting: BTreeSet<QueryId>, out: &mut Actions) {
        if !self.queries.is_reading(&key) {
            return self.begin_read(now, key, waiting, out);
        }
        for get in waiting {
            self.look_up_value(now, get, out);
        }
    }

    /// Clients see the winner of a lookup of `key`, which is in that phase.
    fn remember_winner(&mut self, key: Key, phase: Phase, answer: &Answer) {
        let Some(seen) = answer.seen else { return };
        match phase {
            Phase::LookedUp => self.versions.replace(key, seen),
            Phase::LookingUp => self.versions.remember(key, seen),
        }
        self.storage.doubt(&key);
    }

    /// Answers a GET, which ends.
    fn answer_get(&mut self, now: Now, query: QueryId, found: &Answer, out: &mut Actions) {
        let Some(Query::Get(get)) = self.end_query(query) else { return };
        let (is_found, took) = (found.value.is_some(), now.mono.since(get.since).as_millis());
        debug!("get done key={:.8} found={is_found} asked={} took_ms={took}", get.key, found.asked);
        self.counters.gets_hops += found.hops;
        self.counters.gets_found += answer(get.client, get.key, found.value.as_ref(), out);
    }

    /// The time of a GET is over: answers with the winner so far, or by FAILURE if clients have seen a newer
    /// version. Other GETs that wait for the same lookup go on waiting.
    pub(crate) fn give_up_get(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(&get) = self.queries.get(query) else { return };
        let Some(reading) = get.reads() else { return self.give_up_without_lookup(now, query, get, out) };
        self.add_own_response(now, reading);
        let is_unproven = self.is_unproven(reading);
        let Some(read) = self.queries.read(reading) else { return };
        let (has_enough, phase) = (read.quorum.has_enough() && !is_unproven, read.phase);
        let answer = if has_enough { read.answer(now) } else { Answer::default() };
        self.remember_winner(get.key, phase, &answer);
        self.answer_get(now, query, &answer, out);
        if self.queries.is_unwanted(reading) {
            let waiters = if has_enough { Waiters::Answer } else { Waiters::GoOn };
            self.end_read(now, reading, waiters, out);
        }
    }

    /// The same for a GET that waits for no running lookup.
    fn give_up_without_lookup(&mut self, now: Now, query: QueryId, get: Get, out: &mut Actions) {
        let mut quorum = self.empty_quorum();
        self.own_response(now, &get.key).respond(&mut quorum);
        let end = get.since + self.params.request_timeout;
        let mut answer = Answer::default();
        if quorum.has_enough() && !self.is_behind() {
            answer = Answer::new(now, &quorum);
            self.remember_winner(get.key, Phase::LookingUp, &answer);
        } else if now.mono < end && !self.status.is_leaving() {
            // The start-up wait is over, but a contact may still answer before `request_timeout`.
            return self.timers.set(Timer::Answer(query), end);
        }
        self.answer_get(now, query, &answer, out);
    }
}

/// What becomes of the GETs that wait for a lookup that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiters {
    /// They are answered.
    Answer,
    /// They wait for the next lookup.
    GoOn,
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
