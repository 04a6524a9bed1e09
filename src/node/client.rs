//! A module's PUT or GET, from request to answer: served from here if the key is in scope,
//! relayed to the nearest nodes otherwise.
//!
//! What a client may rely on (`PROTOCOL.md` 1): each GET is answered once, within
//! `request_timeout`, and FAILURE only after a search; a PUT is answered only if it asked for
//! it; whoever reads here after writing here sees what was written, or something newer.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::{Actions, ClientId};
use crate::node::ask::{Ask, Purpose};
use crate::node::jobs::{Get, Job, JobId, Put, PutStage, Target};
use crate::node::params::Serving;
use crate::node::timers::Timer;
use crate::record::{Class, Rank, Record, Ttl, Version, check_of, end_of_life};
use crate::storage::{Held, Stored};
use crate::time::{Now, Time};
use crate::wire::api::{Confirm, Put as PutRequest};
use crate::wire::peer::{RecordBlock, StoreOutcome};

/// First pause before a PUT that found too few holders, or no room, tries again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A storage that is full refuses many PUTs: the log is told of one, and of how many there were.
const REFUSAL_LOG_PAUSE: Duration = Duration::from_secs(1);

/// GET.
impl Node {
    /// A client wants the value of `key`.
    pub(super) fn start_get(&mut self, now: Now, client: ClientId, key: Key, out: &mut Actions) {
        self.counters.gets += 1;
        if let Some(value) = self.known_here(now, &key).map(|record| record.value.clone()) {
            self.counters.gets_local += 1;
            self.found(client, key, value, out);
            return;
        }
        let lookup = (!self.waits_to_join()).then(|| self.search(key));
        let job = self.jobs.insert(Job::Get(Get { client, key, lookup, since: now.mono, again: false }));
        self.timers.set(Timer::Answer(job), now.mono + self.params.request_timeout);
        self.drive(now, job, out);
    }

    /// What this node may answer without asking anybody: what its own clients are writing, and
    /// what it holds in scope. The larger of the two.
    fn known_here(&self, now: Now, key: &Key) -> Option<&Record> {
        let writing = self.jobs.writing(key).filter(|(_, put)| put.expires > now.mono).map(|(_, put)| &put.record);
        let held = self.storage.find(now.mono, key).map(|held| &held.record);
        match (writing, held) {
            (Some(writing), Some(held)) if held.compare(writing).is_gt() => Some(held),
            (Some(writing), _) => Some(writing),
            (None, held) => held.filter(|held| self.serves(held)),
        }
    }

    /// Whether a held record is in scope: too few known nodes are nearer to its key for another
    /// one to be responsible (`PROTOCOL.md` 2, Scope). A node that has not joined asks nobody.
    fn serves(&self, held: &Record) -> bool {
        !self.is_settled() || self.table.fewer_closer(&held.key, usize::from(held.replication))
    }

    fn found(&mut self, client: ClientId, key: Key, value: Arc<[u8]>, out: &mut Actions) {
        self.counters.gets_found += 1;
        out.reply_value(client, key, value);
    }

    /// Begins, or begins again, to search the value of a GET.
    pub(super) fn search_value(&mut self, now: Now, job: JobId, out: &mut Actions) {
        let Some(Job::Get(get)) = self.jobs.find(job) else { return };
        let key = get.key;
        let lookup = self.search(key);
        if let Some(Job::Get(get)) = self.jobs.find(job) {
            get.lookup = Some(lookup);
        }
        self.drive(now, job, out);
    }

    /// Whether `job` is of a client, or was: nobody else asks for values.
    pub(super) fn may_find_value(&mut self, job: JobId) -> bool {
        matches!(self.jobs.find(job), Some(Job::Get(_) | Job::Put(_)) | None)
    }

