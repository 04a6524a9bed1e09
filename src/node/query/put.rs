//! A client's PUT, from request to answer: a version is drawn or verified, the nearest nodes are
//! searched, each is handed a copy, and the next nearest in the place of those that fail.
//!
//! The search ends when as many have answered as shall hold the record. The others of the k nearest,
//! its *bystanders*, are asked beside the copies whether they hold an older one, which then gives way
//! to a copy: two holders of an old record that agree would be enough for a GET.
//!
//! What a client may rely on (`PROTOCOL.md` 1 and 3): a PUT is answered only if it asked for it,
//! by SUCCESS once the record is held by min(replication, reachable) nodes, as the durability of
//! each says; whoever reads here after writing here sees what was written, or something newer;
//! and what was taken is spread until enough hold it ([`crate::node::query::put_retry`]), or somebody holds a
//! larger one. What a record claims by its class is verified before anything else happens.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use log::{debug, warn};

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::limits::{PUT_RETRY_PAUSE, PUT_RETRY_PAUSE_MAX};
use crate::node::Node;
use crate::node::action::{Actions, ClientId};
use crate::node::params::Serving;
use crate::node::query::session::Seen;
use crate::node::query::{Put, PutOrigin, PutStage, Query, QueryId};
use crate::node::records::accept::Replica;
use crate::node::records::persistence::{OnDisk, Waiter};
use crate::node::rpc::outbound::{Ask, Purpose};
use crate::node::timers::Timer;
use crate::record::envelope::{Envelope, Unverified, verify};
use crate::record::{Age, Class, Rank, Record, Source, Ttl, Version, crc_of, end_of_life};
use crate::storage::Stored;
use crate::time::{Now, Time};
use crate::wire::api::{Confirm, Put as PutRequest};
use crate::wire::peer::{Entry, StoreOutcome};

/// A storage that is full refuses many PUTs: the log is told of one, and of how many there were.
const REFUSAL_LOG_PAUSE: Duration = Duration::from_secs(1);

/// Taking.
impl Node {
    /// A client wants a value held.
    pub(in crate::node) fn start_put(
        &mut self,
        now: Now,
        client: ClientId,
        request: &PutRequest<'_>,
        out: &mut Actions,
    ) {
        self.counters.puts += 1;
        let client = match request.confirm {
            Confirm::Yes => Some(client),
            Confirm::No => None,
        };
        if let Err(refused) = self.take_put(now, client, request, out) {
            self.refuse_put(now, client, request.key, refused, out);
        }
    }

    fn take_put(
        &mut self,
        now: Now,
        client: Option<ClientId>,
        request: &PutRequest<'_>,
        out: &mut Actions,
    ) -> Result<(), Refused> {
        let (record, expires) = self.record_of(now, request)?;
        if record.class == Class::Plain {
            self.last_version = record.version;
        }
        let (key, seen) = (record.key, Seen::of(record.rank()));
        let (waits, holds) = (self.waits_to_join(), self.params.serving == Serving::Yes);
        let alone = self.table.live() == 0;
        if alone && !waits && !holds {
            return Err(Refused::Nobody);
        }
        if alone && holds {
            // Nobody can be asked now: if this node does not hold the record, nobody does.
            held(self.hold(now, record.clone(), expires, Source::Client))?;
        } else if self.storage.find(now.mono, &key).is_some() {
            // It may go to others alone: the older one would be served here once it has.
            self.hold(now, record.clone(), expires, Source::Client);
        }
        if waits && holds && client.is_none() {
            held(self.keep(now, record, expires, Duration::ZERO))?;
        } else if holds && self.is_founder_alone() && !self.saves_first() {
            self.put_retries.forget(&key);
            // It is held by all there are: no search, and nobody to wait for.
            self.counters.puts_held += 1;
            if let Some(client) = client {
                out.reply_done(client, key);
            }
        } else {
            self.put_retries.forget(&key);
            let put = Put::new(client, record, expires, PutOrigin::Client, PUT_RETRY_PAUSE);
            self.begin_put(now, put, out);
        }
        if alone && holds {
            self.versions.remember(key, seen); // what is held is this very record, which was shown to nobody
        } else {
            self.remember_seen(key, seen);
        }
        Ok(())
    }

