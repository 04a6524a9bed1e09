//! What the node is busy with: searches of its own, and requests of its clients.
//!
//! A job is anything that goes on while other things happen, and has a lookup for a part of its
//! life. Upkeep has two kinds, clients have two. Who waits, waits here.

pub(in crate::node) mod get;
pub(in crate::node) mod lookup;
pub(in crate::node) mod put;
pub(in crate::node) mod put_retry;
pub(in crate::node) mod read_quorum;
pub(in crate::node) mod read_repair;
pub(in crate::node) mod session;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::id::{Key, KeyMap, KeySeed, NodeId};
use crate::limits::{CLIENT_PUT_BYTES_MAX, CLIENT_REQUESTS_MAX};
use crate::lookup::Lookup;
use crate::node::action::ClientId;
use crate::node::query::read_quorum::{Phase, QuorumRead};
use crate::node::query::session::Seen;
use crate::node::records::accept::Replica;
use crate::record::{Class, Life, Rank, Record, Version};
use crate::time::{Now, Time};

/// Names a job; never used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) struct QueryId(u64);

/// Something under way.
#[derive(Debug)]
pub(in crate::node) enum Query {
    /// Looking up the own id, to be known and to know (Kademlia, section 2.3).
    Join(Lookup),
    /// Looking up a point of a bucket that is stale.
    Refresh(Lookup),
    /// A client wants a value.
    Get(Box<Get>),
    /// A value is to be held by the nodes nearest to its key.
    Put(Box<Put>),
}

/// A GET that is not answered yet.
#[derive(Debug)]
pub(in crate::node) struct Get {
    /// Who waits.
    pub(in crate::node) client: ClientId,
    /// For what.
    pub(in crate::node) key: Key,
    /// The search; `None` until the node has joined.
    pub(in crate::node) lookup: Option<Lookup>,
    /// When it began, for the log.
    pub(in crate::node) since: Time,
    /// Whether this is the second search, which there is when the first met silence.
    pub(in crate::node) again: bool,
    /// What was heard so far.
    pub(in crate::node) read: QuorumRead,
    /// Whether the search is under way.
    pub(in crate::node) phase: Phase,
}

/// A PUT that is not over.
#[derive(Debug)]
pub(in crate::node) struct Put {
    /// Who waits for a confirmation.
    pub(in crate::node) client: Option<ClientId>,
    /// What is to be held.
    pub(in crate::node) record: Record,
    /// When its life ends.
    pub(in crate::node) expires: Time,
    /// How far it has come.
    pub(in crate::node) stage: PutStage,
    /// Nodes that hold it.
    pub(in crate::node) replicas: Vec<NodeId>,
    /// Nodes that shall hold it: min(replication, reachable).
    pub(in crate::node) wanted: usize,
    /// Whom to hand a copy next, nearest first, oneself among them; nobody who holds it.
    pub(in crate::node) next_targets: VecDeque<Replica>,
    /// Nodes that hold an older record, and have not answered a copy: each gets one, however many hold
    /// one already.
    pub(in crate::node) stale_replicas: Vec<NodeId>,
    /// Copies whose reply is awaited.
    pub(in crate::node) in_flight: usize,
    /// Bystanders whose answer is awaited: those of the k nearest whom neither the search has asked
    /// nor a copy goes to. What they hold, if it is older, they would show to others.
    pub(in crate::node) version_probes: usize,
    /// What receivers of this spreading claim to hold instead, where a claim proves nothing.
    pub(in crate::node) newer_claims: Vec<Rank>,
    /// How often it was spread: replies to an earlier spreading do not count.
    pub(in crate::node) attempt: u32,
    /// Whether its version was drawn anew because a holder has a larger one, which happens once.
    pub(in crate::node) redrawn: bool,
    /// The largest plain version that was met ahead of this node's clock: it is drawn anew above it
    /// before its next spreading.
    pub(in crate::node) ahead: Option<Version>,
    /// The pause before its next attempt.
    pub(in crate::node) pause: Duration,
    /// Where it comes from.
    pub(in crate::node) origin: PutOrigin,
}

/// Where a PUT comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum PutOrigin {
    /// A client has just asked for it: it tries again until `request_timeout`.
    Client,
    /// It was kept since then: it makes one attempt, and is kept again if that fails.
    Retry,
}

