//! Queries: operations that contain a lookup and take several calls of the host.
//!
//! Clients start two kinds, [`get`] and [`put`]. The GETs of one key share lookups: a [`Read`] runs one for all
//! GETs that wait for it. Maintenance starts two more: lookups of this node's own id, and of points in stale
//! buckets. [`lookup`] runs the lookups of all. The decisions are pure
//! state machines: [`read_quorum`] for a GET, [`write_quorum`] for a PUT, with the [`contradictions`] of clocks.
//! [`session`] remembers which versions clients have read and written. PUTs of one key take turns ([`put_turns`]).
//! [`read_repair`], [`put_retry`] and [`unheard`] continue after the answer. [`relay`] gets the record of a PUT to the
//! other address family.
//!
//! The number of client requests and the bytes of their PUTs are bounded, for each connection and in all;
//! [`Queries::has_room`] and [`Queries::has_room_for`] say when the host must wait. A lookup for GETs runs only
//! while one of them waits for it, so there are no more of them than GETs. Those that repair copies of PUTs have their own
//! bound.

pub(crate) mod bridge_asks;
pub(crate) mod contradictions;
pub(crate) mod get;
pub(crate) mod lookup;
pub(crate) mod put;
pub(crate) mod put_retry;
pub(crate) mod put_turns;
pub(crate) mod read_quorum;
pub(crate) mod read_repair;
pub(crate) mod relay;
pub(crate) mod session;
pub(crate) mod unheard;
pub(crate) mod write_quorum;

use std::collections::{BTreeMap, BTreeSet};

use crate::contact::Contact;
use crate::id::{Key, KeyMap, KeySeed, NodeId};
use crate::limits::CLIENT_REQUESTS_MAX;
use crate::lookup::Lookup;
use crate::node::action::ClientId;
use crate::node::purpose::{Attempt, QueryId};
use crate::node::query::put_turns::Turns;
use crate::node::query::read_quorum::{Phase, QuorumRead};
use crate::node::query::write_quorum::{Put, PutOrigin};
use crate::record::Precedence;
use crate::time::Time;

/// Bytes of values in the PUTs of clients in flight.
const CLIENT_PUT_BYTES_MAX: usize = 64 << 20;

/// Connections that can have their whole share of the requests in flight, and of the bytes, at a time.
const CONNECTION_SHARES: usize = 16;

/// Lookups that PUTs have begun for the nodes with their copies, because they have met a larger record. A peer that claims
/// one for each PUT must not double the number of lookups.
const REPAIR_LOOKUPS_MAX: usize = 64;

/// A running query.
#[derive(Debug)]
pub(crate) enum Query {
    /// Looks up this node's own id, so that this node and its neighbours learn of each other, or a point in
    /// a stale bucket (Kademlia, section 2.3).
    Maintenance(Lookup),
    /// Waits for the value of a key, for a client.
    Get(Get),
    /// Looks up the value of a key, for all GETs that wait for it.
    Read(Box<Read>),
    /// Stores a record on the nodes nearest to its key.
    Put(Box<Put>),
}

/// A GET that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Get {
    /// The client that waits.
    pub(crate) client: ClientId,
    /// The key that the client asks for.
    pub(crate) key: Key,
    /// When the request came in.
    pub(crate) since: Time,
    stage: GetStage,
}

/// What a GET waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GetStage {
    /// That the node joins.
    Parked,
    /// This lookup.
    Reading(QueryId),
    /// The lookup that follows the running one.
    Next,
}

impl Get {
    /// A GET that waits for the node to join, or for its caller to start or join a lookup.
    pub(crate) fn new(client: ClientId, key: Key, since: Time) -> Self {
        Self { client, key, since, stage: GetStage::Parked }
    }

    /// The lookup that the GET waits for.
    pub(crate) fn reads(&self) -> Option<QueryId> {
        let GetStage::Reading(read) = self.stage else { return None };
        Some(read)
    }
}

