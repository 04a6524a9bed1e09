//! The state machine of a PUT: which nodes get a copy, when to confirm, how an attempt ends.
//!
//! [`Put::next`] returns one step at a time; the caller performs it and reports the result. The machine
//! sends nothing, and has no access to the storage and to timers. It counts each copy and each version probe
//! that it returns as in flight, until the caller reports its end.
//!
//! A confirmation guarantees that
//!
//! - `wanted` distinct nodes have acknowledged this version,
//! - no version probe is in flight, so each probed node has said whether it stores an older version, or has
//!   failed, and
//! - each node that said so has answered its copy, or no copy is in flight any more.
//!
//! The last two conditions matter because two stale replicas that agree would satisfy a read quorum.
//!
//! A peer can claim to store a larger record without having one. For a plain record one claim ends the
//! PUT, because any node could write that record anyway. For a signed record the claims must outnumber
//! the replicas.

use std::collections::VecDeque;
use std::time::Duration;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::lookup::Lookup;
use crate::node::action::ClientId;
use crate::node::records::accept::Replica;
use crate::record::{Class, Life, Rank, Record, Version};
use crate::time::{Now, Time};
use crate::wire::peer::{Entry, StoreOutcome};

/// A running PUT.
#[derive(Debug)]
pub(crate) struct Put {
    /// The client that waits for a confirmation.
    pub(crate) client: Option<ClientId>,
    /// The record to store.
    pub(crate) record: Record,
    /// When the life of the record ends.
    pub(crate) expires: Time,
    /// The pause before the next attempt.
    pub(crate) pause: Duration,
    /// Why this node stores the record.
    pub(crate) origin: PutOrigin,
    /// The number of the attempt: replies to copies of earlier attempts are ignored.
    pub(crate) attempt: u32,
    /// Whether this node has accepted no later PUT of the key. Once false, it stays false.
    pub(crate) is_latest: bool,
    stage: PutStage,
    /// Nodes that store the record in this version.
    replicas: Vec<NodeId>,
    /// Nodes that store an older record and have not answered a copy. Each of them gets a copy, even if
    /// enough replicas exist.
    stale_replicas: Vec<NodeId>,
    /// Whether the version was raised above that of a replica during an attempt. That happens once.
    was_raised: bool,
    /// The largest plain version of a peer that is ahead of this node's clock. The next attempt begins with
    /// a version above it.
    ahead: Option<Version>,
}

/// Why a node stores a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutOrigin {
    /// A request of a client. The PUT makes attempts until `request_timeout`.
    Client {
        /// The connection on which it came.
        connection: u64,
    },
    /// A retry after failed attempts. The PUT makes one attempt, and waits again if it fails.
    Retry,
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

/// The second half of an attempt: sending copies to the nodes that the lookup has found.
#[derive(Debug)]
struct Spread {
    /// The number of replicas that are needed: min(replication, reachable nodes).
    wanted: usize,
    /// The nodes to send a copy to, nearest first: perhaps this node, never a replica.
    targets: VecDeque<Replica>,
    /// Close nodes that the lookup has not asked and that get no copy. If such a node stores an older
    /// version, it would return it to GETs.
    unprobed: VecDeque<Contact>,
    copies_in_flight: usize,
    probes_in_flight: usize,
    /// Larger signed records that peers claim to store instead of the copy, without proof.
    newer_claims: Vec<Rank>,
}

