//! The state machine of a PUT: which nodes get a copy, when to confirm, how an attempt ends.
//!
//! [`Put::next`] returns one step at a time; the caller performs it and reports the result. The machine
//! sends nothing, and has no access to the storage and to timers. It counts each copy and each version probe
//! that it returns as in flight, until the caller reports its end.
//!
//! A confirmation guarantees that
//!
//! - enough distinct nodes have acknowledged this version ([`Spread::wanted`]), and a peer has answered a lookup if
//!   others exist,
//! - no version probe is in flight, and no answer of a close node to the lookup is overdue: each has said whether it
//!   stores an older version, or has failed, and
//! - each node that said so has answered its copy, or no copy is in flight any more, and
//! - the nodes of the other address family have the record, if there are any ([`Relay`]).
//!
//! The second and the third condition matter because two stale replicas that agree would satisfy a read quorum.
//!
//! Wall clocks may differ, so that other nodes would not read the record: [`Contradictions`].
//!
//! A peer can claim to store a larger record without having one. For a plain record one claim ends the
//! PUT, because any node could write that record anyway. For a signed record the claims must outnumber
//! the replicas.

mod spread;

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::contact::{Contact, Family};
use crate::id::{Key, NodeId};
use crate::lookup::Lookup;
use crate::node::action::{Caller, ClientId};
use crate::node::purpose::Attempt;
use crate::node::query::bridge_asks::Relay;
use crate::node::query::contradictions::{Contradictions, OwnClock};
use crate::node::query::write_quorum::spread::Spread;
use crate::node::records::accept::{NoRoom, Replica};
use crate::record::{Class, Life, Precedence, Rank, Record, Source, Version};
use crate::time::{Now, Time};
use crate::wire::peer::{Entry, ErrorCode, StoreOutcome};

/// A running PUT.
#[derive(Debug)]
pub(crate) struct Put {
    /// The client that waits for a confirmation.
    pub(crate) client: Option<ClientId>,
    /// The record to store.
    pub(crate) record: Record,
    /// When the life of the record ends.
    pub(crate) expires: Time,
    /// The record that this one has replaced on this node: it comes back if other nodes refuse this one.
    pub(crate) replaced: Option<Replaced>,
    /// The pause before the next attempt.
    pub(crate) pause: Duration,
    /// Why this node stores the record.
    pub(crate) origin: PutOrigin,
    /// The number of the attempt: replies to copies of earlier attempts are ignored.
    pub(crate) attempt: u32,
    /// Whether this node has accepted no later PUT of the key. Once false, it stays false.
    pub(crate) is_latest: bool,
    /// The earlier PUTs of the key that it stands for.
    pub(crate) earlier: Earlier,
    decision: Decision,
    /// The family of the nodes that get a copy; `None` stands for all that this node can dial.
    pub(crate) overlay: Option<Family>,
    /// Whether the nodes of the other family have the record.
    pub(crate) relay: Relay,
    stage: PutStage,
    /// Nodes that store the record in this version.
    replicas: Vec<Replica>,
    /// Nodes that store an older record and have not answered a copy. Each of them gets a copy, even if
    /// enough replicas exist.
    stale_replicas: Vec<NodeId>,
    /// Nodes that store a larger plain record. If the version is raised above that, their record is an older one.
    larger_at: Vec<(NodeId, Precedence)>,
    /// Whether an attempt was repeated because a larger version is ahead of this node's clock. That happens once.
    was_repeated: bool,
    /// Nodes whose answers show that their clock and the one of this node differ too much.
    contradictions: Contradictions,
    /// The last ERROR 410 or 425 of a peer, if any has refused the record by it.
    refused_by: Option<ErrorCode>,
    /// Why a copy was not stored, if there was no room for it.
    pub(crate) no_room: Option<NoRoom>,
    /// The largest plain version of a peer whose PUT began before this one. The next attempt begins with a version
    /// above it.
    ahead: Option<Version>,
    /// Whether a peer stores a larger version whose PUT began about when this one did.
    is_unclear: bool,
}

/// What a client was told of a PUT, or would have been. From then on, later PUTs may have been confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing yet.
    Open,
    /// Enough nodes store the record.
    Stored,
    /// Its time was over before.
    Failed,
}

/// Earlier PUTs of a key, for which a later one stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Earlier {
    /// Whether a client waits for one of them.
    pub(crate) are_awaited: bool,
    /// The number of those that have ended, because no client waits for them.
    pub(crate) ended: u64,
}