/// A lookup of the value of a key.
#[derive(Debug)]
pub(crate) struct Read {
    /// The key.
    pub(crate) key: Key,
    /// The first or the second lookup.
    pub(crate) lookup: Lookup,
    /// When it began.
    pub(crate) since: Time,
    /// Whether this is the second lookup, which follows a first one without enough replies.
    pub(crate) again: bool,
    /// Whether it waits for another lookup, because no candidate of the last one has replied.
    pub(crate) is_paused: bool,
    /// The responses of peers, and what follows from them.
    pub(crate) quorum: QuorumRead,
    /// Whether the lookup has ended.
    pub(crate) phase: Phase,
    /// The newest version that clients had seen through this node when the lookup began.
    pub(crate) seen_before: Option<Precedence>,
    /// The nodes that get the winner, if a PUT has begun the lookup for them. No GET waits for such a lookup.
    pub(crate) repairs: Option<Vec<Contact>>,
    /// The GETs that wait for it.
    waiting: BTreeSet<QueryId>,
}

impl Read {
    /// A lookup for which nothing has been sent yet, and for which no GET waits.
    pub(crate) fn new(since: Time, lookup: Lookup, quorum: QuorumRead, seen_before: Option<Precedence>) -> Self {
        Self {
            key: *lookup.target(),
            lookup,
            since,
            again: false,
            is_paused: false,
            quorum,
            phase: Phase::LookingUp,
            seen_before,
            repairs: None,
            waiting: BTreeSet::new(),
        }
    }
}

/// The lookups of one key that GETs share.
#[derive(Debug)]
struct Shared {
    /// The lookup that began last.
    running: QueryId,
    /// The GETs that came after it had begun.
    next: BTreeSet<QueryId>,
}

/// What a GET has to do for its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// Begin a lookup.
    Begin,
    /// Wait for the running lookup.
    Running,
    /// Wait for the lookup that follows this one.
    Next(QueryId),
}

impl Query {
    fn is_maintenance(&self) -> bool {
        matches!(self, Query::Maintenance(_))
    }

    /// Whether it is the lookup of a record for the nodes that have taken copies of a smaller one.
    fn is_repair(&self) -> bool {
        matches!(self, Query::Read(read) if read.repairs.is_some())
    }

    /// The connection on which the request of a client came.
    fn connection(&self) -> Option<u64> {
        match self {
            Query::Maintenance(_) | Query::Read(_) => None,
            Query::Get(get) => Some(get.client.connection),
            Query::Put(put) => match put.origin {
                PutOrigin::Client { connection, .. } => Some(connection),
                PutOrigin::Retry | PutOrigin::Relay(_) => None,
            },
        }
    }

    /// Whether it passes a record on to the other address family.
    fn is_relay(&self) -> bool {
        matches!(self, Query::Put(put) if put.is_relay())
    }

    /// Bytes of the value of a PUT.
    fn put_bytes(&self) -> usize {
        let Query::Put(put) = self else { return 0 };
        put.record.value.len()
    }

    fn lookup(&self) -> Option<&Lookup> {
        match self {
            Query::Maintenance(lookup) => Some(lookup),
            Query::Get(_) => None,
            Query::Read(read) => Some(&read.lookup),
            Query::Put(put) => put.lookup(),
        }
    }

    fn lookup_mut(&mut self) -> Option<&mut Lookup> {
        match self {
            Query::Maintenance(lookup) => Some(lookup),
            Query::Get(_) => None,
            Query::Read(read) => Some(&mut read.lookup),
            Query::Put(put) => put.lookup_mut(),
        }
    }
}

/// All running queries.
#[derive(Debug)]
pub(crate) struct Queries {
    running: BTreeMap<QueryId, Query>,
    next: u64,
    /// The PUTs of each key: a GET of the same node must return the record of the latest.
    writing: KeyMap<Key, Turns>,
    /// The shared lookups of each key that GETs wait for.
    reading: KeyMap<Key, Shared>,
    /// Queries that take no further step until there is room for a request to a peer.
    waiting_for_room: BTreeSet<QueryId>,
    /// The number of lookups of maintenance.
    maintenance: usize,
    /// The number of lookups that PUTs have begun for the nodes with their copies.
    repairs: usize,
    /// The requests of all clients.
    clients: Usage,
    /// PUTs that pass records on.
    relays: Usage,
    /// The requests of each connection that has any.
    by_connection: KeyMap<u64, Usage>,
}

