//! A client's GET, from request to answer: served from here if the key is in scope, relayed to the
//! nearest nodes otherwise, until enough of them agree ([`crate::node::query::read_quorum`]).
//!
//! What a client may rely on (`PROTOCOL.md` 1 and 3): each GET is answered once, within
//! `request_timeout`, and FAILURE only after a search; nothing is answered that was not verified;
//! and no older value after a newer one, before all of the k closest were asked. Holders that were
//! behind are repaired ([`crate::node::query::read_repair`]).

use std::sync::Arc;

use log::debug;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::{Actions, ClientId};
use crate::node::params::{Reads, Serving};
use crate::node::query::read_quorum::{Found, Head, Next, Phase, QuorumRead, Response, Winner};
use crate::node::query::session::Seen;
use crate::node::query::{Get, Query, QueryId};
use crate::node::records::accept::Replica;
use crate::node::rpc::outbound::Purpose;
use crate::node::timers::Timer;
use crate::record::envelope::{deletes, verify};
use crate::record::{Class, Life, Rank, Record, Tombstone, end_of_life};
use crate::storage::Held;
use crate::time::{Now, Time};
use crate::wire::peer::{Content, RecordBlock, Request, Want};

/// Serving.
impl Node {
    /// A client wants the value of `key`.
    pub(in crate::node) fn start_get(&mut self, now: Now, client: ClientId, key: Key, out: &mut Actions) {
        self.counters.gets += 1;
        if let Some((record, held)) = self.served_here(now, &key) {
            let seen = Seen::of(record.rank());
            let is_shown = held.is_some_and(Held::is_shown);
            let newest = if is_shown { Some(seen) } else { self.versions.newest(&key) };
            if newest <= Some(seen) {
                let found = answer(client, key, value_of(record), out);
                if let Some(held) = held {
                    held.show();
                }
                self.counters.gets_local += 1;
                self.counters.gets_found += found;
                if newest != Some(seen) {
                    self.versions.remember(key, seen);
                }
                return;
            }
        }
        let params = &self.params;
        let read = QuorumRead::new(params.reads, params.read_quorum, params.replication_min, params.k);
        let get = Get { client, key, lookup: None, since: now.mono, again: false, read, phase: Phase::LookingUp };
        let query = self.queries.insert(Query::Get(Box::new(get)));
        let end = now.mono + self.params.request_timeout;
        self.timers.set(Timer::Answer(query), self.starts_until(now).map_or(end, |start| start.min(end)));
        if !self.waits_to_join() {
            self.look_up_value(now, query, out);
        }
    }

    /// What this node answers without asking anybody, unless a newer one was seen: what it knows, if
    /// it is responsible for it or its clients are writing it. With it, if that is what is held.
    fn served_here(&self, now: Now, key: &Key) -> Option<(&Record, Option<&Held>)> {
        let waits = self.waits_to_join();
        if self.params.reads == Reads::Secure && !waits {
            return None;
        }
        let (record, _, held) = self.known_here(now, key)?;
        let alone = !self.has_joined() && self.starts_until(now).is_none();
        let settled = self.is_settled();
        let in_scope = || self.params.serving == Serving::Yes && self.in_scope(key, record.replication);
        let mine = || self.queries.writing(key).is_some() || self.put_retries.contains(key);
        (alone || settled && in_scope() || mine()).then_some((record, held))
    }

    /// The larger of what is held here and of what its clients are writing, with its end; and
    /// itself, if it is held.
    fn known_here(&self, now: Now, key: &Key) -> Option<(&Record, Time, Option<&Held>)> {
        let held = self.storage.find(now.mono, key).map(|held| (&held.record, held.expires, Some(held)));
        let Some((_, put)) = self.queries.writing(key).filter(|(_, put)| put.expires > now.mono) else { return held };
        match held {
            Some(held) if held.0.compare(&put.record).is_gt() => Some(held),
            _ => Some((&put.record, put.expires, None)),
        }
    }

    /// `seen` was read or written through this node.
    pub(in crate::node) fn remember_seen(&mut self, key: Key, seen: Seen) {
        self.versions.remember(key, seen);
        self.storage.doubt(&key);
    }
}

