//! Queries: operations that contain a lookup and take several calls of the host.
//!
//! Clients start two kinds, [`get`] and [`put`]. Maintenance starts two more: lookups of this node's own
//! id, and of points in stale buckets. [`lookup`] runs the lookups of all four. The decisions are pure
//! state machines: [`read_quorum`] for a GET, [`write_quorum`] for a PUT. [`session`] remembers which versions
//! clients have read and written. [`read_repair`] and [`put_retry`] continue after the answer. [`relay`] gets the
//! record of a PUT to the other address family.
//!
//! The number of client requests and the bytes of their PUTs are bounded, for each connection and in all;
//! [`Queries::has_room`] and [`Queries::has_room_for`] say when the host must wait.

pub(crate) mod bridge_asks;
pub(crate) mod get;
pub(crate) mod lookup;
pub(crate) mod put;
pub(crate) mod put_retry;
pub(crate) mod read_quorum;
pub(crate) mod read_repair;
pub(crate) mod relay;
pub(crate) mod session;
pub(crate) mod write_quorum;

use std::collections::BTreeMap;

use crate::id::{Key, KeyMap, KeySeed, NodeId};
use crate::limits::CLIENT_REQUESTS_MAX;
use crate::lookup::Lookup;
use crate::node::action::ClientId;
use crate::node::purpose::{Attempt, Copied, Purpose, QueryId};
use crate::node::query::read_quorum::{Phase, QuorumRead};
use crate::node::query::write_quorum::{Put, PutOrigin};
use crate::time::Time;

/// Bytes of values in the PUTs of clients in flight.
const CLIENT_PUT_BYTES_MAX: usize = 64 << 20;

/// Connections that can have their whole share of the requests in flight, and of the bytes, at a time.
const CONNECTION_SHARES: usize = 16;

/// A running query.
#[derive(Debug)]
pub(crate) enum Query {
    /// Looks up this node's own id, so that this node and its neighbours learn of each other, or a point in
    /// a stale bucket (Kademlia, section 2.3).
    Maintenance(Lookup),
    /// Reads a value for a client.
    Get(Box<Get>),
    /// Stores a record on the nodes nearest to its key.
    Put(Box<Put>),
}

/// A GET that is not answered yet.
#[derive(Debug)]
pub(crate) struct Get {
    /// The client that waits.
    pub(crate) client: ClientId,
    /// The key that the client asks for.
    pub(crate) key: Key,
    /// The lookup; `None` until the node has joined.
    pub(crate) lookup: Option<Lookup>,
    /// When the request came in.
    pub(crate) since: Time,
    /// Whether this is the second lookup, which follows a first one without enough replies.
    pub(crate) again: bool,
    /// The responses of peers, and what follows from them.
    pub(crate) read: QuorumRead,
    /// Whether the lookup has ended.
    pub(crate) phase: Phase,
}

impl Query {
    fn is_maintenance(&self) -> bool {
        matches!(self, Query::Maintenance(_))
    }