    /// Begins to spread a record, or parks it until there is somebody to ask.
    pub(in crate::node) fn begin_put(&mut self, now: Now, put: Put, out: &mut Actions) {
        let origin = put.origin;
        let query = self.queries.insert(Query::Put(Box::new(put)));
        match origin {
            PutOrigin::Client => self.timers.set(Timer::Answer(query), now.mono + self.params.request_timeout),
            PutOrigin::Retry => {}
        }
        if !self.waits_to_join() {
            self.look_up_replicas(now, query, out);
        }
    }

    /// The record that a PUT asks for, and when its life ends; the cheap reasons to refuse it
    /// first, the signature last.
    fn record_of(&self, now: Now, request: &PutRequest<'_>) -> Result<(Record, Time), Refused> {
        let key = request.key;
        let (held, over) = self.storage.known(now.mono, &key);
        let held = held.map(|held| &held.record);
        let writing = self.queries.writing(&key).map(|(_, put)| &put.record);
        let (version, ttl) = match request.class {
            Class::Plain => {
                let over = over.and_then(|tombstone| tombstone.plain);
                let plain = |record: &Record| (record.class == Class::Plain).then_some(record.version);
                let known = [held.and_then(plain), writing.and_then(plain), over];
                (self.draw_version(now, &key, known), self.ttl_of(request))
            }
            Class::Hashed => (Version::from_bits(0), self.ttl_of(request)),
            Class::Signed => {
                let envelope = Envelope::read(request.value)?;
                if request.ttl != 0 && request.ttl != envelope.ttl.as_secs() {
                    return Err(Refused::Ttl { asked: request.ttl, sealed: envelope.ttl });
                }
                (envelope.sequence, envelope.ttl)
            }
        };
        if version.is_too_early(now.wall) {
            return Err(Refused::TooEarly);
        }
        let expires = end_of_life(now, ttl, Age(0), request.class, version).ok_or(Refused::Over)?;
        let record = Record {
            key,
            class: request.class,
            version,
            ttl,
            replication: self.replication_of(request),
            crc: crc_of(request.value),
            value: request.value.into(),
        };
        if held.into_iter().chain(writing).any(|known| known.compare(&record).is_gt()) {
            return Err(Refused::Larger);
        }
        if over.is_some_and(|over| over.beats(record.class, record.version).is_some()) {
            return Err(Refused::Over);
        }
        verify(&record.key, record.class, record.version, record.ttl, &record.value)?;
        Ok((record, expires))
    }

    /// `PROTOCOL.md` 1, rule 7.
    fn ttl_of(&self, request: &PutRequest<'_>) -> Ttl {
        let params = &self.params;
        Ttl::from_secs(request.ttl).unwrap_or(params.ttl_default).clamp(params.ttl_min, params.ttl_max)
    }

    /// `PROTOCOL.md` 1, rule 8.
    fn replication_of(&self, request: &PutRequest<'_>) -> u8 {
        let most = u8::try_from(self.params.k).expect("k is at most 20");
        match request.replication {
            0 => self.params.replication_default,
            asked => asked.clamp(self.params.replication_min, most),
        }
    }

    /// A version above all that this node has seen of `key`: `known`, or read and written earlier.
    fn draw_version(&self, now: Now, key: &Key, known: [Option<Version>; 3]) -> Version {
        let seen = self.versions.newest(key).and_then(Seen::plain);
        // Within one millisecond the clock does not tell two PUTs of a key apart that were both
        // handed to others.
        let last = Some(self.last_version).filter(|last| last.time() == now.wall);
        let known = known.into_iter().chain([seen, last]).flatten();
        let highest = known.filter(|version| !version.is_too_early(now.wall)).max();
        Version::draw(now.wall, self.version_tail, highest)
    }