/// The next step of a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send a copy to this peer, or store it on this node, and report its end by [`Put::copy_ended`].
    Copy(Replica),
    /// Send a version probe to this node, and report its end by [`Put::probe_ended`].
    Probe(Contact),
    /// Answer this client by SUCCESS.
    Confirm(ClientId),
    /// Wait for replies, or for a timer.
    Wait,
    /// The attempt has ended: enough replicas store the record.
    Stored,
    /// The attempt has ended: too few replicas store the record.
    TooFew,
    /// The attempt has ended: more nodes claim a larger record than store this one.
    Outvoted(Rank),
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
            pause,
            origin,
            attempt: 0,
            is_latest: true,
            stage: PutStage::Parked,
            replicas: Vec::new(),
            stale_replicas: Vec::new(),
            was_raised: false,
            ahead: None,
        }
    }

    /// The key of the record.
    pub(crate) fn key(&self) -> Key {
        self.record.key
    }

    /// The number of nodes that store the record in this version.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas.len()
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
    pub(crate) fn spread(&mut self, me: Option<NodeId>, k: usize) -> bool {
        let PutStage::LookingUp(lookup) = &self.stage else { return false };
        let key = self.record.key;
        let distance = |id: &NodeId| id.key().distance(&key);
        let lacks = |id: &NodeId| !self.replicas.contains(id);
        let reached = self.replicas.len() + lookup.answered().filter(|contact| lacks(&contact.id)).count();
        let nearest = lookup.nearest().filter(|contact| lacks(&contact.id));
        let mut targets: VecDeque<Replica> = nearest.take(k).copied().map(Replica::Peer).collect();
        let me = me.filter(lacks);
        if let Some(me) = me {
            let nearer = |target: &Replica| matches!(target, Replica::Peer(peer) if distance(&peer.id) < distance(&me));
            targets.insert(targets.partition_point(nearer), Replica::Me);
        }
        let wanted = (reached + usize::from(me.is_some())).min(usize::from(self.record.replication));
        let unprobed = lookup.unasked(k).copied().collect();
        self.attempt += 1;
        self.stage = PutStage::Spreading(Spread {
            wanted,
            targets,
            unprobed,
            copies_in_flight: 0,
            probes_in_flight: 0,
            newer_claims: Vec::new(),
        });
        true
    }

    /// The next step.
    pub(crate) fn next(&mut self) -> Next {
        let Self { stage: PutStage::Spreading(spread), replicas, stale_replicas, record, client, .. } = self else {
            return Next::Wait;
        };
        let (in_flight, outvoted) = (spread.copies_in_flight, spread.outvoted(replicas.len()));
        // Nodes that claim a larger record count as replicas while copies are in flight, or while they
        // are the majority. Otherwise more distant nodes would store a record that is probably out of date.
        let claims = if in_flight > 0 || outvoted.is_some() { spread.newer_claims.len() } else { 0 };
        let enough = replicas.len() + in_flight + claims >= usize::from(record.replication);
        let is_stale = |target: &Replica| matches!(target, Replica::Peer(peer) if stale_replicas.contains(&peer.id));
        if let Some(at) = spread.targets.iter().position(|target| !enough || is_stale(target))
            && let Some(target) = spread.targets.remove(at)
        {
            spread.copies_in_flight += 1;
            return Next::Copy(target);
        }
        if let Some(contact) = spread.unprobed.pop_front() {
            spread.probes_in_flight += 1;
            return Next::Probe(contact);
        }
        let is_stored = spread.wanted > 0 && replicas.len() >= spread.wanted;
        let probed = spread.probes_in_flight == 0;
        if is_stored
            && probed
            && (stale_replicas.is_empty() || in_flight == 0)
            && let Some(client) = client.take()
        {
            return Next::Confirm(client);
        }
        if in_flight > 0 || is_stored && !probed {
            return Next::Wait;
        }
        if is_stored {
            return Next::Stored;
        }
        outvoted.map_or(Next::TooFew, Next::Outvoted)
    }

    /// Whether a node is left that can get a copy.
    pub(crate) fn has_targets(&self) -> bool {
        matches!(&self.stage, PutStage::Spreading(spread) if !spread.targets.is_empty())
    }

    /// A copy of this attempt was answered, or will not be.
    pub(crate) fn copy_ended(&mut self) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.copies_in_flight -= 1;
        }
    }

    /// A version probe has ended. The caller reports its answer first.
    pub(crate) fn probe_ended(&mut self) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.probes_in_flight -= 1;
        }
    }

    /// `from` answered a version probe by `entry`, or stores nothing.
    ///
    /// Returns whether the PUT must start a new attempt, with a version above one that is ahead of this
    /// node's clock. That happens once.
    pub(crate) fn on_probe(&mut self, now: Now, from: NodeId, entry: Option<Entry>) -> bool {
        if let Some(entry) = entry.filter(|entry| entry.key == self.record.key) {
            self.on_head(now, from, entry.rank);
        }
        self.may_raise(self.ahead >= Some(self.record.version))
    }

    /// `from` stores a record of this rank. If it is smaller, `from` gets a copy. If it is a plain version
    /// ahead of this node's clock, the next attempt begins with a larger one.
    pub(crate) fn on_head(&mut self, now: Now, from: NodeId, rank: Rank) {
        if rank.version.is_too_early(now.wall) {
            return;
        }
        let is_smaller = rank.precedence() < self.record.rank().precedence();
        if is_smaller && rank.life == Life::Alive && !self.stale_replicas.contains(&from) {
            self.stale_replicas.push(from);
        }
        if self.is_ahead(now, rank) {
            self.ahead = self.ahead.max(Some(rank.version));
        }
    }

    /// `from` answered a copy of this attempt. Returns the rank of a larger record if that ends the PUT.
    pub(crate) fn on_stored(&mut self, now: Now, from: NodeId, outcome: StoreOutcome, stored: Rank) -> Option<Rank> {
        let supersedes = may_supersede(now, stored, &self.record);
        let PutStage::Spreading(spread) = &mut self.stage else { return None };
        self.stale_replicas.retain(|id| *id != from);
        match outcome {
            StoreOutcome::Held => self.on_replica(from),
            // No such record can exist, and `from` has not stored the copy.
            StoreOutcome::Larger if !supersedes => {}
            StoreOutcome::Larger if self.record.class == Class::Plain => return Some(stored),
            // No node can forge a signed record, but every node can claim to store one.
            StoreOutcome::Larger => spread.newer_claims.push(stored),
        }
        None
    }

    /// The node `id` stores the record.
    pub(crate) fn on_replica(&mut self, id: NodeId) {
        if !self.replicas.contains(&id) {
            self.replicas.push(id);
        }
    }

    /// Takes the version above which this PUT must be raised before it sends copies. `None` if there is
    /// none, or if this node has accepted a later PUT of the key, which must stay the larger one.
    pub(crate) fn take_ahead(&mut self) -> Option<Version> {
        self.ahead.take().filter(|ahead| self.is_latest && *ahead >= self.record.version)
    }

    /// Whether this PUT may be raised above `by`: once, if that version is ahead of this node's clock.
    pub(crate) fn may_overtake(&mut self, now: Now, by: Rank) -> bool {
        self.may_raise(self.is_ahead(now, by))
    }

    /// Whether this record and `other` are plain, and the time in the version of `other` is ahead of this
    /// node's clock, which then runs behind the clock of another node (`PROTOCOL.md` 3).
    fn is_ahead(&self, now: Now, other: Rank) -> bool {
        let both_plain = other.class == Class::Plain && self.record.class == Class::Plain;
        both_plain && other.version.time() > now.wall && !other.version.is_too_early(now.wall)
    }

    /// Whether the version may be raised during an attempt, if `is_behind` another one: once, and never
    /// above a later PUT of this node.
    fn may_raise(&mut self, is_behind: bool) -> bool {
        let may = is_behind && self.is_latest && !self.was_raised;
        self.was_raised |= may;
        may
    }

    /// Replaces the version. No node stores the new one yet.
    pub(crate) fn raise(&mut self, version: Version) {
        self.record.version = version;
        self.replicas.clear();
    }
}