/// How far a PUT has come.
#[derive(Debug)]
pub(in crate::node) enum PutStage {
    /// The node has not joined, or the next attempt is not due: nobody is asked.
    Parked,
    /// Who is nearest?
    LookingUp(Lookup),
    /// Copies are on their way.
    Spreading,
}

impl Put {
    /// A PUT that nobody was asked about yet, whose next attempt is so much later if it fails.
    pub(in crate::node) fn new(
        client: Option<ClientId>,
        record: Record,
        expires: Time,
        origin: PutOrigin,
        pause: Duration,
    ) -> Self {
        Self {
            client,
            record,
            expires,
            stage: PutStage::Parked,
            replicas: Vec::new(),
            wanted: 0,
            next_targets: VecDeque::new(),
            stale_replicas: Vec::new(),
            in_flight: 0,
            version_probes: 0,
            newer_claims: Vec::new(),
            attempt: 0,
            redrawn: false,
            ahead: None,
            pause,
            origin,
        }
    }

    /// `from` says that it holds a record of this rank: a smaller one is to be replaced; above a plain
    /// version that is ahead of the own clock, this PUT is drawn anew.
    ///
    /// Nothing else follows from it, for words prove nothing: only whoever refuses a copy for a
    /// larger record ends a PUT.
    pub(in crate::node) fn met(&mut self, now: Now, from: NodeId, rank: Rank) {
        if rank.version.is_too_early(now.wall) {
            return;
        }
        let smaller = Seen::of(rank) < Seen::of(self.record.rank());
        if smaller && rank.life == Life::Alive && !self.stale_replicas.contains(&from) {
            self.stale_replicas.push(from);
        }
        if rank.class == Class::Plain && self.record.class == Class::Plain && rank.version.time() > now.wall {
            self.ahead = self.ahead.max(Some(rank.version));
        }
    }

    /// Whether copies are on their way.
    pub(in crate::node) fn is_spreading(&self) -> bool {
        matches!(self.stage, PutStage::Spreading)
    }

    /// Whether it is held by as many nodes as shall hold it, which is known once it was spread.
    pub(in crate::node) fn is_held(&self) -> bool {
        self.attempt > 0 && self.wanted > 0 && self.replicas.len() >= self.wanted
    }

    /// Whether its client may be told so: nobody who was asked holds an older record any more, as far
    /// as can be waited for; two of these would be believed at once.
    pub(in crate::node) fn is_confirmed(&self) -> bool {
        self.is_held() && self.version_probes == 0 && (self.stale_replicas.is_empty() || self.in_flight == 0)
    }

    /// What it is superseded by, if more claim to hold something larger than hold it: one who lies
    /// ends nothing.
    pub(in crate::node) fn outvoted(&self) -> Option<Rank> {
        let largest = self.newer_claims.iter().copied().max_by_key(|rank| Seen::of(*rank));
        largest.filter(|_| self.newer_claims.len() > self.replicas.len())
    }

    /// Takes the next one to be handed a copy out of the spares; `None` while enough hold one, or
    /// will, and nobody is left who holds an older record.
    ///
    /// Whoever claims to hold something larger is in the place of a holder until all have answered,
    /// and where most claim it: beyond them are nodes that would hold what is out of date.
    pub(in crate::node) fn next_target(&mut self) -> Option<Replica> {
        let is_open = self.in_flight > 0 || self.outvoted().is_some();
        let newer_claims = if is_open { self.newer_claims.len() } else { 0 };
        let enough = self.replicas.len() + self.in_flight + newer_claims >= usize::from(self.record.replication);
        let stale_replicas = |target: &Replica| match target {
            Replica::Me => false,
            Replica::Peer(contact) => self.stale_replicas.contains(&contact.id),
        };
        let at = if enough { self.next_targets.iter().position(stale_replicas)? } else { 0 };
        self.next_targets.remove(at)
    }

    /// Notes that `id` holds it.
    pub(in crate::node) fn stored_by(&mut self, id: NodeId) {
        if !self.replicas.contains(&id) {
            self.replicas.push(id);
        }
    }
}

/// All jobs.
#[derive(Debug)]
pub(in crate::node) struct Queries {
    running: BTreeMap<QueryId, Query>,
    next: u64,
    /// The latest PUT of each key that is not over: what a GET here must see.
    writing: KeyMap<Key, QueryId>,
    clients: usize,
    put_bytes: usize,
}

impl Queries {
    pub(in crate::node) fn new(seed: KeySeed) -> Self {
        Self { running: BTreeMap::new(), next: 0, writing: KeyMap::with_hasher(seed), clients: 0, put_bytes: 0 }
    }

