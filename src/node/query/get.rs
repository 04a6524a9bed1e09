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
use crate::node::query::read_quorum::{Found, Head, Next, Phase, Reading, Said, Winner};
use crate::node::query::session::Seen;
use crate::node::query::{Get, Job, JobId};
use crate::node::records::accept::Holder;
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
        let reading = Reading::new(params.reads, params.read_quorum, params.replication_min, params.k);
        let get = Get { client, key, lookup: None, since: now.mono, again: false, reading, phase: Phase::Searching };
        let job = self.jobs.insert(Job::Get(Box::new(get)));
        let end = now.mono + self.params.request_timeout;
        self.timers.set(Timer::Answer(job), self.starts_until(now).map_or(end, |start| start.min(end)));
        if !self.waits_to_join() {
            self.search_value(now, job, out);
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
        let mine = || self.jobs.writing(key).is_some() || self.keeping.contains(key);
        (alone || settled && in_scope() || mine()).then_some((record, held))
    }

    /// The larger of what is held here and of what its clients are writing, with its end; and
    /// itself, if it is held.
    fn known_here(&self, now: Now, key: &Key) -> Option<(&Record, Time, Option<&Held>)> {
        let held = self.storage.find(now.mono, key).map(|held| (&held.record, held.expires, Some(held)));
        let Some((_, put)) = self.jobs.writing(key).filter(|(_, put)| put.expires > now.mono) else { return held };
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
    pub(in crate::node) fn search_value(&mut self, now: Now, job: JobId, out: &mut Actions) {
        let Some((key, since)) = self.jobs.get(job).map(|get| (get.key, get.since)) else { return };
        self.timers.set(Timer::Answer(job), since + self.params.request_timeout);
        let lookup = self.search(key, self.params.k);
        if let Some(get) = self.jobs.get(job) {
            get.lookup = Some(lookup);
            get.phase = Phase::Searching;
        }
        self.hear_own(now, job);
        self.drive(now, job, out);
    }

    /// What the candidate `id` of the search of `job` is asked.
    pub(in crate::node) fn find_value_for(&mut self, job: JobId, id: &NodeId) -> Option<Request<'static>> {
        match self.jobs.find(job)? {
            Job::Get(get) => {
                let head_only = !get.reading.asks_value_of(id);
                let want = Want { contacts: get.reading.goes_past_holders(), head_only };
                Some(Request::FindValue { key: get.key, want })
            }
            Job::Put(put) => {
                Some(Request::FindValue { key: put.record.key, want: Want { contacts: true, head_only: true } })
            }
            Job::Join(lookup) | Job::Refresh(lookup) => Some(Request::FindNode { target: *lookup.target() }),
        }
    }

    /// A peer that was asked for `job` has a record: a GET judges it; a PUT notes who holds an
    /// older one.
    pub(in crate::node) fn record_heard(
        &mut self,
        now: Now,
        job: JobId,
        from: Contact,
        block: &RecordBlock<'_>,
        out: &mut Actions,
    ) {
        match self.jobs.find(job) {
            Some(Job::Get(get)) => {
                let said = said(now, &get.key, block);
                get.reading.hear(Holder::Peer(from), said);
                if let Some(lookup) = get.lookup.as_mut().filter(|_| get.reading.goes_past_holders()) {
                    lookup.calm_down();
                }
                self.read_on(now, job, out);
            }
            Some(Job::Put(put)) if block.key == put.record.key => put.met(now, from.id, block.rank()),
            Some(Job::Put(_) | Job::Join(_) | Job::Refresh(_)) | None => {}
        }
    }

    /// A peer that was asked for `job` holds nothing.
    pub(in crate::node) fn nothing_heard(&mut self, job: JobId, from: Contact) {
        if let Some(get) = self.jobs.get(job) {
            get.reading.hear(Holder::Peer(from), Said::Nothing);
        }
    }

    /// No answer for `job` will come from `id`, or not in time.
    pub(in crate::node) fn value_missed(&mut self, job: JobId, id: &NodeId) {
        if let Some(get) = self.jobs.get(job) {
            get.reading.mute(id);
        }
    }

    /// The k closest have answered or failed.
    pub(in crate::node) fn searched_value(&mut self, now: Now, job: JobId, out: &mut Actions) {
        if let Some(get) = self.jobs.get(job) {
            get.phase = Phase::Searched;
        }
        self.read_on(now, job, out);
    }

    /// What this node holds itself by now counts like the answer of another holder, and what was
    /// read and written through it bounds what it may answer with.
    fn hear_own(&mut self, now: Now, job: JobId) {
        let Some(key) = self.jobs.get(job).map(|get| get.key) else { return };
        let newest = self.versions.newest(&key);
        if let Some(get) = self.jobs.get(job) {
            get.reading.remember(newest);
        }
        let known = self.known_here(now, &key);
        let said = match known.map(|(record, expires, _)| Found { record: record.clone(), expires }) {
            Some(found) => Said::Value(found),
            None => match self.storage.tombstone(now.mono, &key) {
                Some(Tombstone { plain: Some(version), .. }) => {
                    let rank = Rank { class: Class::Plain, life: Life::Over, version };
                    Said::Head(Head { rank, check: 0, replication: 1 })
                }
                Some(_) | None => return,
            },
        };
        if let Some(get) = self.jobs.get(job) {
            get.reading.hear(Holder::Me, said);
        }
    }

    /// Does what follows from what was heard, for a GET; nothing, for another job.
    pub(in crate::node) fn read_on(&mut self, now: Now, job: JobId, out: &mut Actions) {
        self.hear_own(now, job);
        loop {
            let Some(get) = self.jobs.get(job) else { return };
            match get.reading.next(get.phase) {
                Next::Fetch(contact) => {
                    if !self.ask(now, contact, Purpose::Fetch(job), out) {
                        self.value_missed(job, &contact.id);
                    }
                }
                Next::Wait => return,
                Next::Answer => return self.answer_get(now, job, out),
            }
        }
    }
}