/// A record that a PUT has replaced on its own node.
#[derive(Clone, Debug)]
pub(crate) struct Replaced {
    pub(crate) record: Record,
    pub(crate) expires: Time,
    pub(crate) source: Source,
}

/// Why a node stores a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutOrigin {
    /// A request of a client. The PUT makes attempts until `request_timeout`.
    Client {
        /// The connection on which it came.
        connection: u64,
        /// When it came.
        taken: Time,
    },
    /// A retry after failed attempts. The PUT makes one attempt, and waits again if it fails.
    Retry,
    /// The nodes of this family shall store a record of another PUT. It makes one attempt.
    Relay(RelayFor),
}

/// Where the result of a PUT goes that passes a record on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayFor {
    /// To a peer that has sent a RELAY.
    Peer(Caller),
    /// To a PUT of this node, in this attempt.
    Put(Attempt),
}

/// The stage of a PUT.
#[derive(Debug)]
enum PutStage {
    /// The PUT waits for the node to join, or for its next attempt.
    Parked,
    /// A lookup finds the nodes nearest to the key.
    LookingUp(Lookup),
    /// Copies are sent.
    Spreading(Spread),
}

/// The next step of a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send a copy to this peer, or store it on this node, and report its end by [`Put::copy_ended`].
    Copy(Replica),
    /// Send a version probe to this node, and report its end by [`Put::probe_ended`].
    Probe(Contact),
    /// Have the record stored in the other address family, and report the end to [`Put::relay`].
    Relay,
    /// Answer this client by SUCCESS.
    Confirm(ClientId),
    /// Wait for replies, or for a timer.
    Wait,
    /// The attempt has ended: enough replicas store the record.
    Stored,
    /// The attempt has ended: too few replicas store the record.
    TooFew,
    /// The attempt has ended: a larger record is stored, as far as claims of other nodes count.
    Superseded(Rank),
    /// The attempt has ended: the other nodes do not accept the version, by their clocks or their tombstones.
    Refused(ErrorCode),
}

/// Whether other nodes exist, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Some may run, even if none answers.
    Exist,
    /// This node is the whole network.
    None,
}

