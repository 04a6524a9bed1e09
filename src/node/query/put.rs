//! The PUT of a client, from request to answer. This node draws a version, or verifies the one of a
//! signed record, looks up the nodes nearest to the key, and sends each a copy. If one fails, the next
//! nearest gets a copy instead.
//!
//! The lookup ends when as many nodes have answered as the record needs replicas. While the copies are in
//! flight, the other nodes among the k nearest are asked which version they store (a *version probe*).
//! A node with an older version gets a copy too, because two stale replicas that agree would satisfy the
//! read quorum of a GET. A node that answers too late, when the PUT has gone on without it, gets its copy then.
//!
//! Guarantees (`PROTOCOL.md` 1 and 3):
//!
//! - A PUT is answered only if it asks for it: by SUCCESS when min(replication, reachable nodes) nodes store
//!   the record, each with its configured durability, in each address family of the network
//!   ([`crate::node::query::relay`]). The copy of this node alone is enough only if this node is the whole network.
//! - A client that writes and then reads through this node gets the record that it wrote, or a newer one.
//! - An accepted PUT is retried until enough replicas store the record
//!   ([`crate::node::query::put_retry`]), a newer record is found, or the life of the record ends.
//! - Signatures and hashes are verified before the record is stored or sent.

use std::fmt;
use std::time::Duration;

use log::{debug, warn};

use crate::id::Key;
use crate::limits::{PUT_RETRY_PAUSE, PUT_RETRY_PAUSE_MAX};
use crate::node::Node;
use crate::node::action::{Actions, ClientId, Taken};
use crate::node::params::Serving;
use crate::node::persisted::Saved;
use crate::node::purpose::{Attempt, Copied, Outcome, Purpose, QueryId};
use crate::node::query::Query;
use crate::node::query::get::Known;
use crate::node::query::relay::Relayed;
use crate::node::query::write_quorum::{Next, Others, Put, PutOrigin, Replaced};
use crate::node::records::accept::Replica;
use crate::node::records::changes::Waiter;
use crate::node::records::persistence::OnDisk;
use crate::node::rpc::outbound::{Call, Report};
use crate::node::timers::Timer;
use crate::record::envelope::{Envelope, Unverified, verify_record};
use crate::record::{Age, Class, Precedence, Rank, Record, Source, Ttl, Version, crc_of, end_of_life};
use crate::storage::Stored;
use crate::time::{Now, Time};
use crate::wire::api::{Confirm, Put as PutRequest};
use crate::wire::peer::{ErrorCode, Reply, StoreOutcome};

/// The shortest time between two lines in the log on PUTs that fail: a full storage refuses many.
const FAILURE_LOG_PAUSE: Duration = Duration::from_secs(1);

/// Accepting.
impl Node {
    /// A client asks to store a value.
    pub(crate) fn start_put(
        &mut self,
        now: Now,
        client: ClientId,
        request: &PutRequest<'_>,
        out: &mut Actions,
    ) -> Taken {
        if !self.wants_requests_of(client.connection) {
            return Taken::NoRoom;
        }
        self.counters.puts += 1;
        self.take_put(now, client, request, out).unwrap_or_else(|refused| {
            let client = (request.confirm == Confirm::Yes).then_some(client);
            self.refuse_put(now, client, request.key, refused, out);
            Taken::Done
        })
    }