    /// The connection on which the request of a client came.
    fn connection(&self) -> Option<u64> {
        match self {
            Query::Maintenance(_) => None,
            Query::Get(get) => Some(get.client.connection),
            Query::Put(put) => match put.origin {
                PutOrigin::Client { connection } => Some(connection),
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
            Query::Get(get) => get.lookup.as_ref(),
            Query::Put(put) => put.lookup(),
        }
    }

    fn lookup_mut(&mut self) -> Option<&mut Lookup> {
        match self {
            Query::Maintenance(lookup) => Some(lookup),
            Query::Get(get) => get.lookup.as_mut(),
            Query::Put(put) => put.lookup_mut(),
        }
    }
}

/// All running queries.
#[derive(Debug)]
pub(crate) struct Queries {
    running: BTreeMap<QueryId, Query>,
    next: u64,
    /// The latest running PUT of each key: a GET of the same node must return its record.
    writing: KeyMap<Key, QueryId>,
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
            clients: Usage::default(),
            relays: Usage::default(),
            by_connection: KeyMap::with_hasher(seed),
        }
    }

    /// Starts a query.
    pub(crate) fn insert(&mut self, query: Query) -> QueryId {
        let id = QueryId(self.next);
        self.next += 1;
        if let Some(usage) = self.usage_of(&query) {
            usage.add(&query);
        }
        if let Some(connection) = query.connection() {
            self.by_connection.entry(connection).or_default().add(&query);
        }
        // A client reads what it has written through this node, not what this node passes on.
        if let Query::Put(put) = &query
            && !put.is_relay()
            && let Some(earlier) = self.writing.insert(put.key(), id).and_then(|earlier| self.put(earlier))
        {
            earlier.is_latest = false;
        }
        self.running.insert(id, query);
        id
    }

    /// What a query counts towards; `None` for maintenance.
    fn usage_of(&mut self, query: &Query) -> Option<&mut Usage> {
        match query {
            Query::Maintenance(_) => None,
            query if query.is_relay() => Some(&mut self.relays),
            Query::Get(_) | Query::Put(_) => Some(&mut self.clients),
        }
    }

    /// Ends a query, if it is running.
    pub(crate) fn remove(&mut self, id: QueryId) -> Option<Query> {
        let query = self.running.remove(&id)?;
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
        if let Query::Put(put) = &query
            && self.writing.get(&put.key()) == Some(&id)
        {
            self.writing.remove(&put.key());
        }
        Some(query)
    }

    /// The query with this id, if it is running.
    pub(crate) fn find(&mut self, id: QueryId) -> Option<&mut Query> {
        self.running.get_mut(&id)
    }

    /// The GET with this id, if it is running.
    pub(crate) fn get(&mut self, id: QueryId) -> Option<&mut Get> {
        let Query::Get(get) = self.running.get_mut(&id)? else { return None };
        Some(get)
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

    /// Whether `purpose` is a copy of a PUT that another peer can get instead. If none can, waiting longer for
    /// the reply costs nothing.
    pub(crate) fn can_replace(&self, purpose: Purpose) -> bool {
        let Purpose::Copy(Copied::Put(attempt)) = purpose else { return false };
        self.attempt(attempt).is_some_and(Put::has_targets)
    }

    /// The lookup of a query, if it has one.
    pub(crate) fn lookup(&mut self, id: QueryId) -> Option<&mut Lookup> {
        self.running.get_mut(&id)?.lookup_mut()
    }

    /// The latest running PUT of `key`.
    pub(crate) fn writing(&self, key: &Key) -> Option<&Put> {
        let Query::Put(put) = self.running.get(self.writing.get(key)?)? else { return None };
        Some(put)
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
        let waiting = self.running.iter().filter_map(|(id, query)| match query {
            Query::Put(put) if put.is_spreading() && put.relay.awaits(bridge) => {
                Some(Attempt { query: *id, number: put.attempt })
            }
            Query::Maintenance(_) | Query::Get(_) | Query::Put(_) => None,
        });
        waiting.collect()
    }

    /// The number of running lookups of maintenance.
    pub(crate) fn maintenance(&self) -> usize {
        self.running.len() - self.clients.requests - self.relays.requests
    }

    /// The ids of all queries.
    pub(crate) fn ids(&self) -> Vec<QueryId> {
        self.running.keys().copied().collect()
    }

    /// The requests of clients that wait for the node to join, or for the next attempt.
    pub(crate) fn parked(&self) -> Vec<QueryId> {
        let is_parked = |query: &Query| match query {
            Query::Maintenance(_) => false,
            Query::Get(get) => get.lookup.is_none(),
            Query::Put(put) => put.is_parked(),
        };
        self.running.iter().filter(|(_, query)| is_parked(query)).map(|(id, _)| *id).collect()
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