    /// A peer answered a search with a record. Returns whether that ends the search: it does for a
    /// GET, if the record may be believed; a PUT notes who holds an older one.
    pub(super) fn value_found(
        &mut self,
        now: Now,
        job: JobId,
        from: &NodeId,
        block: &RecordBlock<'_>,
        out: &mut Actions,
    ) -> bool {
        let get = match self.jobs.find(job) {
            Some(Job::Get(get)) => get,
            Some(Job::Put(put)) => {
                let older = block.class == Class::Plain && block.version < put.record.version;
                if block.key == put.record.key && older && !put.outdated.contains(from) {
                    put.outdated.push(*from);
                }
                return false;
            }
            Some(Job::Join(_) | Job::Refresh(_)) | None => return false,
        };
        let alive = end_of_life(now, block.ttl, block.age, block.class, block.version).is_some();
        let believed = block.key == get.key && block.class == Class::Plain && !block.version.is_too_early(now.wall);
        if block.value().is_empty() || !alive || !believed {
            return false;
        }
        let (client, key) = (get.client, get.key);
        if let Some(lookup) = &mut get.lookup {
            let hops = lookup.path_of(from).map_or(0, |path| path.hops);
            self.counters.gets_hops += u64::from(hops);
        }
        self.log_get(now, job, true);
        self.end_job(job);
        self.found(client, key, block.value().into(), out);
        true
    }

    /// Ends a GET that no peer could answer: by what is held here although out of scope, or by
    /// FAILURE.
    pub(super) fn give_up_get(&mut self, now: Now, job: JobId, out: &mut Actions) {
        let Some(Job::Get(get)) = self.jobs.find(job) else { return };
        let (client, key) = (get.client, get.key);
        let held = self.storage.find(now.mono, &key).map(|held| held.record.value.clone());
        self.log_get(now, job, held.is_some());
        self.end_job(job);
        match held {
            Some(value) => self.found(client, key, value, out),
            None => out.reply_failure(client, key),
        }
    }

    fn log_get(&mut self, now: Now, job: JobId, found: bool) {
        if let Some(Job::Get(get)) = self.jobs.find(job) {
            let took = now.mono.since(get.since).as_millis();
            let asked = get.lookup.as_ref().map_or(0, Lookup::asked);
            debug!("get done key={:.8} found={found} asked={asked} took_ms={took}", get.key);
        }
    }
}

/// PUT.
impl Node {
    /// A client wants a value held.
    pub(super) fn start_put(&mut self, now: Now, client: ClientId, request: &PutRequest<'_>, out: &mut Actions) {
        self.counters.puts += 1;
        let client = match request.confirm {
            Confirm::Yes => Some(client),
            Confirm::No => None,
        };
        let record = self.record_of(now, request);
        let expires = now.mono + Duration::from_secs(record.ttl.as_secs().into());
        if self.waits_to_join() || self.table.live() == 0 {
            self.keep_put(now, client, record, expires, out);
            return;
        }
        if self.storage.find(now.mono, &record.key).is_some() {
            // It may go to others alone: the older one would be served here once it has.
            self.storage.store(now.mono, record.clone(), expires);
        }
        let stage = PutStage::Searching(self.search(record.key));
        self.begin_put(now, client, record, expires, stage, out);
    }

    fn begin_put(
        &mut self,
        now: Now,
        client: Option<ClientId>,
        record: Record,
        expires: Time,
        stage: PutStage,
        out: &mut Actions,
    ) {
        let put = Put::new(client, record, expires, stage);
        let job = self.jobs.insert(Job::Put(Box::new(put)));
        self.timers.set(Timer::Answer(job), now.mono + self.params.request_timeout);
        self.drive(now, job, out);
    }

    /// The record that a PUT asks for: clamped (`PROTOCOL.md` 1, rules 7 and 8), with a version
    /// above all that this node has seen of its key.
    fn record_of(&mut self, now: Now, request: &PutRequest<'_>) -> Record {
        let params = &self.params;
        let ttl = Ttl::from_secs(request.ttl).unwrap_or(params.ttl_default).clamp(params.ttl_min, params.ttl_max);
        let most = u8::try_from(params.k).expect("k is at most 20");
        let replication = match request.replication {
            0 => params.replication_default,
            asked => asked.clamp(params.replication_min, most),
        };
        Record {
            key: request.key,
            class: Class::Plain,
            version: self.draw_version(now, &request.key),
            ttl,
            replication,
            check: check_of(request.value),
            value: request.value.into(),
        }
    }