    fn take_put(
        &mut self,
        now: Now,
        asking: ClientId,
        request: &PutRequest<'_>,
        out: &mut Actions,
    ) -> Result<Taken, Refused> {
        let client = (request.confirm == Confirm::Yes).then_some(asking);
        let (record, expires) = self.record_of(now, request)?;
        if record.class == Class::Plain {
            self.last_version = record.version;
        }
        let (key, seen) = (record.key, record.rank().precedence());
        let (waits, holds) = (self.access(now).waits(), self.params.serving == Serving::Yes);
        let alone = self.table.live() == 0;
        let is_only_copy = holds
            && self.is_founder_alone()
            && !self.saves_first(client.is_some())
            && self.queries.writing(&key).is_none(); // this one stands for those that wait
        let replaced = if is_only_copy { None } else { self.replaced_by(now, &record) };
        if alone && !waits && !holds {
            return Err(Refused::NoReplicas);
        }
        if alone && holds {
            // No peer can be reached, so this node has to store the record.
            held(self.hold(now, record.clone(), expires, Source::Client))?;
        } else if self.storage.find(now.mono, &key).is_some() {
            // Otherwise this node would return its older record after the PUT, if only peers get copies.
            self.hold(now, record.clone(), expires, Source::Client);
        }
        let mut taken = Taken::Done;
        if waits && holds && client.is_none() {
            held(self.schedule_retry(now, record, expires, Duration::ZERO))?;
        } else if is_only_copy {
            self.put_retries.forget(&key);
            // This node is the whole network, so the PUT is done without a lookup.
            self.counters.puts_held += 1;
            if let Some(client) = client {
                out.reply_done(client, key);
            }
        } else {
            self.put_retries.forget(&key);
            let origin = PutOrigin::Client { connection: asking.connection, taken: now.mono };
            let mut put = Put::new(client, record, expires, origin, PUT_RETRY_PAUSE);
            put.replaced = replaced;
            self.begin_put(now, put, out);
            taken = Taken::InFlight;
        }
        if alone && holds {
            // The storage has exactly this record, so it need not be compared with a newer one.
            self.versions.remember(key, seen);
        } else {
            self.remember_seen(key, seen);
        }
        Ok(taken)
    }

    /// Starts a PUT. Its first attempt begins at once, or when the node has joined.
    pub(crate) fn begin_put(&mut self, now: Now, put: Put, out: &mut Actions) {
        let (origin, key) = (put.origin, put.key());
        let query = self.queries.insert(Query::Put(Box::new(put)));
        if matches!(origin, PutOrigin::Client { .. }) {
            self.timers.set(Timer::Answer(query), now.mono + self.params.request_timeout);
        }
        self.stand_for_previous(&key, query, out);
        self.start_turn(now, &key, out);
    }