    /// Takes in a job.
    pub(in crate::node) fn insert(&mut self, query: Query) -> QueryId {
        let id = QueryId(self.next);
        self.next += 1;
        match &query {
            Query::Join(_) | Query::Refresh(_) => {}
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

    /// Ends a job, if it is not over.
    pub(in crate::node) fn remove(&mut self, id: QueryId) -> Option<Query> {
        let query = self.running.remove(&id)?;
        match &query {
            Query::Join(_) | Query::Refresh(_) => {}
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

    /// The job, if it is not over.
    pub(in crate::node) fn find(&mut self, id: QueryId) -> Option<&mut Query> {
        self.running.get_mut(&id)
    }

    /// The GET, if it is one and not over.
    pub(in crate::node) fn get(&mut self, id: QueryId) -> Option<&mut Get> {
        match self.running.get_mut(&id) {
            Some(Query::Get(get)) => Some(get),
            _ => None,
        }
    }

    /// The PUT, if it is one and not over.
    pub(in crate::node) fn put(&mut self, id: QueryId) -> Option<&mut Put> {
        match self.running.get_mut(&id) {
            Some(Query::Put(put)) => Some(put),
            _ => None,
        }
    }

    /// The search of a job, while it has one.
    pub(in crate::node) fn lookup(&mut self, id: QueryId) -> Option<&mut Lookup> {
        match self.running.get_mut(&id)? {
            Query::Join(lookup) | Query::Refresh(lookup) => Some(lookup),
            Query::Get(get) => get.lookup.as_mut(),
            Query::Put(put) => match &mut put.stage {
                PutStage::LookingUp(lookup) => Some(lookup),
                PutStage::Parked | PutStage::Spreading => None,
            },
        }
    }

    /// How many more answers may well be all that the search of a job needs; `None`, if it goes on
    /// until all the nearest have answered.
    pub(in crate::node) fn answers_missing(&mut self, id: QueryId) -> Option<usize> {
        self.get(id)?.read.replicas_missing()
    }

    /// The latest PUT of `key` that is not over.
    pub(in crate::node) fn writing(&self, key: &Key) -> Option<(QueryId, &Put)> {
        let id = *self.writing.get(key)?;
        match self.running.get(&id) {
            Some(Query::Put(put)) => Some((id, put)),
            _ => None,
        }
    }

    /// Whether no later PUT of the same key was taken.
    pub(in crate::node) fn is_latest(&mut self, id: QueryId) -> bool {
        let key = self.put(id).map(|put| put.record.key);
        key.is_some_and(|key| self.writing.get(&key) == Some(&id))
    }

    /// Whether another request of a client is welcome.
    pub(in crate::node) fn has_room(&self) -> bool {
        self.clients < CLIENT_REQUESTS_MAX && self.put_bytes < CLIENT_PUT_BYTES_MAX
    }

    /// How many requests of clients are not over.
    pub(in crate::node) fn clients(&self) -> usize {
        self.clients
    }

    /// How many searches are the node's own, for upkeep.
    pub(in crate::node) fn upkeep(&self) -> usize {
        self.running.len() - self.clients
    }

    /// All of them.
    pub(in crate::node) fn ids(&self) -> Vec<QueryId> {
        self.running.keys().copied().collect()
    }

    /// All that wait for the node to join.
    pub(in crate::node) fn parked(&self) -> Vec<QueryId> {
        let waits = |query: &Query| match query {
            Query::Join(_) | Query::Refresh(_) => false,
            Query::Get(get) => get.lookup.is_none(),
            Query::Put(put) => matches!(put.stage, PutStage::Parked),
        };
        self.running.iter().filter(|(_, query)| waits(query)).map(|(id, _)| *id).collect()
    }

    /// Whether a search for the own id is under way.
    pub(in crate::node) fn is_looking_up_self(&self) -> bool {
        self.running.values().any(|query| matches!(query, Query::Join(_)))
    }

    /// The searches under way.
    pub(in crate::node) fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.running.values().filter_map(|query| match query {
            Query::Join(lookup) | Query::Refresh(lookup) => Some(lookup),
            Query::Get(get) => get.lookup.as_ref(),
            Query::Put(put) => match &put.stage {
                PutStage::LookingUp(lookup) => Some(lookup),
                PutStage::Parked | PutStage::Spreading => None,
            },
        })
    }
}