/// What running requests take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    requests: usize,
    /// Bytes of the values in PUTs.
    put_bytes: usize,
}

impl Usage {
    /// Whether there is room for another request, if this is the usage of one of `shares`.
    fn has_room(self, shares: usize) -> bool {
        self.is_below(CLIENT_REQUESTS_MAX / shares, CLIENT_PUT_BYTES_MAX / shares)
    }

    /// Whether it is below both bounds.
    fn is_below(self, requests: usize, put_bytes: usize) -> bool {
        self.requests < requests && self.put_bytes < put_bytes
    }

    fn add(&mut self, query: &Query) {
        self.requests += 1;
        self.put_bytes += query.put_bytes();
    }

    fn subtract(&mut self, query: &Query) {
        self.requests -= 1;
        self.put_bytes -= query.put_bytes();
    }
}

impl Queries {
    pub(crate) fn new(seed: KeySeed) -> Self {
        Self {
            running: BTreeMap::new(),
            next: 0,
            writing: KeyMap::with_hasher(seed.clone()),
            reading: KeyMap::with_hasher(seed.clone()),
            waiting_for_room: BTreeSet::new(),
            maintenance: 0,
            repairs: 0,
            clients: Usage::default(),
            relays: Usage::default(),
            by_connection: KeyMap::with_hasher(seed),
        }
    }

    /// Starts a query.
    pub(crate) fn insert(&mut self, query: Query) -> QueryId {
        let id = QueryId(self.next);
        self.next += 1;
        self.maintenance += usize::from(query.is_maintenance());
        self.repairs += usize::from(query.is_repair());
        if let Some(usage) = self.usage_of(&query) {
            usage.add(&query);
        }
        if let Some(connection) = query.connection() {
            self.by_connection.entry(connection).or_default().add(&query);
        }
        // A client reads what it has written through this node, not what this node passes on.
        if let Query::Put(put) = &query
            && !put.is_relay()
        {
            self.queue_put(id, put.key(), put.takes_turns());
        }
        self.running.insert(id, query);
        id
    }

    /// What a query counts towards; `None` for maintenance and for the lookups that GETs share.
    fn usage_of(&mut self, query: &Query) -> Option<&mut Usage> {
        match query {
            Query::Maintenance(_) | Query::Read(_) => None,
            query if query.is_relay() => Some(&mut self.relays),
            Query::Get(_) | Query::Put(_) => Some(&mut self.clients),
        }
    }

    /// Ends a query, if it is running.
    pub(crate) fn remove(&mut self, id: QueryId) -> Option<Query> {
        let query = self.running.remove(&id)?;
        self.waiting_for_room.remove(&id);
        self.maintenance -= usize::from(query.is_maintenance());
        self.repairs -= usize::from(query.is_repair());
        if let Some(usage) = self.usage_of(&query) {
            usage.subtract(&query);
        }
        if let Some(connection) = query.connection()
            && let Some(usage) = self.by_connection.get_mut(&connection)
        {
            usage.subtract(&query);
            if usage.requests == 0 {
                self.by_connection.remove(&connection);
            }
        }
        if let Query::Put(put) = &query {
            self.unqueue_put(id, &put.key());
        }
        if let Query::Get(get) = &query {
            match get.stage {
                GetStage::Parked => {}
                GetStage::Reading(read) => drop(self.read(read).map(|read| read.waiting.remove(&id))),
                GetStage::Next => drop(self.reading.get_mut(&get.key).map(|shared| shared.next.remove(&id))),
            }
        }
        Some(query)
    }

    /// The query with this id, if it is running.
    pub(crate) fn find(&mut self, id: QueryId) -> Option<&mut Query> {
        self.running.get_mut(&id)
    }