    /// The record that a PUT asks to store, and the end of its life. The checks are in the order of their
    /// cost: the signature is verified last.
    fn record_of(&self, now: Now, request: &PutRequest<'_>) -> Result<(Record, Time), Refused> {
        let key = request.key;
        let (held, over) = self.storage.known(now, &key);
        let known = self.newest_known(now, &key, held).map(|Known { record, .. }| record);
        let (version, ttl) = match request.class {
            Class::Plain => {
                let over = over.and_then(|tombstone| tombstone.plain);
                let known = known.and_then(|record| record.rank().precedence().plain());
                (self.draw_version(now, &key, [known, over]), self.ttl_of(request))
            }
            Class::Hashed => (Version::from_bits(0), self.ttl_of(request)),
            Class::Signed => {
                let envelope = Envelope::read(request.value).map_err(Refused::NotVerified)?;
                if request.ttl != 0 && request.ttl != envelope.ttl.as_secs() {
                    return Err(Refused::Ttl { requested: request.ttl, signed: envelope.ttl });
                }
                (envelope.sequence, envelope.ttl)
            }
        };
        if version.is_too_early(now.wall) {
            return Err(Refused::TooEarly);
        }
        if self.is_too_early(now, version) {
            return Err(Refused::OwnClock);
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
        if known.is_some_and(|known| known.compare(&record).is_gt()) {
            return Err(Refused::Larger);
        }
        if over.is_some_and(|over| over.beats(record.rank().precedence()).is_some()) {
            return Err(Refused::Over);
        }
        verify_record(&record).map_err(Refused::NotVerified)?;
        Ok((record, expires))
    }

    /// The life of a record, in the configured range (`PROTOCOL.md` 1, rule 7).
    fn ttl_of(&self, request: &PutRequest<'_>) -> Ttl {
        let params = &self.params;
        Ttl::from_secs(request.ttl).unwrap_or(params.ttl_default).clamp(params.ttl_min, params.ttl_max)
    }

    /// The number of replicas, in the configured range (`PROTOCOL.md` 1, rule 8).
    fn replication_of(&self, request: &PutRequest<'_>) -> u8 {
        let most = u8::try_from(self.params.k).expect("k is at most 20");
        match request.replication {
            0 => self.params.replication_default,
            requested => requested.clamp(self.params.replication_min, most),
        }
    }

    /// A version above `known`, and above all that clients have read or written of `key` through this
    /// node.
    fn draw_version(&self, now: Now, key: &Key, known: [Option<Version>; 2]) -> Version {
        let seen = self.versions.newest(key).and_then(Precedence::plain);
        // Two PUTs of a key in one millisecond need different versions, even if this node stores
        // neither of them.
        let last = Some(self.last_version).filter(|last| last.time() == now.wall);
        let known = known.into_iter().chain([seen, last]).flatten();
        let highest = known.filter(|version| !version.is_too_early(now.wall)).max();
        Version::draw(now.wall, self.version_tail, highest)
    }

    fn refuse_put(&mut self, now: Now, client: Option<ClientId>, key: Key, refused: Refused, out: &mut Actions) {
        self.counters.puts_refused += 1;
        if self.may_log_failure(now) {
            warn!("put refused key={key:.8} reason=\"{refused}\" refused={}", self.counters.puts_refused);
        }
        if let Some(client) = client {
            out.reply_failure(client, key);
        }
    }

    /// Whether a PUT that fails now gets a line in the log: not all do, if many fail.
    fn may_log_failure(&mut self, now: Now) -> bool {
        let may = self.put_failure_logged.is_none_or(|at| now.mono - at >= FAILURE_LOG_PAUSE);
        if may {
            self.put_failure_logged = Some(now.mono);
        }
        may
    }
}

/// Attempts.
impl Node {
    /// Starts the lookup of the nodes that store the record of a PUT. Each attempt begins with one.
    pub(crate) fn look_up_replicas(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.plan_relay(now, query);
        let Some(put) = self.queries.put(query) else { return };
        let (key, overlay) = (put.key(), put.overlay);
        let width = if put.asks_all() { self.params.k } else { usize::from(put.record.replication) };
        self.timers.cancel(Timer::Retry(query));
        let lookup = self.look_up_in(key, width, overlay);
        if let Some(put) = self.queries.put(query) {
            put.look_up(lookup);
        }
        self.advance(now, query, out);
    }

    /// The lookup of a PUT is done, so this attempt starts to send copies: as many nodes have answered as
    /// the record needs replicas, or all reachable ones.
    pub(crate) fn spread_put(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let me = (self.params.serving == Serving::Yes && self.is_dialled()).then_some(self.me.id);
        if self.queries.put(query).is_some_and(Put::looks_again) {
            return self.look_up_replicas(now, query, out);
        }
        if let Some(ahead) = self.queries.put(query).and_then(Put::take_ahead) {
            self.raise_put(now, query, ahead);
        }
        let clock = self.own_clock();
        let others = if self.is_only_node() { Others::None } else { Others::Exist };
        self.note_unresponsive(now, query);
        if self.queries.put(query).is_some_and(|put| put.spread(me, self.params.k, clock, others)) {
            self.doubt_clock_if_contradicted(now, query);
            self.advance_put(now, query, out);
        }
    }

    /// Performs the next steps of a PUT, until it waits or ends. It also waits if there is no room for a request:
    /// without one, it would be confirmed by too few replicas, or miss one with an older record.
    pub(crate) fn advance_put(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        loop {
            let may_call = self.may_call();
            let Some(put) = self.queries.put(query) else { return };
            if put.expires <= now.mono {
                // Nothing is left that others could read.
                if !self.relay_done(now, query, Relayed::Failed, out) {
                    self.fail_put(now, query, Refused::Over, out);
                }
                return;
            }
            if !may_call {
                return self.queries.wait_for_room(query);
            }
            let attempt = Attempt { query, number: put.attempt };
            match put.next() {
                Next::Copy(Replica::Me) => self.store_own_copy(now, query, out),
                Next::Copy(Replica::Peer(contact)) => {
                    self.call(now, contact, Purpose::Copy(Copied::Put(attempt)), out);
                }
                Next::Probe(contact) => self.call(now, contact, Purpose::ProbeVersion(attempt), out),
                Next::Relay => self.relay_put(now, attempt, out),
                Next::Confirm(client) => out.reply_done(client, put.key()),
                Next::Wait => return,
                Next::Stored => return self.put_stored(now, query, out),
                Next::TooFew => return self.pause_put(now, query, out),
                Next::Superseded(by) => return self.superseded(now, query, by, out),
                Next::Refused(code) => return self.put_refused(now, query, code, out),
            }
        }
    }