    fn draw_version(&mut self, now: Now, key: &Key) -> Version {
        let held = self.storage.find(now.mono, key).map(|held| held.record.version);
        let writing = self.jobs.writing(key).map(|(_, put)| put.record.version);
        // Within one millisecond the clock does not tell two PUTs of a key apart that were both
        // handed to others.
        let last = Some(self.last_version).filter(|last| last.time() == now.wall);
        let version = Version::draw(now.wall, self.version_tail, held.max(writing).max(last));
        self.last_version = version;
        version
    }

    /// Nobody can be asked: the record is kept here, to be spread when there is somebody; by a
    /// client, which holds nothing, as long as a confirm would wait.
    fn keep_put(&mut self, now: Now, client: Option<ClientId>, record: Record, expires: Time, out: &mut Actions) {
        let key = record.key;
        let waits = self.waits_to_join();
        let holds = self.params.serving == Serving::Yes;
        if !holds && !waits {
            return self.refuse_put(now, client, key, "this node holds nothing and knows nobody", out);
        }
        if holds && self.storage.store(now.mono, record.clone(), expires) != Stored::Held {
            return self.refuse_put(now, client, key, "storage is full", out);
        }
        if self.is_founder_alone() {
            self.counters.puts_held += 1;
        } else if holds {
            self.spread_later(now, key);
        }
        match client {
            client if waits && (client.is_some() || !holds) => {
                self.begin_put(now, client, record, expires, PutStage::Parked, out);
            }
            Some(client) => out.reply_done(client, key),
            None => {}
        }
    }

    fn refuse_put(&mut self, now: Now, client: Option<ClientId>, key: Key, reason: &str, out: &mut Actions) {
        self.counters.puts_refused += 1;
        if self.refusal_logged.is_none_or(|at| now.mono - at >= REFUSAL_LOG_PAUSE) {
            self.refusal_logged = Some(now.mono);
            warn!("put refused key={key:.8} reason={reason:?} refused={}", self.counters.puts_refused);
        }
        if let Some(client) = client {
            out.reply_failure(client, key);
        }
    }

    /// Spreads a record that is held here and was PUT when nobody could be asked.
    pub(super) fn spread_kept(&mut self, now: Now, key: &Key, out: &mut Actions) {
        let Some(Held { record, expires }) = self.storage.find(now.mono, key) else { return };
        let (record, expires) = (record.clone(), *expires);
        if self.jobs.writing(key).is_some() {
            return;
        }
        let stage = PutStage::Searching(self.search(*key));
        self.begin_put(now, None, record, expires, stage, out);
    }

    /// Begins, or begins again, to search the holders of a PUT.
    pub(super) fn search_holders(&mut self, now: Now, job: JobId, out: &mut Actions) {
        let Some(put) = self.jobs.put(job) else { return };
        let key = put.record.key;
        self.timers.cancel(Timer::Retry(job));
        let lookup = self.search(key);
        if let Some(put) = self.jobs.put(job) {
            put.stage = PutStage::Searching(lookup);
        }
        self.drive(now, job, out);
    }