/// Answers with a value; with FAILURE if there is none, or its owner has deleted it. Returns how
/// many values were found.
fn answer(client: ClientId, key: Key, value: Option<&Arc<[u8]>>, out: &mut Actions) -> u64 {
    match value {
        Some(value) => out.reply_value(client, key, value),
        None => out.reply_failure(client, key),
    }
    u64::from(value.is_some())
}

/// Searching.
impl Node {
    /// Begins, or begins again, to search the value of a GET.
    pub(in crate::node) fn look_up_value(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some((key, since)) = self.queries.get(query).map(|get| (get.key, get.since)) else { return };
        self.timers.set(Timer::Answer(query), since + self.params.request_timeout);
        let lookup = self.look_up(key, self.params.k);
        if let Some(get) = self.queries.get(query) {
            get.lookup = Some(lookup);
            get.phase = Phase::LookingUp;
        }
        self.add_own_response(now, query);
        self.drive(now, query, out);
    }

    /// What the candidate `id` of the search of `query` is asked.
    pub(in crate::node) fn find_value_for(&mut self, query: QueryId, id: &NodeId) -> Option<Request<'static>> {
        match self.queries.find(query)? {
            Query::Get(get) => {
                let head_only = !get.read.asks_value_of(id);
                let want = Want { contacts: get.read.goes_past_replicas(), head_only };
                Some(Request::FindValue { key: get.key, want })
            }
            Query::Put(put) => {
                Some(Request::FindValue { key: put.record.key, want: Want { contacts: true, head_only: true } })
            }
            Query::Join(lookup) | Query::Refresh(lookup) => Some(Request::FindNode { target: *lookup.target() }),
        }
    }

    /// A peer that was asked for `query` has a record: a GET judges it; a PUT notes who holds an
    /// older one.
    pub(in crate::node) fn record_heard(
        &mut self,
        now: Now,
        query: QueryId,
        from: Contact,
        block: &RecordBlock<'_>,
        out: &mut Actions,
    ) {
        match self.queries.find(query) {
            Some(Query::Get(get)) => {
                let response = response(now, &get.key, block);
                get.read.on_response(Replica::Peer(from), response);
                if let Some(lookup) = get.lookup.as_mut().filter(|_| get.read.goes_past_replicas()) {
                    lookup.calm_down();
                }
                self.read_on(now, query, out);
            }
            Some(Query::Put(put)) if block.key == put.record.key => put.met(now, from.id, block.rank()),
            Some(Query::Put(_) | Query::Join(_) | Query::Refresh(_)) | None => {}
        }
    }

    /// A peer that was asked for `query` holds nothing.
    pub(in crate::node) fn nothing_heard(&mut self, query: QueryId, from: Contact) {
        if let Some(get) = self.queries.get(query) {
            get.read.on_response(Replica::Peer(from), Response::Nothing);
        }
    }

    /// No answer for `query` will come from `id`, or not in time.
    pub(in crate::node) fn value_missed(&mut self, query: QueryId, id: &NodeId) {
        if let Some(get) = self.queries.get(query) {
            get.read.on_no_response(id);
        }
    }

    /// The k closest have answered or failed.
    pub(in crate::node) fn value_looked_up(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        if let Some(get) = self.queries.get(query) {
            get.phase = Phase::LookedUp;
        }
        self.read_on(now, query, out);
    }

    /// What this node holds itself by now counts like the answer of another holder, and what was
    /// read and written through it bounds what it may answer with.
    fn add_own_response(&mut self, now: Now, query: QueryId) {
        let Some(key) = self.queries.get(query).map(|get| get.key) else { return };
        let newest = self.versions.newest(&key);
        if let Some(get) = self.queries.get(query) {
            get.read.remember(newest);
        }
        let known = self.known_here(now, &key);
        let response = match known.map(|(record, expires, _)| Found { record: record.clone(), expires }) {
            Some(found) => Response::Value(found),
            None => match self.storage.tombstone(now.mono, &key) {
                Some(Tombstone { plain: Some(version), .. }) => {
                    let rank = Rank { class: Class::Plain, life: Life::Over, version };
                    Response::Head(Head { rank, crc: 0, replication: 1 })
                }
                Some(_) | None => return,
            },
        };
        if let Some(get) = self.queries.get(query) {
            get.read.on_response(Replica::Me, response);
        }
    }

    /// Does what follows from what was heard, for a GET; nothing, for another job.
    pub(in crate::node) fn read_on(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.add_own_response(now, query);
        loop {
            let Some(get) = self.queries.get(query) else { return };
            match get.read.next(get.phase) {
                Next::Fetch(contact) => {
                    if !self.ask(now, contact, Purpose::Fetch(query), out) {
                        self.value_missed(query, &contact.id);
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
    /// Enough was heard. A search that met silence and found too little is made once more.
    fn answer_get(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(get) = self.queries.get(query) else { return };
        let enough = get.read.winner().is_some_and(|winner| get.read.allows(winner.rank()));
        let silent = get.lookup.as_ref().is_some_and(|lookup| lookup.asked() > lookup.answered().count());
        if !enough && silent && !get.again {
            get.again = true;
            return self.look_up_value(now, query, out);
        }
        self.end_get(now, query, out);
    }

    /// The time of a GET is over: it is answered by the largest that is in hand, unless a newer one
    /// was seen through this node; then, by FAILURE.
    pub(in crate::node) fn give_up_get(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.add_own_response(now, query);
        let leaving = self.is_leaving();
        let request_timeout = self.params.request_timeout;
        let Some(get) = self.queries.get(query) else { return };
        if get.read.winner().is_some_and(|winner| get.read.allows(winner.rank())) {
            return self.end_get(now, query, out);
        }
        let end = get.since + request_timeout;
        if get.lookup.is_none() && now.mono < end && !leaving {
            // Nothing is held here, and somebody may answer yet.
            return self.timers.set(Timer::Answer(query), end);
        }
        let (client, key) = (get.client, get.key);
        self.log_get(now, query, false);
        self.end_query(query);
        answer(client, key, None, out);
    }

    /// Answers with the winner, and repairs who was behind.
    fn end_get(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(get) = self.queries.get(query) else { return };
        let (client, key, phase) = (get.client, get.key, get.phase);
        let mut found = None;
        let mut seen = None;
        let mut hops = 0;
        if let Some(winner) = get.read.winner() {
            seen = Some(Seen::of(winner.rank()));
            if let Winner::Record { from, found: record } = winner
                && record.expires > now.mono
            {
                found = Some(record.clone());
                if let (Replica::Peer(contact), Some(lookup)) = (from, &get.lookup) {
                    hops = lookup.path_of(&contact.id).map_or(0, |path| path.hops);
                }
            }
        }
        match (seen, phase) {
            (Some(seen), Phase::LookedUp) => {
                self.versions.replace(key, seen);
                self.storage.doubt(&key);
            }
            (Some(seen), Phase::LookingUp) => self.remember_seen(key, seen),
            (None, _) => {}
        }
        let value = found.as_ref().and_then(|found| value_of(&found.record)).cloned();
        self.counters.gets_hops += u64::from(hops);
        self.log_get(now, query, value.is_some());
        if let Some(found) = found {
            self.repair_behind(now, query, &found, out);
        }
        self.end_query(query);
        self.counters.gets_found += answer(client, key, value.as_ref(), out);
    }

    fn log_get(&mut self, now: Now, query: QueryId, found: bool) {
        if let Some(get) = self.queries.get(query) {
            let took = now.mono.since(get.since).as_millis();
            let asked = get.lookup.as_ref().map_or(0, Lookup::asked);
            debug!("get done key={:.8} found={found} asked={asked} took_ms={took}", get.key);
        }
    }
}

/// The value that a client is shown; none, if the owner of a signed one has deleted it.
fn value_of(record: &Record) -> Option<&Arc<[u8]>> {
    (!deletes(record.class, &record.value)).then_some(&record.value)
}

/// What `block` says about `key`, as far as it may be believed: nobody believes what everybody else
/// would refuse.
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
        // It has just ended on the way here, or somebody keeps it beyond its end.
        (Content::Head | Content::Value(_), None) => Response::Nothing,
    }
}