    fn refuse_put(&mut self, now: Now, client: Option<ClientId>, key: Key, refused: Refused, out: &mut Actions) {
        self.counters.puts_refused += 1;
        if self.refusal_logged.is_none_or(|at| now.mono - at >= REFUSAL_LOG_PAUSE) {
            self.refusal_logged = Some(now.mono);
            warn!("put refused key={key:.8} reason=\"{refused}\" refused={}", self.counters.puts_refused);
        }
        if let Some(client) = client {
            out.reply_failure(client, key);
        }
    }
}

/// Spreading.
impl Node {
    /// Begins, or begins again, to search the holders of a PUT.
    pub(in crate::node) fn look_up_replicas(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(put) = self.queries.put(query) else { return };
        let (key, replication) = (put.record.key, usize::from(put.record.replication));
        self.timers.cancel(Timer::Retry(query));
        let lookup = self.look_up(key, replication);
        if let Some(put) = self.queries.put(query) {
            put.stage = PutStage::LookingUp(lookup);
        }
        self.drive(now, query, out);
    }

    /// The search of a PUT is done: as many as shall hold the record have answered it, or all that
    /// could be reached. Copies leave for them, and beside these a question to the bystanders.
    pub(in crate::node) fn spread_put(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.overtake(now, query);
        let serving = self.params.serving;
        let (me, k) = (self.me.id, self.params.k);
        let Some(put) = self.queries.put(query) else { return };
        let PutStage::LookingUp(lookup) = &put.stage else { return };
        let distance = |id: &NodeId| id.key().distance(&put.record.key);
        let lacks = |id: &NodeId| !put.replicas.contains(id);
        let reached = put.replicas.len() + lookup.answered().filter(|contact| lacks(&contact.id)).count();
        let nearest = lookup.nearest().filter(|contact| lacks(&contact.id));
        let mut next_targets: VecDeque<Replica> = nearest.take(k).copied().map(Replica::Peer).collect();
        let stores_itself = serving == Serving::Yes && lacks(&me);
        if stores_itself {
            let nearer = |target: &Replica| matches!(target, Replica::Peer(peer) if distance(&peer.id) < distance(&me));
            next_targets.insert(next_targets.partition_point(nearer), Replica::Me);
        }
        put.wanted = (reached + usize::from(stores_itself)).min(usize::from(put.record.replication));
        put.next_targets = next_targets;
        put.attempt += 1;
        put.newer_claims.clear();
        (put.in_flight, put.version_probes) = (0, 0);
        let version_probes: Vec<Contact> = lookup.unasked(k).copied().collect();
        put.stage = PutStage::Spreading;
        let attempt = put.attempt;
        self.hand_out(now, query, out);
        self.probe_versions(now, query, attempt, version_probes, out);
        self.conclude(now, query, out);
    }

    /// Asks those of the k nearest that the search did without what they hold: however few shall hold
    /// the record, whoever keeps an older one would show it to others.
    fn probe_versions(
        &mut self,
        now: Now,
        query: QueryId,
        attempt: u32,
        version_probes: Vec<Contact>,
        out: &mut Actions,
    ) {
        for contact in version_probes {
            // What was handed out may have ended this spreading already.
            if self.spreading(query, attempt).is_none() {
                return;
            }
            if self.ask(now, contact, Purpose::VersionProbe(query, attempt), out)
                && let Some(put) = self.queries.put(query)
            {
                put.version_probes += 1;
            }
        }
    }

    /// Draws a PUT anew above what its search has met ahead of this node's clock, before the first
    /// copy leaves; not above a later one of this node.
    fn overtake(&mut self, now: Now, query: QueryId) {
        let tail = self.version_tail;
        let is_latest = self.queries.is_latest(query);
        let Some(put) = self.queries.put(query) else { return };
        let ahead = put.ahead.take().filter(|ahead| is_latest && *ahead >= put.record.version);
        if let Some(ahead) = ahead {
            put.record.version = Version::draw(now.wall, tail, Some(ahead));
            put.replicas.clear();
            let seen = Seen::of(put.record.rank());
            let key = put.record.key;
            self.remember_seen(key, seen);
        }
    }