    /// The search of a PUT is done: `nearest` answered it.
    pub(super) fn spread_put(&mut self, now: Now, job: JobId, nearest: Vec<Contact>, out: &mut Actions) {
        let serving = self.params.serving;
        let me = self.me.id;
        let Some(put) = self.jobs.put(job) else { return };
        let distance = |id: &NodeId| id.key().distance(&put.record.key);
        let own_place = nearest.partition_point(|contact| distance(&contact.id) < distance(&me));
        put.spares = nearest.into_iter().map(Target::Peer).collect();
        if serving == Serving::Yes {
            put.spares.insert(own_place, Target::Me);
        }
        put.spares.retain(|target| match target {
            Target::Me => !put.holders.contains(&me),
            Target::Peer(contact) => !put.holders.contains(&contact.id),
        });
        let reachable = put.holders.len() + put.spares.len();
        put.wanted = reachable.min(usize::from(put.record.replication));
        put.round += 1;
        put.stage = PutStage::Spreading;
        self.spread_on(now, job, out);
    }

    /// Hands out copies until enough are held or on their way, or nobody is left to ask.
    fn spread_on(&mut self, now: Now, job: JobId, out: &mut Actions) {
        while let Some((target, round)) = self.next_holder(job) {
            match target {
                Target::Me => self.hold_own(now, job, out),
                Target::Peer(contact) => {
                    if self.ask(now, contact, Purpose::Store(job, round), out)
                        && let Some(put) = self.jobs.put(job)
                    {
                        put.in_flight += 1;
                    }
                }
            }
        }
        let Some(put) = self.jobs.put(job).filter(|put| put.is_spreading()) else { return };
        if put.is_held()
            && let Some(client) = put.client.take()
        {
            out.reply_done(client, put.record.key);
        }
        if put.in_flight > 0 {
            return;
        }
        if put.is_held() {
            self.counters.puts_held += 1;
            self.end_put(job);
        } else {
            self.pause_put(now, job);
        }
    }

    /// The next one to be handed a copy, and in which spreading.
    fn next_holder(&mut self, job: JobId) -> Option<(Target, u32)> {
        let put = self.jobs.put(job).filter(|put| put.is_spreading())?;
        put.next_target().map(|target| (target, put.round))
    }

    fn hold_own(&mut self, now: Now, job: JobId, out: &mut Actions) {
        let me = self.me.id;
        let Some(put) = self.jobs.put(job) else { return };
        match self.storage.store(now.mono, put.record.clone(), put.expires) {
            Stored::Held => put.held_by(me),
            Stored::Larger(rank) => self.superseded(now, job, rank, out),
            Stored::Over | Stored::Full => {}
        }
    }

    /// Whether a PUT is in its spreading of that number, and of that key.
    pub(super) fn is_current(&mut self, job: JobId, round: u32, key: &Key) -> bool {
        self.jobs.put(job).is_some_and(|put| put.round == round && put.record.key == *key)
    }

    /// A peer answered a STORE of the current spreading; if late, another was asked meanwhile.
    pub(super) fn copy_answered(
        &mut self,
        now: Now,
        job: JobId,
        ask: &Ask,
        (outcome, held): (StoreOutcome, Rank),
        out: &mut Actions,
    ) {
        let Some(put) = self.jobs.put(job).filter(|put| put.is_spreading()) else { return };
        if !ask.missed {
            put.in_flight -= 1;
        }
        match outcome {
            StoreOutcome::Held => put.held_by(ask.to.id),
            StoreOutcome::Larger if may_supersede(now, held, &put.record) => {
                return self.superseded(now, job, held, out);
            }
            // It claims what cannot be, and so holds no copy.
            StoreOutcome::Larger => {}
        }
        self.spread_on(now, job, out);
    }

    /// A peer does not hold the copy: the next nearest is asked.
    pub(super) fn copy_failed(&mut self, now: Now, job: JobId, round: u32, out: &mut Actions) {
        let current = self.jobs.put(job).is_some_and(|put| put.round == round);
        if current && let Some(put) = self.jobs.put(job).filter(|put| put.is_spreading()) {
            put.in_flight -= 1;
            self.spread_on(now, job, out);
        }
    }