/// Answering.
impl Node {
    /// Enough was heard. A search that met silence and found too little is made once more.
    fn answer_get(&mut self, now: Now, job: JobId, out: &mut Actions) {
        let Some(get) = self.jobs.get(job) else { return };
        let enough = get.reading.winner().is_some_and(|winner| get.reading.allows(winner.rank()));
        let silent = get.lookup.as_ref().is_some_and(|lookup| lookup.asked() > lookup.answered().count());
        if !enough && silent && !get.again {
            get.again = true;
            return self.search_value(now, job, out);
        }
        self.end_get(now, job, out);
    }

    /// The time of a GET is over: it is answered by the largest that is in hand, unless a newer one
    /// was seen through this node; then, by FAILURE.
    pub(in crate::node) fn give_up_get(&mut self, now: Now, job: JobId, out: &mut Actions) {
        self.hear_own(now, job);
        let leaving = self.is_leaving();
        let request_timeout = self.params.request_timeout;
        let Some(get) = self.jobs.get(job) else { return };
        if get.reading.winner().is_some_and(|winner| get.reading.allows(winner.rank())) {
            return self.end_get(now, job, out);
        }
        let end = get.since + request_timeout;
        if get.lookup.is_none() && now.mono < end && !leaving {
            // Nothing is held here, and somebody may answer yet.
            return self.timers.set(Timer::Answer(job), end);
        }
        let (client, key) = (get.client, get.key);
        self.log_get(now, job, false);
        self.end_job(job);
        answer(client, key, None, out);
    }

    /// Answers with the winner, and repairs who was behind.
    fn end_get(&mut self, now: Now, job: JobId, out: &mut Actions) {
        let Some(get) = self.jobs.get(job) else { return };
        let (client, key, phase) = (get.client, get.key, get.phase);
        let mut found = None;
        let mut seen = None;
        let mut hops = 0;
        if let Some(winner) = get.reading.winner() {
            seen = Some(Seen::of(winner.rank()));
            if let Winner::Record { from, found: record } = winner
                && record.expires > now.mono
            {
                found = Some(record.clone());
                if let (Holder::Peer(contact), Some(lookup)) = (from, &get.lookup) {
                    hops = lookup.path_of(&contact.id).map_or(0, |path| path.hops);
                }
            }
        }
        match (seen, phase) {
            (Some(seen), Phase::Searched) => {
                self.versions.settle_for(key, seen);
                self.storage.doubt(&key);
            }
            (Some(seen), Phase::Searching) => self.remember_seen(key, seen),
            (None, _) => {}
        }
        let value = found.as_ref().and_then(|found| value_of(&found.record)).cloned();
        self.counters.gets_hops += u64::from(hops);
        self.log_get(now, job, value.is_some());
        if let Some(found) = found {
            self.repair_behind(now, job, &found, out);
        }
        self.end_job(job);
        self.counters.gets_found += answer(client, key, value.as_ref(), out);
    }

    fn log_get(&mut self, now: Now, job: JobId, found: bool) {
        if let Some(get) = self.jobs.get(job) {
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
fn said(now: Now, key: &Key, block: &RecordBlock<'_>) -> Said {
    if block.key != *key || block.version.is_too_early(now.wall) {
        return Said::Lie;
    }
    let head = Said::Head(Head { rank: block.rank(), check: block.check, replication: block.replication });
    let end = end_of_life(now, block.ttl, block.age, block.class, block.version);
    match (block.content, end) {
        (Content::Tombstone, _) | (Content::Head, Some(_)) => head,
        (Content::Value(value), Some(expires)) => {
            let verified = verify(key, block.class, block.version, block.ttl, value).is_ok();
            let record = block.to_record().filter(|_| verified);
            record.map_or(Said::Lie, |record| Said::Value(Found { record, expires }))
        }
        // It has just ended on the way here, or somebody keeps it beyond its end.
        (Content::Head | Content::Value(_), None) => Said::Nothing,
    }
}