    /// Goes on with a spreading, as far as it can.
    fn spread_on(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.hand_out(now, query, out);
        self.conclude(now, query, out);
    }

    /// Hands out copies until enough are held or on their way, or nobody is left to ask.
    fn hand_out(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        while let Some((replica, attempt)) = self.next_replica(query) {
            match replica {
                Replica::Me => self.hold_own(now, query, out),
                Replica::Peer(contact) => {
                    if self.ask(now, contact, Purpose::Store(query, attempt), out)
                        && let Some(put) = self.queries.put(query)
                    {
                        put.in_flight += 1;
                    }
                }
            }
        }
    }

    /// Tells the client what became of a spreading as soon as that is known, and ends it when nobody is
    /// waited for.
    fn conclude(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(put) = self.queries.put(query).filter(|put| put.is_spreading()) else { return };
        if put.is_confirmed()
            && let Some(client) = put.client.take()
        {
            out.reply_done(client, put.record.key);
        }
        if put.in_flight > 0 || put.is_held() && put.version_probes > 0 {
            return;
        }
        if !put.is_held() {
            match put.outvoted() {
                Some(by) => self.superseded(now, query, by, out),
                None => self.pause_put(now, query),
            }
        } else if self.table.live() == 0 && !self.is_founder_alone() {
            // There are others, but none could be reached.
            self.retry_later(now, query);
        } else {
            self.counters.puts_held += 1;
            self.end_put(query);
        }
    }

    /// The next one to be handed a copy, and in which spreading.
    fn next_replica(&mut self, query: QueryId) -> Option<(Replica, u32)> {
        let put = self.queries.put(query).filter(|put| put.is_spreading())?;
        put.next_target().map(|replica| (replica, put.attempt))
    }

    fn hold_own(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let me = self.me.id;
        let Some(put) = self.queries.put(query) else { return };
        let (record, expires, attempt) = (put.record.clone(), put.expires, put.attempt);
        let key = record.key;
        match self.hold(now, record, expires, Source::Client) {
            Stored::Held => {
                let on_disk = self.wait_for_disk(now, key, Waiter::Own(query, attempt));
                let Some(put) = self.queries.put(query) else { return };
                match on_disk {
                    OnDisk::Now => put.stored_by(me),
                    OnDisk::Later => put.in_flight += 1,
                }
            }
            Stored::Larger(rank) => self.superseded(now, query, rank, out),
            Stored::Over | Stored::Full => {}
        }
    }

    /// This node's own copy of the current spreading is on disk.
    pub(in crate::node) fn own_copy_saved(&mut self, now: Now, query: QueryId, attempt: u32, out: &mut Actions) {
        let me = self.me.id;
        let Some(put) = self.spreading(query, attempt) else { return };
        put.in_flight -= 1;
        put.stored_by(me);
        self.spread_on(now, query, out);
    }

    /// A PUT, if it is in its spreading of that number and copies are on their way.
    fn spreading(&mut self, query: QueryId, attempt: u32) -> Option<&mut Put> {
        self.queries.put(query).filter(|put| put.attempt == attempt && put.is_spreading())
    }

    /// Whether a PUT is in its spreading of that number, and of that key.
    pub(in crate::node) fn is_current(&mut self, query: QueryId, attempt: u32, key: &Key) -> bool {
        self.queries.put(query).is_some_and(|put| put.attempt == attempt && put.record.key == *key)
    }