impl Spread {
    /// The largest claimed record, if more nodes claim one than store this record.
    fn outvoted(&self, replicas: usize) -> Option<Rank> {
        let largest = self.newer_claims.iter().copied().max_by_key(|rank| rank.precedence());
        largest.filter(|_| self.newer_claims.len() > replicas)
    }
}

/// Whether a record of the rank `by` can be larger than `record`. Every node ignores a version that is too
/// far in the future (`PROTOCOL.md` 3), and no record is larger than a hashed one.
fn may_supersede(now: Now, by: Rank, record: &Record) -> bool {
    record.class != Class::Hashed && !by.version.is_too_early(now.wall) && by.precedence() >= record.rank().precedence()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::limits::K_MAX;
    use crate::record::{Ttl, crc_of};
    use crate::time::WallTime;

    const KEY: Key = Key::new([0; 32]);
    const NOW: Now = Now { mono: Time::ZERO, wall: WallTime::from_millis(1_000_000) };

    fn id(n: u8) -> NodeId {
        NodeId::new(Key::new([n; 32]))
    }

    fn contact(n: u8) -> Contact {
        Contact::new(id(n), SocketAddr::from((Ipv4Addr::LOCALHOST, u16::from(n) + 1)))
    }

    fn me() -> NodeId {
        id(200)
    }

    /// The version `offset` milliseconds after this node's clock.
    fn version(offset: i64) -> Version {
        Version::from_bits(NOW.wall.as_millis().saturating_add_signed(offset) << 16)
    }

    fn rank(class: Class, offset: i64) -> Rank {
        Rank { class, life: Life::Alive, version: version(offset) }
    }

    fn put(class: Class, replication: u8) -> Put {
        let value: &[u8] = b"value";
        let ttl = Ttl::from_secs(60).expect("not zero");
        let record =
            Record { key: KEY, class, version: version(0), ttl, replication, crc: crc_of(value), value: value.into() };
        let client = Some(ClientId { connection: 1, request: 1 });
        Put::new(
            client,
            record,
            Time::ZERO + Duration::from_mins(1),
            PutOrigin::Client { connection: 1 },
            Duration::from_secs(1),
        )
    }

    /// A finished lookup of `peers`: the first `width` have answered, the others were never asked.
    fn answered(peers: &[Contact], width: usize) -> Lookup {
        let mut lookup = Lookup::new(me(), KEY, width, 3, peers);
        while let crate::lookup::Step::Ask(contact) = lookup.step() {
            lookup.on_answer(&contact.id, []);
        }
        lookup
    }

    /// How a peer answers a copy and a version probe.
    #[derive(Clone, Copy, Debug)]
    enum Conduct {
        /// It stored no record, and stores the copy.
        Stores,
        /// It stored an older record, which it reports to a probe, and stores the copy.
        WasStale,
        /// It refuses, or never answers.
        Fails,
        /// It stores the copy after another peer has replaced it.
        StoresLate,
        /// It claims to store a larger record.
        Claims,
    }

    fn conduct() -> impl Strategy<Value = Conduct> {
        prop_oneof![
            4 => Just(Conduct::Stores),
            2 => Just(Conduct::WasStale),
            2 => Just(Conduct::Fails),
            1 => Just(Conduct::StoresLate),
            1 => Just(Conduct::Claims),
        ]
    }

    /// The peers of a PUT. The expected state comes from what they did, not from the machine.
    struct Peers {
        conducts: Vec<Conduct>,
        /// Peers with a copy in flight.
        copies: Vec<u8>,
        /// Peers with a version probe in flight.
        probes: Vec<u8>,
        /// Peers that were replaced because they are overdue; they answer later.
        overdue: Vec<u8>,
        /// Peers that were sent a copy in this attempt.
        copied: BTreeSet<u8>,
        /// Peers that have acknowledged this version.
        stored: BTreeSet<NodeId>,
        /// Peers that reported an older record, and have not answered a copy.
        stale: BTreeSet<u8>,
        claims: usize,
    }

    impl Peers {
        fn conduct(&self, peer: u8) -> Conduct {
            self.conducts[usize::from(peer) - 1]
        }

        /// Performs the steps of the machine until it waits; returns the end of the attempt, if it ends.
        fn drive(&mut self, put: &mut Put, confirmed: &mut usize, wanted: usize) -> Option<Next> {
            loop {
                match put.next() {
                    Next::Copy(Replica::Me) => {
                        self.stored.insert(me());
                        put.copy_ended();
                        put.on_replica(me());
                    }
                    Next::Copy(Replica::Peer(contact)) => {
                        let peer = contact.id.key().as_bytes()[0];
                        assert!(self.copied.insert(peer), "{peer} gets a second copy in one attempt");
                        self.copies.push(peer);
                    }
                    Next::Probe(contact) => {
                        let peer = contact.id.key().as_bytes()[0];
                        self.probes.push(peer);
                    }
                    Next::Confirm(_) => {
                        *confirmed += 1;
                        assert!(self.stored.len() >= wanted, "{} of {wanted} store it", self.stored.len());
                        assert!(self.probes.is_empty(), "{:?} may still report an older record", self.probes);
                        assert!(self.stale.is_empty() || self.copies.is_empty(), "{:?} are stale", self.stale);
                    }
                    Next::Wait => return None,
                    end @ (Next::Stored | Next::TooFew | Next::Outvoted(_)) => return Some(end),
                }
            }
        }

        /// One peer answers or fails; returns the record that ends the PUT, if one does.
        fn answer(&mut self, put: &mut Put, which: usize) -> Option<Rank> {
            let which = which % (self.copies.len() + self.probes.len() + self.overdue.len());
            let is_overdue = which >= self.copies.len() + self.probes.len();
            if which >= self.copies.len() && !is_overdue {
                let peer = self.probes.remove(which - self.copies.len());
                if let Conduct::WasStale = self.conduct(peer) {
                    self.stale.insert(peer);
                    let entry = Entry { key: KEY, rank: rank(put.record.class, -5), crc: 0 };
                    put.on_probe(NOW, id(peer), Some(entry));
                }
                put.probe_ended();
                return None;
            }
            let peer = if is_overdue {
                self.overdue.remove(which - self.copies.len() - self.probes.len())
            } else {
                put.copy_ended();
                self.copies.remove(which)
            };
            let mine = put.record.rank();
            match self.conduct(peer) {
                Conduct::StoresLate if !is_overdue => {
                    self.overdue.push(peer);
                    None
                }
                Conduct::Stores | Conduct::WasStale | Conduct::StoresLate => {
                    self.stored.insert(id(peer));
                    self.stale.remove(&peer);
                    put.on_stored(NOW, id(peer), StoreOutcome::Held, mine)
                }
                Conduct::Fails => None,
                Conduct::Claims => {
                    self.claims += 1;
                    self.stale.remove(&peer);
                    put.on_stored(NOW, id(peer), StoreOutcome::Larger, rank(mine.class, 5))
                }
            }
        }
    }

    proptest! {
        /// Goal: a confirmation guarantees what the module says, and each attempt ends once, in the way
        /// that its replies imply.
        ///
        /// Method: random peers answer in random order; the test records what they did.
        #[test]
        fn a_confirmation_is_backed_by_replicas_and_by_no_known_stale_one(
            is_signed in any::<bool>(),
            serving in any::<bool>(),
            replication in 1..=K_MAX,
            width in 1..=K_MAX,
            conducts in proptest::collection::vec(conduct(), 1..=K_MAX),
            order in proptest::collection::vec(any::<usize>(), 64),
        ) {
            let class = if is_signed { Class::Signed } else { Class::Plain };
            let mut put = put(class, u8::try_from(replication).expect("at most 20"));
            let contacts: Vec<Contact> = (1..).take(conducts.len()).map(contact).collect();
            put.look_up(answered(&contacts, width));
            let reached = put.lookup().map_or(0, |lookup| lookup.answered().count());
            let wanted = (reached + usize::from(serving)).min(replication);
            prop_assert!(put.spread(serving.then(me), K_MAX));
            let mut peers = Peers {
                conducts, copies: Vec::new(), probes: Vec::new(), overdue: Vec::new(), copied: BTreeSet::new(),
                stored: BTreeSet::new(), stale: BTreeSet::new(), claims: 0,
            };
            let mut confirmed = 0;
            let mut end = peers.drive(&mut put, &mut confirmed, wanted);
            for which in order {
                if end.is_some() || peers.copies.len() + peers.probes.len() == 0 {
                    break;
                }
                let superseded = peers.answer(&mut put, which);
                if superseded.is_some() {
                    prop_assert!(!is_signed, "one claim ends no signed PUT");
                    return Ok(()); // one larger record ends a plain PUT
                }
                end = peers.drive(&mut put, &mut confirmed, wanted);
            }
            let enough = wanted > 0 && peers.stored.len() >= wanted;
            prop_assert!(end.is_some(), "no copy or probe is in flight, but the attempt does not end");
            match end {
                Some(Next::Stored) => prop_assert!(enough),
                Some(Next::Outvoted(_)) => prop_assert!(!enough && peers.claims > peers.stored.len()),
                Some(Next::TooFew) => prop_assert!(!enough && peers.claims <= peers.stored.len()),
                _ => unreachable!("`drive` returns ends only"),
            }
            prop_assert!(confirmed <= 1);
            prop_assert_eq!(confirmed == 1, end == Some(Next::Stored));
        }
    }

    #[test]
    fn a_new_attempt_remembers_the_replicas_but_expects_no_reply_of_the_earlier_one() {
        let mut put = put(Class::Plain, 2);
        put.look_up(answered(&[contact(1), contact(2), contact(3)], 2));
        assert!(put.spread(None, K_MAX));
        assert_eq!(put.next(), Next::Copy(Replica::Peer(contact(1))));
        assert_eq!(put.next(), Next::Copy(Replica::Peer(contact(2))));
        assert_eq!(put.next(), Next::Probe(contact(3)));
        put.on_stored(NOW, id(1), StoreOutcome::Held, rank(Class::Plain, 0));
        put.park();
        put.look_up(answered(&[contact(1), contact(2), contact(3)], 2));
        assert!(put.spread(None, K_MAX));
        assert_eq!((put.attempt, put.replicas()), (2, 1));
        assert_eq!(put.next(), Next::Copy(Replica::Peer(contact(2))), "1 stores it already");
        assert_eq!(put.next(), Next::Probe(contact(3)));
        put.probe_ended();
        assert_eq!(put.next(), Next::Wait, "one copy is in flight, no probe");
    }

    #[test]
    fn a_raised_version_has_no_replicas_and_is_not_raised_again() {
        let mut put = put(Class::Plain, 1);
        put.look_up(answered(&[contact(1)], 1));
        assert!(put.spread(None, K_MAX));
        put.on_replica(id(1));
        assert!(put.may_overtake(NOW, rank(Class::Plain, 5)));
        put.raise(version(6));
        assert_eq!(put.replicas(), 0);
        assert!(!put.may_overtake(NOW, rank(Class::Plain, 9)), "once");
    }

    #[test]
    fn a_version_is_raised_only_above_a_plain_one_that_is_slightly_ahead_of_the_clock() {
        let mut put = put(Class::Plain, 1);
        assert!(!put.may_overtake(NOW, rank(Class::Plain, 0)), "not ahead");
        assert!(!put.may_overtake(NOW, rank(Class::Signed, 5)), "certified");
        assert!(!put.may_overtake(NOW, rank(Class::Plain, 3_600_000)), "too far ahead");
        put.is_latest = false;
        assert!(!put.may_overtake(NOW, rank(Class::Plain, 5)), "this node has accepted a later PUT");
    }
}