    fn store_own_copy(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(put) = self.queries.put(query) else { return };
        let (record, expires, attempt) = (put.record.clone(), put.expires, Attempt { query, number: put.attempt });
        let (key, is_told) = (record.key, put.is_told());
        let replaced = self.replaced_by(now, &record);
        let stored = if record.is_plausible(now.wall) {
            self.hold(now, record, expires, Source::Client)
        } else {
            Stored::Over // the wall clock was set
        };
        if let Some(put) = self.queries.put(query).filter(|put| put.replaced.is_none() && stored == Stored::Held) {
            put.replaced = replaced;
        }
        let saves_first = stored == Stored::Held && self.saves_first(is_told);
        let on_disk = if saves_first { self.save_first(now, key, Waiter::Own(attempt)) } else { OnDisk::Now };
        if on_disk == OnDisk::Soon {
            return;
        }
        let Some(put) = self.queries.put(query) else { return };
        put.copy_ended(Replica::Me);
        match stored {
            Stored::Held if on_disk == OnDisk::Now => put.on_replica(Replica::Me),
            Stored::Larger(rank) => self.met_larger(now, query, rank, out),
            Stored::Full | Stored::Held => put.without_room(),
            Stored::Over => {}
        }
    }

    /// The batch that this node's own copy in that attempt waited for has ended, and has written a record of
    /// precedence `on_disk`, or none.
    pub(crate) fn own_copy_written(
        &mut self,
        now: Now,
        attempt: Attempt,
        on_disk: Option<Precedence>,
        saved: Saved,
        out: &mut Actions,
    ) {
        if let Some(put) = self.queries.spreading(attempt) {
            put.copy_ended(Replica::Me);
            if on_disk >= Some(put.record.rank().precedence()) {
                put.on_replica(Replica::Me);
            } else if saved == Saved::Failed {
                put.without_room();
            }
            self.advance_put(now, attempt.query, out);
        }
    }

    /// A peer answered a copy in that attempt, perhaps by an ERROR; `None` if it never will. An answer also counts if
    /// another peer has replaced this one meanwhile.
    pub(crate) fn on_put_copied(
        &mut self,
        now: Now,
        attempt: Attempt,
        call: &Call,
        answer: Option<Result<(StoreOutcome, Rank), ErrorCode>>,
        out: &mut Actions,
    ) {
        let Some(put) = self.queries.spreading(attempt) else { return };
        if !call.expired {
            put.copy_ended(Replica::Peer(call.to));
            put.note_unable(now, &call.to.id, answer);
        }
        match answer {
            Some(Ok((outcome, stored))) => {
                if let Some(by) = put.on_stored(now, call.to, outcome, stored) {
                    return self.met_larger(now, attempt.query, by, out);
                }
                if outcome == StoreOutcome::Held {
                    self.replace_own(now, attempt);
                }
            }
            Some(Err(code)) => put.on_refused(call.to.id, code),
            None => {}
        }
        if !matches!(answer, Some(Ok((StoreOutcome::Held, _)))) {
            self.doubt_clock_if_contradicted(now, attempt.query);
        }
        self.advance_put(now, attempt.query, out);
    }

    /// A peer stores the record of a PUT, so this node serves no older one any more. Other nodes may still store that, so
    /// it leaves no tombstone.
    fn replace_own(&mut self, now: Now, attempt: Attempt) {
        let Some(put) = self.queries.spreading(attempt) else { return };
        let (key, seen) = (put.key(), put.record.rank().precedence());
        let Some(held) = self.storage.find(now.mono, &key) else { return };
        let (rank, older) = (held.record.rank(), held.record.version);
        if rank.precedence() < seen {
            let (record, expires) = (put.record.clone(), put.expires);
            if self.hold(now, record, expires, Source::Client) != Stored::Held {
                self.storage.forget(&key, older);
            }
        }
    }