    /// A peer answered a STORE of the current spreading; if late, another was asked meanwhile.
    pub(in crate::node) fn copy_answered(
        &mut self,
        now: Now,
        query: QueryId,
        ask: &Ask,
        (outcome, held): (StoreOutcome, Rank),
        out: &mut Actions,
    ) {
        let Some(put) = self.queries.put(query).filter(|put| put.is_spreading()) else { return };
        if !ask.expired {
            put.in_flight -= 1;
        }
        put.stale_replicas.retain(|id| *id != ask.to.id);
        match outcome {
            StoreOutcome::Held => {
                put.stored_by(ask.to.id);
                let (key, rank) = (put.record.key, put.record.rank());
                self.give_up_older(now, &key, rank);
            }
            // It claims what cannot be, and so holds no copy.
            StoreOutcome::Larger if !may_supersede(now, held, &put.record) => {}
            StoreOutcome::Larger => match put.record.class {
                Class::Plain => return self.superseded(now, query, held, out),
                // Nobody can forge such a record, but anybody can claim to hold one.
                Class::Signed | Class::Hashed => put.newer_claims.push(held),
            },
        }
        self.spread_on(now, query, out);
    }

    /// A bystander says what it holds, if it holds any: an older record is replaced, a plain one from
    /// ahead of this node's clock is overtaken, once.
    pub(in crate::node) fn version_probed(
        &mut self,
        now: Now,
        query: QueryId,
        attempt: u32,
        ask: &Ask,
        entry: Option<Entry>,
        out: &mut Actions,
    ) {
        let is_latest = self.queries.is_latest(query);
        let Some(put) = self.spreading(query, attempt) else { return };
        if let Some(entry) = entry.filter(|entry| entry.key == put.record.key) {
            put.met(now, ask.to.id, entry.rank);
        }
        if !ask.expired {
            put.version_probes -= 1;
        }
        let overtakes = put.ahead.is_some_and(|ahead| ahead >= put.record.version) && !put.redrawn && is_latest;
        if overtakes {
            put.redrawn = true;
            return self.look_up_replicas(now, query, out);
        }
        self.spread_on(now, query, out);
    }

    /// A bystander says nothing, or not in time.
    pub(in crate::node) fn version_probe_failed(&mut self, now: Now, query: QueryId, attempt: u32, out: &mut Actions) {
        if let Some(put) = self.spreading(query, attempt) {
            put.version_probes -= 1;
            self.spread_on(now, query, out);
        }
    }

    /// A peer does not hold the copy: the next nearest is asked.
    pub(in crate::node) fn copy_failed(&mut self, now: Now, query: QueryId, attempt: u32, out: &mut Actions) {
        if let Some(put) = self.spreading(query, attempt) {
            put.in_flight -= 1;
            self.spread_on(now, query, out);
        }
    }

    /// Somebody holds a larger record, so this PUT is over; unless both are plain and the time in
    /// the larger version lies ahead of our own clock, which then is the slower one: the version is
    /// drawn anew above it, once (`PROTOCOL.md` 3). Not above a later PUT of this node's clients.
    fn superseded(&mut self, now: Now, query: QueryId, by: Rank, out: &mut Actions) {
        let tail = self.version_tail;
        let is_latest = self.queries.is_latest(query);
        let Some(put) = self.queries.put(query) else { return };
        let key = put.record.key;
        let both_plain = by.class == Class::Plain && put.record.class == Class::Plain;
        let other_is_fast = both_plain && by.version.time() > now.wall;
        if other_is_fast && is_latest && !by.version.is_too_early(now.wall) && !put.redrawn {
            put.redrawn = true;
            put.replicas.clear();
            put.record.version = Version::draw(now.wall, tail, Some(by.version));
            let seen = Seen::of(put.record.rank());
            self.remember_seen(key, seen);
            return self.look_up_replicas(now, query, out);
        }
        debug!("put superseded key={key:.8}");
        // Whatever of this PUT is held here is not shown before the larger one was looked for.
        self.remember_seen(key, Seen::of(by));
        if let Some(put) = self.queries.put(query)
            && let Some(client) = put.client.take()
        {
            out.reply_failure(client, key);
        }
        self.end_put(query);
    }
}

