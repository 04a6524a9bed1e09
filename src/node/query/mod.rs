//! Queries: what goes on over several turns and has a lookup in it.
//!
//! Clients start two kinds, [`get`] and [`put`]; maintenance starts two more, which look up this
//! node's own id and points of stale buckets. [`lookup`] drives the lookups of all of them. The
//! decisions are pure state machines: [`read_quorum`] for a GET, [`put_spread`] for a PUT.
//! [`session`] remembers what clients have read and written; [`read_repair`] and [`put_retry`] go on
//! after the answer.

pub(crate) mod get;
pub(crate) mod lookup;
pub(crate) mod put;
pub(crate) mod put_retry;
pub(crate) mod put_spread;
pub(crate) mod read_quorum;
pub(crate) mod read_repair;
pub(crate) mod session;

use std::collections::BTreeMap;

use crate::id::{Key, KeyMap, KeySeed};
use crate::limits::{CLIENT_PUT_BYTES_MAX, CLIENT_REQUESTS_MAX};
use crate::lookup::Lookup;
use crate::node::action::ClientId;
use crate::node::purpose::{Copied, QueryId};
use crate::node::query::put_spread::Put;
use crate::node::query::read_quorum::{Phase, QuorumRead};
use crate::time::Time;

/// Something that goes on.
#[derive(Debug)]
pub(crate) enum Query {
    /// Looks up this node's own id, to be known and to know (Kademlia, section 2.3).
    SelfLookup(Lookup),
    /// Looks up a point of a stale bucket.
    Refresh(Lookup),
    /// A client wants a value.
    Get(Box<Get>),
    /// A record is to be stored by the nodes nearest to its key.
    Put(Box<Put>),
}

/// A GET that is not answered yet.
#[derive(Debug)]
pub(crate) struct Get {
    /// The client that waits.
    pub(crate) client: ClientId,
    /// What it wants.
    pub(crate) key: Key,
    /// The lookup; `None` until the node has joined.
    pub(crate) lookup: Option<Lookup>,
    /// When it began, for the log.
    pub(crate) since: Time,
    /// Whether this is the second lookup, which follows a first one with timeouts.
    pub(crate) again: bool,
    /// What peers have said so far.
    pub(crate) read: QuorumRead,
    /// Whether the lookup is running.
    pub(crate) phase: Phase,
}

impl Query {
    fn lookup(&self) -> Option<&Lookup> {
        match self {
            Query::SelfLookup(lookup) | Query::Refresh(lookup) => Some(lookup),
            Query::Get(get) => get.lookup.as_ref(),
            Query::Put(put) => put.lookup(),
        }
    }

    fn lookup_mut(&mut self) -> Option<&mut Lookup> {
        match self {
            Query::SelfLookup(lookup) | Query::Refresh(lookup) => Some(lookup),
            Query::Get(get) => get.lookup.as_mut(),
            Query::Put(put) => put.lookup_mut(),
        }
    }
}

/// All queries.
#[derive(Debug)]
pub(crate) struct Queries {
    running: BTreeMap<QueryId, Query>,
    next: u64,
    /// The latest PUT of each key that is not over: what a GET here must see.
    writing: KeyMap<Key, QueryId>,
    clients: usize,
    put_bytes: usize,
}

impl Queries {
    pub(crate) fn new(seed: KeySeed) -> Self {
        Self { running: BTreeMap::new(), next: 0, writing: KeyMap::with_hasher(seed), clients: 0, put_bytes: 0 }
    }

    /// Starts a query.
    pub(crate) fn insert(&mut self, query: Query) -> QueryId {
        let id = QueryId(self.next);
        self.next += 1;
        match &query {
            Query::SelfLookup(_) | Query::Refresh(_) => {}
            Query::Get(_) => self.clients += 1,
            Query::Put(put) => {
                self.clients += 1;
                self.put_bytes += put.record.value.len();
                self.writing.insert(put.record.key, id);
            }
        }
        self.running.insert(id, query);
        id
    }

    /// Ends a query, if it is running.
    pub(crate) fn remove(&mut self, id: QueryId) -> Option<Query> {
        let query = self.running.remove(&id)?;
        match &query {
            Query::SelfLookup(_) | Query::Refresh(_) => {}
            Query::Get(_) => self.clients -= 1,
            Query::Put(put) => {
                self.clients -= 1;
                self.put_bytes -= put.record.value.len();
                if self.writing.get(&put.record.key) == Some(&id) {
                    self.writing.remove(&put.record.key);
                }
            }
        }
        Some(query)
    }