    /// The GET with this id, if it is running.
    pub(crate) fn get(&self, id: QueryId) -> Option<&Get> {
        let Query::Get(get) = self.running.get(&id)? else { return None };
        Some(get)
    }

    /// The shared lookup with this id, if it is running.
    pub(crate) fn read(&mut self, id: QueryId) -> Option<&mut Read> {
        let Query::Read(read) = self.running.get_mut(&id)? else { return None };
        Some(read)
    }

    /// The PUT with this id, if it is running.
    pub(crate) fn put(&mut self, id: QueryId) -> Option<&mut Put> {
        let Query::Put(put) = self.running.get_mut(&id)? else { return None };
        Some(put)
    }

    /// The PUT of `attempt`, if it is running in this attempt.
    pub(crate) fn attempt(&self, attempt: Attempt) -> Option<&Put> {
        let Query::Put(put) = self.running.get(&attempt.query)? else { return None };
        Some(&**put).filter(|put| put.attempt == attempt.number)
    }

    /// The PUT of `attempt`, if it is running in this attempt and sends copies.
    pub(crate) fn spreading(&mut self, attempt: Attempt) -> Option<&mut Put> {
        self.put(attempt.query).filter(|put| put.attempt == attempt.number && put.is_spreading())
    }

    /// The lookup of a query, if it has one.
    pub(crate) fn lookup(&mut self, id: QueryId) -> Option<&mut Lookup> {
        self.running.get_mut(&id)?.lookup_mut()
    }

    /// Whether the query is a lookup of maintenance, which asks for no values.
    pub(crate) fn is_maintenance(&self, id: QueryId) -> bool {
        self.running.get(&id).is_some_and(Query::is_maintenance)
    }

    /// Whether there is room for another request of any client.
    pub(crate) fn has_room(&self) -> bool {
        self.clients.has_room(1)
    }

    /// Whether there is room for another request that came on `connection`.
    pub(crate) fn has_room_for(&self, connection: u64) -> bool {
        self.by_connection.get(&connection).is_none_or(|usage| usage.has_room(CONNECTION_SHARES))
    }

    /// The number of running requests of clients, and of records to pass on.
    pub(crate) fn clients(&self) -> usize {
        self.clients.requests + self.relays.requests
    }

    /// What the records to pass on take.
    pub(crate) fn relays(&self) -> Usage {
        self.relays
    }

    /// The attempts that have asked `bridge` to pass their record on, and have no answer.
    pub(crate) fn waiting_for_bridge(&self, bridge: &NodeId) -> Vec<Attempt> {
        let waiting = self.puts().filter(|(_, put)| put.is_spreading() && put.relay.awaits(bridge));
        waiting.map(|(query, put)| Attempt { query, number: put.attempt }).collect()
    }

    /// The PUTs that knew no other bridge to ask in their last attempt.
    pub(crate) fn missing_bridge(&self) -> Vec<QueryId> {
        self.puts().filter(|(_, put)| put.relay.misses_bridge()).map(|(query, _)| query).collect()
    }

    fn puts(&self) -> impl Iterator<Item = (QueryId, &Put)> {
        self.running.iter().filter_map(|(id, query)| match query {
            Query::Put(put) => Some((*id, &**put)),
            Query::Maintenance(_) | Query::Get(_) | Query::Read(_) => None,
        })
    }

    /// Whether there is room for another lookup of a record for the nodes with a smaller one.
    pub(crate) fn may_repair(&self) -> bool {
        self.repairs < REPAIR_LOOKUPS_MAX
    }

    /// The number of running lookups of maintenance.
    pub(crate) fn maintenance(&self) -> usize {
        self.maintenance
    }

    /// The ids of all queries.
    pub(crate) fn ids(&self) -> Vec<QueryId> {
        self.running.keys().copied().collect()
    }

    /// The requests of clients that wait for the node to join, or for the next attempt, and lookups that wait for the
    /// next one.
    pub(crate) fn parked(&self) -> Vec<QueryId> {
        let is_parked = |query: &Query| match query {
            Query::Maintenance(_) => false,
            Query::Read(read) => read.is_paused,
            Query::Get(get) => get.stage == GetStage::Parked,
            Query::Put(put) => put.is_parked(),
        };
        self.running.iter().filter(|(_, query)| is_parked(query)).map(|(id, _)| *id).collect()
    }