    /// A version probe has had an outcome.
    pub(crate) fn on_probe_outcome(&mut self, now: Now, attempt: Attempt, report: Report<'_>, out: &mut Actions) {
        let Report { call, outcome } = report;
        let entry = match outcome {
            Outcome::Reply { reply: Reply::Synced { entries, .. }, .. } => Some(entries.iter().next()),
            _ => None,
        };
        let Some(put) = self.queries.spreading(attempt) else {
            let stored = entry.flatten().map(|entry| (entry.key, entry.rank));
            self.on_late_answer(now, call.to, stored, out);
            return;
        };
        let repeats = entry.is_some_and(|entry| put.on_probe(now, call.to.id, entry));
        if !call.expired {
            put.probe_ended();
        }
        if repeats {
            self.look_up_replicas(now, attempt.query, out);
        } else {
            self.doubt_clock_if_contradicted(now, attempt.query);
            self.advance_put(now, attempt.query, out);
        }
    }

    /// A larger record is stored elsewhere. It ends this PUT when the copies in flight have ended, unless the attempt is
    /// repeated.
    pub(super) fn met_larger(&mut self, now: Now, query: QueryId, by: Rank, out: &mut Actions) {
        let Some(put) = self.queries.put(query) else { return };
        if put.repeats(now, by) {
            return self.look_up_replicas(now, query, out);
        }
        put.on_larger(by);
        let key = put.key();
        // From now on a GET looks up the larger record before it returns the one of this PUT.
        self.remember_seen(key, by.precedence());
        self.advance_put(now, query, out);
    }

    /// A PUT ends because a larger record is stored elsewhere. The nodes that have taken its copies get that record.
    fn superseded(&mut self, now: Now, query: QueryId, by: Rank, out: &mut Actions) {
        let Some(put) = self.queries.put(query) else { return };
        let (key, behind, was_stored) = (put.key(), put.replicas_at_peers().collect(), put.was_stored());
        if !self.relay_done(now, query, Relayed::Larger(by), out) {
            if was_stored {
                self.end_put(now, query, PutEnd::Stored, out);
            } else if self.queries.has_successor(&key, query) {
                return self.give_way(now, &key, query, out);
            } else {
                self.fail_put(now, query, Refused::Larger, out);
            }
        }
        self.remember_seen(key, by.precedence());
        self.replace_copies(now, key, behind, out);
    }

    /// Raises the version of a PUT above `above`.
    fn raise_put(&mut self, now: Now, query: QueryId, above: Version) {
        let Some(put) = self.queries.put(query) else { return };
        put.raise(Version::draw(now.wall, self.version_tail, Some(above)));
        let (key, seen) = (put.key(), put.record.rank().precedence());
        self.remember_seen(key, seen);
    }
}

/// Ends of attempts.
impl Node {
    /// Enough replicas store the record, so the PUT ends.
    fn put_stored(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        if self.relay_done(now, query, Relayed::Held, out) {
            return;
        }
        if self.table.live() == 0 && !self.is_founder_alone() {
            // Only this node stores the record: other nodes exist, but none could be reached.
            self.retry_later(now, query, out);
        } else {
            self.end_put(now, query, PutEnd::Stored, out);
        }
    }

    /// Too few replicas store the record. Before `request_timeout` the PUT makes another attempt after a
    /// pause; after it, the PUT becomes a retry.
    fn pause_put(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        if self.relay_done(now, query, Relayed::Failed, out) {
            return;
        }
        let Some(key) = self.queries.put(query).map(|put| put.key()) else { return };
        if self.queries.has_successor(&key, query) {
            return self.give_way(now, &key, query, out);
        }
        let is_in_time = self.timers.is_set(Timer::Answer(query));
        let Some(put) = self.queries.put(query) else { return };
        if is_in_time {
            put.park();
            self.timers.set(Timer::Retry(query), now.mono + put.pause);
        } else {
            self.retry_later(now, query, out);
        }
    }