impl Put {
    /// A PUT for which nothing has been sent yet.
    pub(crate) fn new(
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
            replaced: None,
            pause,
            origin,
            attempt: 0,
            is_latest: true,
            earlier: Earlier::default(),
            decision: Decision::Open,
            overlay: None,
            relay: Relay::NotNeeded,
            stage: PutStage::Parked,
            replicas: Vec::new(),
            stale_replicas: Vec::new(),
            larger_at: Vec::new(),
            was_repeated: false,
            contradictions: Contradictions::default(),
            refused_by: None,
            no_room: None,
            ahead: None,
            is_unclear: false,
        }
    }

    /// Whether this node reports to a client or to another node that enough nodes store the record.
    pub(crate) fn is_told(&self) -> bool {
        self.client.is_some() || self.earlier.are_awaited || self.is_relay()
    }

    /// Whether it waits while an earlier PUT of the key makes an attempt.
    pub(crate) fn takes_turns(&self) -> bool {
        !self.is_relay() && self.record.class != Class::Hashed
    }

    /// Whether this PUT passes a record on.
    pub(crate) fn is_relay(&self) -> bool {
        matches!(self.origin, PutOrigin::Relay(_))
    }

    /// When a client asked for it; `None` for a PUT that this node makes itself.
    pub(crate) fn taken(&self) -> Option<Time> {
        let PutOrigin::Client { taken, .. } = self.origin else { return None };
        Some(taken)
    }

    /// The key of the record.
    pub(crate) fn key(&self) -> Key {
        self.record.key
    }

    /// The number of nodes that store the record in this version.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    /// Whether enough nodes have stored the record.
    pub(crate) fn was_stored(&self) -> bool {
        self.decision == Decision::Stored
    }

    /// The peers among the nodes that store the record in this version.
    pub(crate) fn replicas_at_peers(&self) -> impl Iterator<Item = Contact> {
        self.replicas.iter().filter_map(|replica| match replica {
            Replica::Me => None,
            Replica::Peer(contact) => Some(*contact),
        })
    }

    /// Whether the PUT waits for the node to join, or for its next attempt.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.stage, PutStage::Parked)
    }

    /// Whether the current attempt sends copies.
    pub(crate) fn is_spreading(&self) -> bool {
        matches!(self.stage, PutStage::Spreading(_))
    }

    /// The lookup of the current attempt, until it ends.
    pub(crate) fn lookup(&self) -> Option<&Lookup> {
        let PutStage::LookingUp(lookup) = &self.stage else { return None };
        Some(lookup)
    }

    /// The same, for the caller that runs it.
    pub(crate) fn lookup_mut(&mut self) -> Option<&mut Lookup> {
        let PutStage::LookingUp(lookup) = &mut self.stage else { return None };
        Some(lookup)
    }

    /// Lets the PUT wait until the next [`Put::look_up`].
    pub(crate) fn park(&mut self) {
        self.stage = PutStage::Parked;
    }

    /// Starts a new attempt by a lookup of the nodes nearest to the key. An earlier attempt ends.
    pub(crate) fn look_up(&mut self, lookup: Lookup) {
        self.stage = PutStage::LookingUp(lookup);
    }

    /// Starts to send copies to the nodes that the lookup has found. Up to `k` of the nearest may get a
    /// copy, and this node too, if it stores records: then `me` is its id.
    ///
    /// Returns `false` if there is no lookup.
    pub(crate) fn spread(&mut self, me: Option<NodeId>, k: usize, clock: OwnClock, others: Others) -> bool {
        let PutStage::LookingUp(lookup) = &self.stage else { return false };
        let key = self.record.key;
        let distance = |id: &NodeId| id.key().distance(&key);
        let lacks = |target: &Replica| !self.replicas.iter().any(|replica| replica.is(target));
        let answered = lookup.answered().filter(|contact| lacks(&Replica::Peer(**contact))).count();
        let reached = answered + self.replicas_at_peers().count();
        let nearest = lookup.nearest().filter(|contact| lacks(&Replica::Peer(**contact)));
        let mut targets: VecDeque<Replica> = nearest.take(k).copied().map(Replica::Peer).collect();
        let own = me.filter(|_| lacks(&Replica::Me));
        if let Some(me) = own {
            let nearer = |target: &Replica| matches!(target, Replica::Peer(peer) if distance(&peer.id) < distance(&me));
            targets.insert(targets.partition_point(nearer), Replica::Me);
        }
        // The copy of this node says nothing about nodes that did not answer, nor about the other family.
        let is_unheard = reached == 0 && (others == Others::Exist || self.is_relay());
        let reachable = if is_unheard { 0 } else { reached + usize::from(me.is_some()) };
        let unprobed = lookup.unasked(k).copied().collect();
        let unheard = lookup.overdue(k).map(|contact| contact.id).collect();
        self.attempt += 1;
        self.refused_by = None;
        self.stage = PutStage::Spreading(Spread {
            reachable,
            unable: 0,
            targets,
            unprobed,
            copies_in_flight: 0,
            overdue: Vec::new(),
            probes_in_flight: 0,
            unheard,
            copies_to_peers: 0,
            copies_refused: 0,
            newer_claims: Vec::new(),
            larger: None,
            clock,
            is_clock_in_doubt: false,
        });
        true
    }

    /// The next step.
    pub(crate) fn next(&mut self) -> Next {
        let (refused, is_outdated) = (self.refused(), self.is_outdated());
        let Self {
            stage: PutStage::Spreading(spread), replicas, stale_replicas, record, client, relay, decision, ..
        } = self
        else {
            return Next::Wait;
        };
        let may_copy = spread.larger.is_none() && !is_outdated;
        if may_copy && relay.asks_next() {
            return Next::Relay;
        }
        let (awaited, outvoted) = (spread.awaited(), spread.outvoted(replicas.len()));
        // Nodes that claim a larger record count as replicas while copies are awaited, or while they
        // are the majority. Otherwise more distant nodes would store a record that is probably out of date.
        let claims = if awaited > 0 || outvoted.is_some() { spread.newer_claims.len() } else { 0 };
        let enough = replicas.len() + awaited + claims >= usize::from(record.replication);
        let is_stale = |target: &Replica| matches!(target, Replica::Peer(peer) if stale_replicas.contains(&peer.id));
        if may_copy
            && let Some(at) = spread.targets.iter().position(|target| !enough || is_stale(target))
            && let Some(target) = spread.targets.remove(at)
        {
            spread.copies_in_flight += 1;
            spread.copies_to_peers += usize::from(target != Replica::Me);
            return Next::Copy(target);
        }
        if may_copy && let Some(contact) = spread.unprobed.pop_front() {
            spread.probes_in_flight += 1;
            return Next::Probe(contact);
        }
        if let Some(by) = spread.larger {
            return if spread.copies_in_flight > 0 { Next::Wait } else { Next::Superseded(by) };
        }
        let is_stored = spread.reachable > 0 && replicas.len() >= spread.wanted(record.replication);
        let all_heard = spread.probes_in_flight == 0 && spread.unheard.is_empty();
        let no_stale_one = stale_replicas.is_empty() || awaited == 0 && !spread.has_overdue(stale_replicas);
        if is_stored && relay.is_done() && all_heard && refused.is_none() && no_stale_one {
            *decision = Decision::Stored;
            if let Some(client) = client.take() {
                return Next::Confirm(client);
            }
        }
        let waits = if is_stored { awaited > 0 || !all_heard || !no_stale_one } else { spread.copies_in_flight > 0 };
        if waits || relay.is_awaited() {
            return Next::Wait;
        }
        if let Some(code) = refused {
            return if spread.is_clock_in_doubt { Next::TooFew } else { Next::Refused(code) };
        }
        if is_stored && relay.is_done() {
            return Next::Stored;
        }
        outvoted.map_or(Next::TooFew, Next::Superseded)
    }

    /// Why no other node would read this record as the newest one, as far as the answers show; `None` if
    /// nothing speaks against it.
    fn refused(&self) -> Option<ErrorCode> {
        let PutStage::Spreading(spread) = &self.stage else { return None };
        let peers = self.replicas_at_peers().count();
        if self.contradictions.prevail(spread.clock, peers) {
            return Some(ErrorCode::TOO_EARLY);
        }
        // A peer that stores it since an earlier attempt gets no copy in this one.
        let all_refuse = peers == 0 && spread.copies_refused > 0 && spread.copies_refused == spread.copies_to_peers;
        self.refused_by.filter(|_| all_refuse)
    }

    /// Whether most peers say that this node's clock is wrong, and a larger record is stored that they read. Then no
    /// more copies are sent: nodes that lack that record would store this one, and two of them agree for a reader.
    fn is_outdated(&self) -> bool {
        matches!(&self.stage, PutStage::Spreading(spread) if self.contradictions.show_newer(spread.clock))
    }

    /// Whether peers contradict this attempt, although most have said that this node's clock is right.
    pub(crate) fn is_contradicted(&self) -> bool {
        let PutStage::Spreading(spread) = &self.stage else { return false };
        spread.clock == OwnClock::Right && !self.contradictions.is_empty()
    }

    /// They said so too long ago to outweigh the contradictions.
    pub(crate) fn doubt_clock(&mut self) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            (spread.clock, spread.is_clock_in_doubt) = (OwnClock::Unknown, true);
        }
    }

    /// `from` has refused a copy of this attempt.
    pub(crate) fn on_refused(&mut self, from: NodeId, code: ErrorCode) {
        if code == ErrorCode::TOO_EARLY {
            self.contradictions.add(from, None);
        }
        if matches!(code, ErrorCode::FULL | ErrorCode::TOO_MANY) {
            self.no_room.get_or_insert(NoRoom::AtPeer);
        }
        if matches!(code, ErrorCode::TOO_EARLY | ErrorCode::GONE)
            && let PutStage::Spreading(spread) = &mut self.stage
        {
            spread.copies_refused += 1;
            self.refused_by = Some(code);
        }
    }

    /// This node has no room for its copy of this attempt.
    pub(crate) fn without_room(&mut self) {
        self.no_room = Some(NoRoom::Here);
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.unable += 1;
        }
    }

    /// The copy of this attempt to `from` has ended by `answer`, or without one. If `from` does not store it, the PUT
    /// does without that node, except in two cases:
    ///
    /// - The clocks of both nodes differ too much, and the one of this node is not known to be right. Then others may
    ///   not read this record either.
    /// - `from` stores an older record, and gave no answer in the first attempt. The next one shows whether it is gone.
    pub(crate) fn note_unable(
        &mut self,
        now: Now,
        from: &NodeId,
        answer: Option<Result<(StoreOutcome, Rank), ErrorCode>>,
    ) {
        let PutStage::Spreading(spread) = &mut self.stage else { return };
        let is_right = spread.clock == OwnClock::Right;
        let is_unable = match answer {
            Some(Ok((StoreOutcome::Held, _))) => false,
            Some(Ok((StoreOutcome::Larger, stored))) => is_right || !stored.version.is_too_early(now.wall),
            Some(Err(ErrorCode::TOO_EARLY | ErrorCode::GONE)) => is_right,
            Some(Err(_)) => true,
            None => self.attempt > 1 || !self.stale_replicas.contains(from),
        };
        spread.unable += usize::from(is_unable);
    }

    /// `from` stores a version that is too far ahead of this node's clock. No version replaces a hashed record.
    fn on_far_ahead(&mut self, now: Now, from: NodeId, version: Version) {
        if self.record.class != Class::Hashed {
            self.contradictions.add(from, Some(version.time().since(now.wall)));
        }
    }

    /// The answer of `to` to its copy of this attempt is overdue, so another node may get one too.
    pub(crate) fn copy_overdue(&mut self, to: NodeId) {
        if let PutStage::Spreading(spread) = &mut self.stage
            && !spread.targets.is_empty()
            && !spread.overdue.contains(&to)
        {
            spread.overdue.push(to);
        }
    }

    /// The copy of this attempt to that node was answered, or will not be.
    pub(crate) fn copy_ended(&mut self, replica: Replica) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.copies_in_flight -= 1;
            if let Replica::Peer(peer) = replica {
                spread.overdue.retain(|id| *id != peer.id);
            }
        }
    }

    /// `peer` has answered the lookup after the PUT has gone on without it, or will not.
    pub(crate) fn heard(&mut self, peer: &NodeId) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.unheard.retain(|id| id != peer);
        }
    }

    /// A version probe has ended. The caller reports its answer first.
    pub(crate) fn probe_ended(&mut self) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.probes_in_flight -= 1;
        }
    }

    /// `from` answered a version probe by `entry`, or stores nothing. Returns whether the PUT must repeat the attempt
    /// ([`Put::repeats`]).
    pub(crate) fn on_probe(&mut self, now: Now, from: NodeId, entry: Option<Entry>) -> bool {
        let Some(entry) = entry.filter(|entry| entry.key == self.record.key) else { return false };
        self.note_stored(now, from, entry.rank);
        self.repeats(now, entry.rank)
    }

    /// `from` answered the lookup: it stores a record of this rank, whose PUT began at some moment `within`. If it is
    /// smaller, `from` gets a copy. If it is larger and of a PUT that surely began before this one, this one is raised
    /// above it.
    pub(crate) fn on_head(&mut self, now: Now, from: NodeId, rank: Rank, within: RangeInclusive<Time>) {
        self.note_stored(now, from, rank);
        let Some(taken) = self.taken() else { return };
        if rank.version < self.record.version || !self.is_ahead(now, rank) && !self.may_precede(now, rank) {
            return;
        }
        if *within.end() <= taken {
            self.ahead = self.ahead.max(Some(rank.version));
        } else {
            self.is_unclear |= *within.start() <= taken;
        }
    }

    /// Whether this PUT must repeat its lookup, once, because that does not say whether it began before or after another
    /// one: an answer took long. The next lookup asks all close nodes.
    pub(crate) fn looks_again(&mut self) -> bool {
        let looks_again = std::mem::take(&mut self.is_unclear) && !self.keeps_version() && !self.was_repeated;
        self.was_repeated |= looks_again;
        looks_again
    }

    /// `from` stores a record of this rank.
    fn note_stored(&mut self, now: Now, from: NodeId, rank: Rank) {
        if rank.version.is_too_early(now.wall) {
            return self.on_far_ahead(now, from, rank.version);
        }
        if rank.life != Life::Alive {
            return;
        }
        match rank.precedence().cmp(&self.record.rank().precedence()) {
            Ordering::Less => self.note_stale(from),
            Ordering::Equal => {}
            Ordering::Greater => {
                self.larger_at.retain(|(id, _)| *id != from);
                self.larger_at.push((from, rank.precedence()));
            }
        }
    }

    /// `from` stores an older record, so it gets a copy.
    fn note_stale(&mut self, from: NodeId) {
        if !self.stale_replicas.contains(&from) {
            self.stale_replicas.push(from);
        }
    }

    /// `from` answered a copy of this attempt. Returns the rank of a larger record if that ends the PUT.
    pub(crate) fn on_stored(&mut self, now: Now, from: Contact, outcome: StoreOutcome, stored: Rank) -> Option<Rank> {
        let supersedes = may_supersede(now, stored, &self.record);
        if outcome == StoreOutcome::Larger && stored.version.is_too_early(now.wall) {
            self.on_far_ahead(now, from.id, stored.version);
        }
        let PutStage::Spreading(spread) = &mut self.stage else { return None };
        self.stale_replicas.retain(|id| *id != from.id);
        match outcome {
            StoreOutcome::Held => self.on_replica(Replica::Peer(from)),
            // No such record can exist, and `from` has not stored the copy.
            StoreOutcome::Larger if !supersedes => {}
            StoreOutcome::Larger if self.record.class == Class::Plain => return Some(stored),
            // No node can forge a signed record, but every node can claim to store one.
            StoreOutcome::Larger => spread.newer_claims.push(stored),
        }
        None
    }

    /// A larger record of this rank ends this PUT: it sends no more copies, because nodes that take one have to get the
    /// larger record.
    pub(crate) fn on_larger(&mut self, by: Rank) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.larger = spread.larger.into_iter().chain([by]).max_by_key(|rank| rank.precedence());
        }
    }

    /// This node or a peer stores the record.
    pub(crate) fn on_replica(&mut self, replica: Replica) {
        if let Replica::Peer(peer) = replica {
            self.contradictions.withdraw(&peer.id);
        }
        if !self.replicas.iter().any(|other| other.is(&replica)) {
            self.replicas.push(replica);
        }
    }

    /// Takes the version above which this PUT must be raised before it sends copies. `None` if there is none, or if
    /// this PUT must keep its version.
    pub(crate) fn take_ahead(&mut self) -> Option<Version> {
        self.ahead.take().filter(|ahead| !self.keeps_version() && *ahead >= self.record.version)
    }

    /// Whether the version must stay, because a later PUT must stay the larger one: this node has accepted a later
    /// one of the key; or others may have been confirmed since this one was decided.
    fn keeps_version(&self) -> bool {
        !self.is_latest || self.decision != Decision::Open || !matches!(self.origin, PutOrigin::Client { .. })
    }

    /// The time of this PUT is over: its client gets FAILURE. The PUT goes on with the version that it has.
    pub(crate) fn fail(&mut self) -> Option<ClientId> {
        if self.decision == Decision::Open {
            self.decision = Decision::Failed;
        }
        self.client.take()
    }

    /// Whether this PUT must repeat the attempt because a node stores the larger version `by`, which is ahead of this
    /// node's clock: once, if ever. The lookup of the next attempt asks all close nodes, and learns from the age of
    /// that record whether its PUT began before this one.
    pub(crate) fn repeats(&mut self, now: Now, by: Rank) -> bool {
        let is_larger = by.version >= self.record.version && self.is_ahead(now, by);
        let repeats = is_larger && !self.keeps_version() && !self.was_repeated;
        self.was_repeated |= repeats;
        repeats
    }

    /// Whether the lookup asks all close nodes.
    pub(crate) fn asks_all(&self) -> bool {
        self.was_repeated
    }

    /// Whether this record and `other` are plain, and the time in the version of `other` is ahead of this
    /// node's clock, which then runs behind the clock of another node (`PROTOCOL.md` 3).
    fn is_ahead(&self, now: Now, other: Rank) -> bool {
        let both_plain = other.class == Class::Plain && self.record.class == Class::Plain;
        both_plain && other.version.time() > now.wall && !other.version.is_too_early(now.wall)
    }

    /// Whether `other` is of a PUT that may have ended before this one began: its version is larger, because clocks
    /// differ, but the first lookup has met it, before this node has sent a copy. So this one may be ordered after it.
    fn may_precede(&self, now: Now, other: Rank) -> bool {
        let both_plain = other.class == Class::Plain && self.record.class == Class::Plain;
        both_plain && self.attempt == 0 && !other.version.is_too_early(now.wall)
    }

    /// Replaces the version. No node stores the new one yet: those that store a smaller one get a copy.
    pub(crate) fn raise(&mut self, version: Version) {
        self.record.version = version;
        let raised = self.record.rank().precedence();
        let replicas: Vec<NodeId> = self.replicas_at_peers().map(|peer| peer.id).collect();
        let overtaken: Vec<NodeId> =
            self.larger_at.extract_if(.., |(_, stored)| *stored < raised).map(|(id, _)| id).collect();
        replicas.into_iter().chain(overtaken).for_each(|id| self.note_stale(id));
        self.replicas.clear();
        self.contradictions = Contradictions::default();
        self.relay.restart();
    }
}

/// Whether a record of the rank `by` can be larger than `record`. Every node ignores a version that is too
/// far in the future (`PROTOCOL.md` 3), and no record is larger than a hashed one.
pub(crate) fn may_supersede(now: Now, by: Rank, record: &Record) -> bool {
    record.class != Class::Hashed && !by.version.is_too_early(now.wall) && by.precedence() >= record.rank().precedence()
}

#[cfg(test)]
mod tests;