    /// Somebody holds a larger record, so this PUT is over; unless the time in that version lies
    /// ahead of our own clock, which then is the slower one: the version is drawn anew above it,
    /// once (`PROTOCOL.md` 3).
    fn superseded(&mut self, now: Now, job: JobId, by: Rank, out: &mut Actions) {
        let tail = self.version_tail;
        let Some(put) = self.jobs.put(job) else { return };
        let other_is_fast = by.class == Class::Plain && by.version.time() > now.wall;
        if other_is_fast && !by.version.is_too_early(now.wall) && !put.redrawn {
            put.redrawn = true;
            put.holders.clear();
            put.in_flight = 0;
            put.record.version = Version::draw(now.wall, tail, Some(by.version));
            return self.search_holders(now, job, out);
        }
        debug!("put superseded key={:.8}", put.record.key);
        let (client, key) = (put.client.take(), put.record.key);
        self.end_put(job);
        if let Some(client) = client {
            out.reply_failure(client, key);
        }
    }

    /// Too few hold it: another try after a pause, while there is time for one.
    fn pause_put(&mut self, now: Now, job: JobId) {
        let in_time = self.timers.is_set(Timer::Answer(job));
        let Some(put) = self.jobs.put(job) else { return };
        if !in_time || put.expires <= now.mono {
            self.end_put(job);
            return;
        }
        put.stage = PutStage::Parked;
        let pause = RETRY_PAUSE * 2_u32.saturating_pow(put.round.saturating_sub(1));
        self.timers.set(Timer::Retry(job), now.mono + pause);
    }

    /// The time of a PUT is over. A client that waits is told FAILURE, which means *unknown*:
    /// what is on its way goes on.
    pub(super) fn put_timed_out(&mut self, job: JobId, out: &mut Actions) {
        let Some(put) = self.jobs.put(job) else { return };
        let (client, key) = (put.client.take(), put.record.key);
        let parked = matches!(put.stage, PutStage::Parked);
        if let Some(client) = client {
            out.reply_failure(client, key);
        }
        if parked {
            self.end_put(job);
        }
    }

    fn end_put(&mut self, job: JobId) {
        if let Some(put) = self.jobs.put(job) {
            let (key, replication, rounds) = (put.record.key, put.record.replication, put.round);
            let held = put.holders.len();
            debug!("put done key={key:.8} held={held} replication={replication} rounds={rounds}");
        }
        self.end_job(job);
    }
}

/// Both.
impl Node {
    /// A search for `key` that begins with whom this node knows.
    pub(super) fn search(&mut self, key: Key) -> Lookup {
        self.table.closest(&key, self.params.k, &mut self.nearby);
        Lookup::new(self.me.id, key, self.params.k, self.params.alpha, &self.nearby)
    }

    /// A search is done.
    pub(super) fn search_done(&mut self, now: Now, job: JobId, out: &mut Actions) {
        let Some(lookup) = self.jobs.lookup(job) else { return };
        let target = *lookup.target();
        let nearest: Vec<Contact> = lookup.answered().copied().collect();
        let silent = lookup.asked() > nearest.len();
        match self.jobs.find(job) {
            Some(Job::Get(get)) if silent && !get.again => {
                get.again = true;
                self.search_value(now, job, out);
            }
            Some(Job::Get(_)) => self.give_up_get(now, job, out),
            Some(Job::Put(_)) => self.spread_put(now, job, nearest, out),
            Some(Job::Join(_) | Job::Refresh(_)) => {
                self.end_job(job);
                self.upkeep_search_done(now, target, &nearest);
            }
            None => {}
        }
    }

    pub(super) fn end_job(&mut self, job: JobId) {
        self.jobs.remove(job);
        self.timers.cancel(Timer::Answer(job));
        self.timers.cancel(Timer::Retry(job));
    }
}

/// Whether a record of the rank `by` can be the larger one: a version from the far future is
/// ignored by everyone who meets it (`PROTOCOL.md` 3).
fn may_supersede(now: Now, by: Rank, record: &Record) -> bool {
    let order = |rank: Rank| (rank.class.certifies_itself(), rank.version);
    !by.version.is_too_early(now.wall) && order(by) >= order(record.rank())
}