    /// Other nodes do not accept the version of this record, so it does not live on here: no copy of it may
    /// replace later what they accept meanwhile.
    fn put_refused(&mut self, now: Now, query: QueryId, code: ErrorCode, out: &mut Actions) {
        if self.relay_done(now, query, Relayed::Failed, out) {
            return; // the other family does not accept it
        }
        let differs = self.clock_differs();
        let Some(put) = self.queries.put(query) else { return };
        if !differs && put.replicas_at_peers().next().is_some() {
            // Some store it, and it is not known whose clocks are wrong: what this node answers agrees with them.
            return self.fail_put(now, query, Refused::ByPeers(code), out);
        }
        let (key, version, seen) = (put.key(), put.record.version, put.record.rank().precedence());
        let replaced = put.replaced.take();
        self.fail_put(now, query, Refused::ByPeers(code), out);
        self.put_retries.forget(&key);
        self.drop_refused(&key, version);
        if let Some(Replaced { record, expires, source }) = replaced {
            self.hold_again(now, record, expires, source);
        }
        self.versions.forget(&key, seen);
    }

    /// Ends a PUT that other nodes have refused. If a client waits, it gets FAILURE, and the log the reason.
    fn fail_put(&mut self, now: Now, query: QueryId, refused: Refused, out: &mut Actions) {
        let Some(put) = self.queries.put(query) else { return };
        let (key, client) = (put.key(), put.client.take());
        self.refuse_put(now, client, key, refused, out);
        self.end_put(now, query, PutEnd::Failed, out);
    }

    /// The older record of the same key that this node stores, hidden or not.
    fn replaced_by(&self, now: Now, record: &Record) -> Option<Replaced> {
        let older =
            self.storage.find_hidden(now.mono, &record.key).filter(|held| held.record.version != record.version)?;
        Some(Replaced { record: older.record.clone(), expires: older.expires, source: older.source() })
    }

    /// The wall clock was set: PUTs end whose versions are not possible any more. If copies were sent, their answers
    /// decide: peers may have stored them.
    pub(crate) fn refuse_impossible_puts(&mut self, now: Now, out: &mut Actions) {
        for query in self.queries.ids() {
            if self.queries.put(query).is_some_and(|put| put.attempt == 0 && !put.record.is_plausible(now.wall)) {
                self.put_refused(now, query, ErrorCode::TOO_EARLY, out);
            }
        }
    }

    /// The pause of a PUT is over: the next attempt begins.
    pub(crate) fn retry_put(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        if let Some(put) = self.queries.put(query) {
            put.pause = (2 * put.pause).min(PUT_RETRY_PAUSE_MAX);
        }
        self.look_up_replicas(now, query, out);
    }

    /// The time of a PUT is over. A client that waits gets FAILURE, which means that the result is
    /// *unknown*: an attempt in flight continues.
    pub(crate) fn put_timed_out(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let Some(put) = self.queries.put(query) else { return };
        let (key, replicas, replication) = (put.key(), put.replicas(), put.record.replication);
        let (is_told, is_parked) = (put.client.is_some(), put.is_parked());
        let missing = if put.relay.is_done() { "too few replicas" } else { "no bridge has stored it" };
        let no_room = put.no_room.map(|no_room| format!(": {no_room}")).unwrap_or_default();
        put.fail_client(out);
        if is_told && self.may_log_failure(now) {
            let reason = format_args!("{missing} in time{no_room}");
            warn!("put not confirmed key={key:.8} reason=\"{reason}\" held={replicas} of={replication}");
        }
        if is_parked {
            self.retry_later(now, query, out);
        }
    }

    /// Ends a PUT that too few replicas store, and schedules its retry; unless this node has accepted a
    /// later PUT of the key, whose record replaces this one, or its wall clock was set so that the version is not
    /// possible any more.
    fn retry_later(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        let may_retry = |put: &Put| put.is_latest && put.record.is_plausible(now.wall);
        if let Some(put) = self.end_put(now, query, PutEnd::Failed, out).filter(may_retry) {
            self.schedule_retry(now, put.record, put.expires, put.pause);
        }
    }