    /// The query, if it is running.
    pub(crate) fn find(&mut self, id: QueryId) -> Option<&mut Query> {
        self.running.get_mut(&id)
    }

    /// The GET, if it is one that is running.
    pub(crate) fn get(&mut self, id: QueryId) -> Option<&mut Get> {
        match self.running.get_mut(&id) {
            Some(Query::Get(get)) => Some(get),
            Some(Query::SelfLookup(_) | Query::Refresh(_) | Query::Put(_)) | None => None,
        }
    }

    /// The PUT, if it is one that is running.
    pub(crate) fn put(&mut self, id: QueryId) -> Option<&mut Put> {
        match self.running.get_mut(&id) {
            Some(Query::Put(put)) => Some(put),
            Some(Query::SelfLookup(_) | Query::Refresh(_) | Query::Get(_)) | None => None,
        }
    }

    /// The PUT, if it is running and makes the attempt of that number.
    pub(crate) fn attempt(&self, id: QueryId, attempt: u32) -> Option<&Put> {
        match self.running.get(&id) {
            Some(Query::Put(put)) if put.attempt == attempt => Some(put),
            Some(_) | None => None,
        }
    }

    /// The PUT, if it is running, makes the attempt of that number, and copies are on their way.
    pub(crate) fn spreading(&mut self, id: QueryId, attempt: u32) -> Option<&mut Put> {
        self.put(id).filter(|put| put.attempt == attempt && put.is_spreading())
    }

    /// Whether another peer can get the copy in place of one that is overdue. Where none can, to wait on
    /// loses nothing.
    pub(crate) fn can_replace(&self, copied: Copied) -> bool {
        match copied {
            Copied::Put(query, attempt) => self.attempt(query, attempt).is_some_and(Put::has_targets),
            Copied::Repair(_) | Copied::HandOver(_) => false,
        }
    }

    /// The lookup of a query, while it has one.
    pub(crate) fn lookup(&mut self, id: QueryId) -> Option<&mut Lookup> {
        self.running.get_mut(&id)?.lookup_mut()
    }

    /// The latest PUT of `key` that is running.
    pub(crate) fn writing(&self, key: &Key) -> Option<&Put> {
        match self.running.get(self.writing.get(key)?) {
            Some(Query::Put(put)) => Some(put),
            Some(Query::SelfLookup(_) | Query::Refresh(_) | Query::Get(_)) | None => None,
        }
    }

    /// Whether no later PUT of the same key was taken.
    pub(crate) fn is_latest(&mut self, id: QueryId) -> bool {
        let key = self.put(id).map(|put| put.record.key);
        key.is_some_and(|key| self.writing.get(&key) == Some(&id))
    }

    /// Whether it is a lookup of maintenance, which asks for no values.
    pub(crate) fn is_maintenance(&self, id: QueryId) -> bool {
        matches!(self.running.get(&id), Some(Query::SelfLookup(_) | Query::Refresh(_)))
    }

    /// Whether there is room for another request of a client.
    pub(crate) fn has_room(&self) -> bool {
        self.clients < CLIENT_REQUESTS_MAX && self.put_bytes < CLIENT_PUT_BYTES_MAX
    }

    /// How many requests of clients are running.
    pub(crate) fn clients(&self) -> usize {
        self.clients
    }

    /// How many lookups of maintenance are running.
    pub(crate) fn maintenance(&self) -> usize {
        self.running.len() - self.clients
    }

    /// All of them.
    pub(crate) fn ids(&self) -> Vec<QueryId> {
        self.running.keys().copied().collect()
    }

    /// All that wait for the node to join.
    pub(crate) fn parked(&self) -> Vec<QueryId> {
        let is_parked = |query: &Query| match query {
            Query::SelfLookup(_) | Query::Refresh(_) => false,
            Query::Get(get) => get.lookup.is_none(),
            Query::Put(put) => put.is_parked(),
        };
        self.running.iter().filter(|(_, query)| is_parked(query)).map(|(id, _)| *id).collect()
    }

    /// Whether a lookup of the own id is running.
    pub(crate) fn is_looking_up_self(&self) -> bool {
        self.running.values().any(|query| matches!(query, Query::SelfLookup(_)))
    }

    /// The lookups that are running.
    pub(crate) fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.running.values().filter_map(Query::lookup)
    }
}