/// Ending.
impl Node {
    /// Too few hold it: another try after a pause, by this job while there is time for one.
    fn pause_put(&mut self, now: Now, query: QueryId) {
        let in_time = self.timers.is_set(Timer::Answer(query));
        let Some(put) = self.queries.put(query) else { return };
        if put.expires <= now.mono {
            self.end_put(query);
        } else if in_time {
            put.stage = PutStage::Parked;
            self.timers.set(Timer::Retry(query), now.mono + put.pause);
        } else {
            self.retry_later(now, query);
        }
    }

    /// The pause of a PUT is over.
    pub(in crate::node) fn retry_put(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        if let Some(put) = self.queries.put(query) {
            put.pause = (2 * put.pause).min(PUT_RETRY_PAUSE_MAX);
        }
        self.look_up_replicas(now, query, out);
    }

    /// The time of a PUT is over. A client that waits is told FAILURE, which means *unknown*:
    /// the spreading goes on.
    pub(in crate::node) fn put_timed_out(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(put) = self.queries.put(query) else { return };
        let (client, key) = (put.client.take(), put.record.key);
        let parked = matches!(put.stage, PutStage::Parked);
        if let Some(client) = client {
            out.reply_failure(client, key);
        }
        if parked {
            self.retry_later(now, query);
        }
    }

    /// Ends a PUT that too few hold, and keeps what it stores; unless this node has taken a later one
    /// of its key, which would be hidden by it.
    fn retry_later(&mut self, now: Now, query: QueryId) {
        let is_latest = self.queries.is_latest(query);
        let Some(put) = self.queries.put(query) else { return };
        let (record, expires, pause) = (put.record.clone(), put.expires, put.pause);
        self.end_put(query);
        if is_latest {
            self.keep(now, record, expires, pause);
        }
    }

    fn end_put(&mut self, query: QueryId) {
        let Some(put) = self.queries.put(query) else { return };
        let (key, replication, attempts) = (put.record.key, put.record.replication, put.attempt);
        debug!("put done key={key:.8} held={} replication={replication} rounds={attempts}", put.replicas.len());
        let origin = put.origin;
        self.end_query(query);
        match origin {
            PutOrigin::Client => {}
            PutOrigin::Retry => {
                self.put_retries.attempt_over();
                self.schedule_retries();
            }
        }
    }
}

/// Whether a record of the rank `by` can be the larger one: a version from the far future is
/// ignored by everyone who meets it (`PROTOCOL.md` 3), and nothing is larger than a hashed record.
fn may_supersede(now: Now, by: Rank, record: &Record) -> bool {
    record.class != Class::Hashed && !by.version.is_too_early(now.wall) && Seen::of(by) >= Seen::of(record.rank())
}

/// Why a PUT cannot be taken, if it cannot be held.
fn held(stored: Stored) -> Result<(), Refused> {
    match stored {
        Stored::Held => Ok(()),
        Stored::Larger(_) => Err(Refused::Larger),
        Stored::Over => Err(Refused::Over),
        Stored::Full => Err(Refused::Full),
    }
}

/// Why a PUT is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// It does not prove what its class claims.
    NotVerified(Unverified),
    /// It asks for another life than was signed.
    Ttl {
        /// Seconds asked for.
        asked: u16,
        /// What was signed.
        sealed: Ttl,
    },
    /// Its version lies too far ahead.
    TooEarly,
    /// Its life, or that of its version, is over.
    Over,
    /// This node holds, or is writing, a larger record.
    Larger,
    /// The storage is full.
    Full,
    /// This node holds nothing, and knows nobody who does.
    Nobody,
}

impl From<Unverified> for Refused {
    fn from(error: Unverified) -> Self {
        Self::NotVerified(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVerified(error) => write!(f, "not verified: {error}"),
            Self::Ttl { asked, sealed } => write!(f, "TTL {asked}, expected 0 or the signed {}", sealed.as_secs()),
            Self::TooEarly => write!(f, "its version lies too far ahead"),
            Self::Over => write!(f, "its life is over"),
            Self::Larger => write!(f, "a larger record is known"),
            Self::Full => write!(f, "storage is full"),
            Self::Nobody => write!(f, "this node holds nothing and knows nobody"),
        }
    }
}