    /// There is no room for a request to a peer that the query `id` has to make.
    pub(crate) fn wait_for_room(&mut self, id: QueryId) {
        self.waiting_for_room.insert(id);
    }

    /// Takes the query that waits for room and has the smallest id.
    pub(crate) fn take_waiting_for_room(&mut self) -> Option<QueryId> {
        self.waiting_for_room.pop_first()
    }

    /// Whether maintenance is looking up `target`.
    pub(crate) fn is_looking_up(&self, target: &Key) -> bool {
        self.running.values().any(|query| matches!(query, Query::Maintenance(lookup) if lookup.target() == target))
    }

    /// All running lookups.
    pub(crate) fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.running.values().filter_map(Query::lookup)
    }
}

/// Sharing lookups.
impl Queries {
    /// The GET `id` needs a value: it joins the lookup of its key that has begun at this instant, and waits for the
    /// following one if an earlier one is running. The requests of an earlier one may have been answered before the
    /// client sent this GET, also if no answer has arrived.
    pub(crate) fn join_read(&mut self, now: Time, id: QueryId) -> Joined {
        let Some(Query::Get(Get { key, .. })) = self.running.get(&id) else { return Joined::Begin };
        let Some(shared) = self.reading.get_mut(key) else { return Joined::Begin };
        let running = shared.running;
        let (stage, joined) = match self.running.get_mut(&running) {
            Some(Query::Read(read)) if read.since == now => {
                read.waiting.insert(id);
                (GetStage::Reading(running), Joined::Running)
            }
            _ => {
                shared.next.insert(id);
                (GetStage::Next, Joined::Next(running))
            }
        };
        self.set_stage(id, stage);
        joined
    }

    /// Whether a lookup of `key` is running that GETs can join or wait for.
    pub(crate) fn is_reading(&self, key: &Key) -> bool {
        self.reading.contains_key(key)
    }

    /// Starts the lookup `read` for the GETs `waiting`. A lookup of the same key that is running continues.
    pub(crate) fn begin_read(&mut self, mut read: Read, waiting: BTreeSet<QueryId>) -> QueryId {
        let key = read.key;
        read.waiting.clone_from(&waiting);
        let id = self.insert(Query::Read(Box::new(read)));
        self.reading.insert(key, Shared { running: id, next: BTreeSet::new() });
        for get in waiting {
            self.set_stage(get, GetStage::Reading(id));
        }
        id
    }

    /// Takes the GETs that wait for the lookup that follows `read`. `None` if that is not the latest of `key`.
    pub(crate) fn take_next(&mut self, key: &Key, read: QueryId) -> Option<BTreeSet<QueryId>> {
        let shared = self.reading.get_mut(key).filter(|shared| shared.running == read)?;
        Some(std::mem::take(&mut shared.next))
    }

    /// Ends the lookup `id`. Returns it with the GETs that wait for it, and those that wait for the next one.
    pub(crate) fn end_read(&mut self, id: QueryId) -> Option<(Box<Read>, BTreeSet<QueryId>, BTreeSet<QueryId>)> {
        let Some(Query::Read(mut read)) = self.remove(id) else { return None };
        let next = self.take_next(&read.key, id);
        if next.is_some() {
            self.reading.remove(&read.key);
        }
        let waiting = std::mem::take(&mut read.waiting);
        Some((read, waiting, next.unwrap_or_default()))
    }

    /// Whether no GET waits for the lookup `id`.
    pub(crate) fn is_unwanted(&mut self, id: QueryId) -> bool {
        self.read(id).is_some_and(|read| read.waiting.is_empty())
    }

    fn set_stage(&mut self, id: QueryId, stage: GetStage) {
        if let Some(Query::Get(get)) = self.running.get_mut(&id) {
            get.stage = stage;
        }
    }
}