    /// Ends a PUT and those that it stands for; returns it, if it was running. If it was its turn, the next PUT of the
    /// key has its turn.
    fn end_put(&mut self, now: Now, query: QueryId, end: PutEnd, out: &mut Actions) -> Option<Put> {
        let key = self.queries.put(query)?.key();
        let had_turn = self.queries.has_turn(&key, query);
        let put = self.finish_put(query, end, out);
        if had_turn {
            self.finish_earlier(&key, query, end, out);
            self.start_turn(now, &key, out);
        }
        put
    }

    /// Ends a PUT; returns it, if it was running. A client that still waits for a confirmation is answered.
    pub(super) fn finish_put(&mut self, query: QueryId, end: PutEnd, out: &mut Actions) -> Option<Put> {
        let Some(Query::Put(mut put)) = self.end_query(query) else { return None };
        let (key, replication, number) = (put.key(), put.record.replication, put.attempt);
        if end == PutEnd::Stored {
            self.counters.puts_held += 1 + put.earlier.ended;
            put.client.take().into_iter().for_each(|client| out.reply_done(client, key));
        }
        put.fail_client(out);
        debug!("put done key={key:.8} end={end:?} held={} replication={replication} rounds={number}", put.replicas());
        if put.origin == PutOrigin::Retry {
            self.put_retries.attempt_over();
            self.wake_for_retries();
        }
        Some(*put)
    }
}

/// How a PUT ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutEnd {
    /// Enough nodes store its record, or a later one of this node.
    Stored,
    /// It will not be confirmed.
    Failed,
    /// A later PUT of the key stands for it, and no client waits for it.
    Replaced,
}

impl Put {
    /// Answers the client that waits, if there is one, by FAILURE.
    fn fail_client(&mut self, out: &mut Actions) {
        if let Some(client) = self.fail() {
            out.reply_failure(client, self.key());
        }
    }
}

/// Why a PUT is refused whose record this node must store.
fn held(stored: Stored) -> Result<(), Refused> {
    match stored {
        Stored::Held => Ok(()),
        Stored::Larger(_) => Err(Refused::Larger),
        Stored::Over => Err(Refused::Over),
        Stored::Full => Err(Refused::Full),
    }
}

/// Why a PUT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// The signature or the hash is wrong.
    NotVerified(Unverified),
    /// The request names another life than the signed envelope.
    Ttl {
        /// The life in the request, in seconds.
        requested: u16,
        /// The life in the envelope.
        signed: Ttl,
    },
    /// The time in its version is too far in the future.
    TooEarly,
    /// Most peers say that the clock of this node is too far ahead.
    OwnClock,
    /// Other nodes have refused the record by this ERROR.
    ByPeers(ErrorCode),
    /// The life of the record, or of its version, has ended.
    Over,
    /// This node knows a larger record of the key.
    Larger,
    /// The storage is full, or too much waits for a disk that does not work.
    Full,
    /// This node stores no records, and knows no node that does.
    NoReplicas,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVerified(error) => write!(f, "not verified: {error}"),
            Self::Ttl { requested, signed } => {
                write!(f, "TTL {requested}, expected 0 or the signed {}", signed.as_secs())
            }
            Self::TooEarly => write!(f, "its version lies too far ahead"),
            Self::OwnClock => write!(f, "the wall clock of this node is too far ahead of those of its peers"),
            Self::ByPeers(ErrorCode::TOO_EARLY) => {
                write!(f, "the wall clocks of this node and its peers differ too much")
            }
            Self::ByPeers(code) => {
                write!(f, "its life is over for other nodes, perhaps because wall clocks differ (ERROR {})", code.0)
            }
            Self::Over => write!(f, "its life is over"),
            Self::Larger => write!(f, "a larger record is known"),
            Self::Full => write!(f, "no room: the storage is full, or the disk hangs or fails"),
            Self::NoReplicas => write!(f, "this node stores nothing and knows no other node"),
        }
    }
}
