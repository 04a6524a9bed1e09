//! A PUT as a state machine: which peers get a copy, when the client may be told, when to try again.
//!
//! [`Put::next`] says what to do, one thing at a time; the caller does it and reports what came of
//! it. The machine sends nothing and knows no storage and no timer. How many copies are in flight
//! comes in as an argument.
//!
//! What a confirmation guarantees: `wanted` distinct nodes have acknowledged this version; no node
//! that was asked has still to say whether it stores an older version; and each node that does has
//! got a copy, unless no copy is in flight any more. Two stale replicas that agree would satisfy a
//! read quorum.
//!
//! A reply proves nothing but itself. So only a plain record that is larger ends a PUT by one reply;
//! claims of larger signed records must outnumber the replicas.

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

/// A PUT that is not over.
#[derive(Debug)]
pub(crate) struct Put {
    /// The client that waits for a confirmation.
    pub(crate) client: Option<ClientId>,
    /// What is to be stored.
    pub(crate) record: Record,
    /// When the life of the record ends.
    pub(crate) expires: Time,
    /// The pause before the next attempt.
    pub(crate) pause: Duration,
    /// What made this node PUT the record.
    pub(crate) origin: PutOrigin,
    /// How often copies were sent: replies to an earlier attempt do not count.
    pub(crate) attempt: u32,
    stage: PutStage,
    /// Nodes that store the record in this version.
    replicas: Vec<NodeId>,
    /// Nodes that store an older record and have not answered a copy. Each gets one, whatever the
    /// number of replicas.
    stale_replicas: Vec<NodeId>,
    /// Whether the version was raised because a replica has a larger one. That happens once.
    was_raised: bool,
    /// The largest plain version that was met ahead of this node's clock: the next attempt begins
    /// with a version above it.
    ahead: Option<Version>,
}

/// What made a node PUT a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutOrigin {
    /// A client asks now. The PUT makes attempts until `request_timeout`.
    Client,
    /// Earlier attempts failed. The PUT makes one more, and waits again if that fails.
    Retry,
}

/// How far a PUT has come.
#[derive(Debug)]
enum PutStage {
    /// The node has not joined, or the next attempt is not due.
    Parked,
    /// Finding the nodes nearest to the key.
    LookingUp(Lookup),
    /// Copies are on their way.
    Spreading(Spread),
}

/// One attempt to have a record stored.
#[derive(Debug)]
struct Spread {
    /// Replicas that are needed: min(replication, reachable nodes).
    wanted: usize,
    /// Whom to send a copy next, nearest first. This node may be among them, a replica never.
    targets: VecDeque<Replica>,
    /// Close nodes that neither the lookup has asked nor a copy goes to: what they store, if it is
    /// older, they would show to others.
    unprobed: VecDeque<Contact>,
    probes_in_flight: usize,
    /// Larger records that receivers of a copy claim to store, where a claim proves nothing.
    newer_claims: Vec<Rank>,
}

/// What to do next for a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send a copy to this peer, or store it on this node.
    Copy(Replica),
    /// Ask this node which version it stores, and report whether that was sent.
    Probe(Contact),
    /// Tell this client SUCCESS.
    Confirm(ClientId),
    /// Wait for replies, or for a timer.
    Wait,
    /// The attempt is over: enough replicas store the record.
    Stored,
    /// The attempt is over: too few replicas store the record.
    TooFew,
    /// The attempt is over: more nodes claim a larger record than store this one.
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

    /// How many nodes store the record in this version.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    /// Whether it waits for the node to join, or for its next attempt.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.stage, PutStage::Parked)
    }

    /// Whether copies are on their way.
    pub(crate) fn is_spreading(&self) -> bool {
        matches!(self.stage, PutStage::Spreading(_))
    }

    /// Its lookup, while it has one.
    pub(crate) fn lookup(&self) -> Option<&Lookup> {
        match &self.stage {
            PutStage::LookingUp(lookup) => Some(lookup),
            PutStage::Parked | PutStage::Spreading(_) => None,
        }
    }

    /// The same, to be driven.
    pub(crate) fn lookup_mut(&mut self) -> Option<&mut Lookup> {
        match &mut self.stage {
            PutStage::LookingUp(lookup) => Some(lookup),
            PutStage::Parked | PutStage::Spreading(_) => None,
        }
    }

    /// Waits until [`Put::look_up`].
    pub(crate) fn park(&mut self) {
        self.stage = PutStage::Parked;
    }

    /// Begins to find the nodes nearest to the key; whatever came before is over.
    pub(crate) fn look_up(&mut self, lookup: Lookup) {
        self.stage = PutStage::LookingUp(lookup);
    }

    /// Begins an attempt with the nodes that the lookup has found: up to `k` of the nearest may get
    /// a copy, `me` too where this node stores records.
    ///
    /// Returns whether there was a lookup to begin with.
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
        self.stage =
            PutStage::Spreading(Spread { wanted, targets, unprobed, probes_in_flight: 0, newer_claims: Vec::new() });
        true
    }

    /// What to do next, while `in_flight` copies of this attempt have not been answered.
    pub(crate) fn next(&mut self, in_flight: usize) -> Next {
        let Self { stage: PutStage::Spreading(spread), replicas, stale_replicas, record, client, .. } = self else {
            return Next::Wait;
        };
        if let Some(target) = spread.next_target(replicas.len(), stale_replicas, in_flight, record.replication) {
            return Next::Copy(target);
        }
        if let Some(contact) = spread.unprobed.pop_front() {
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
        spread.outvoted(replicas.len()).map_or(Next::TooFew, Next::Outvoted)
    }

    /// Whether anybody is left to send a copy to.
    pub(crate) fn has_targets(&self) -> bool {
        matches!(&self.stage, PutStage::Spreading(spread) if !spread.targets.is_empty())
    }

    /// A version probe was sent.
    pub(crate) fn probe_sent(&mut self) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.probes_in_flight += 1;
        }
    }

    /// A version probe has ended; its answer is reported before.
    pub(crate) fn probe_ended(&mut self) {
        if let PutStage::Spreading(spread) = &mut self.stage {
            spread.probes_in_flight -= 1;
        }
    }

    /// `from` answered a version probe by `entry`, or by nothing. `is_latest` says that this node has
    /// taken no later PUT of the key.
    ///
    /// Returns whether a plain version lies ahead of this node's clock, so that the PUT begins anew
    /// above it. That happens once.
    pub(crate) fn on_probe(&mut self, now: Now, from: NodeId, entry: Option<Entry>, is_latest: bool) -> bool {
        if let Some(entry) = entry.filter(|entry| entry.key == self.record.key) {
            self.on_head(now, from, entry.rank);
        }
        let is_behind = self.ahead >= Some(self.record.version) && !self.was_raised && is_latest;
        self.was_raised |= is_behind;
        is_behind
    }

    /// `from` says that it stores a record of this rank. A smaller one is to be replaced; a plain
    /// version ahead of this node's clock is to be overtaken.
    pub(crate) fn on_head(&mut self, now: Now, from: NodeId, rank: Rank) {
        if rank.version.is_too_early(now.wall) {
            return;
        }
        let is_smaller = rank.precedence() < self.record.rank().precedence();
        if is_smaller && rank.life == Life::Alive && !self.stale_replicas.contains(&from) {
            self.stale_replicas.push(from);
        }
        if rank.class == Class::Plain && self.record.class == Class::Plain && rank.version.time() > now.wall {
            self.ahead = self.ahead.max(Some(rank.version));
        }
    }

    /// The node `from` answered a copy of this attempt. Returns the larger record that ends the PUT, if
    /// there is one.
    pub(crate) fn on_stored(&mut self, now: Now, from: NodeId, outcome: StoreOutcome, stored: Rank) -> Option<Rank> {
        let supersedes = may_supersede(now, stored, &self.record);
        let PutStage::Spreading(spread) = &mut self.stage else { return None };
        self.stale_replicas.retain(|id| *id != from);
        match outcome {
            StoreOutcome::Held => self.on_replica(from),
            // What it claims cannot be, and it stores no copy.
            StoreOutcome::Larger if !supersedes => {}
            StoreOutcome::Larger if self.record.class == Class::Plain => return Some(stored),
            // Nobody can forge such a record, but anybody can claim to store one.
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

    /// The version above which this PUT must be drawn anew before its next copy leaves; not above
    /// that of a later PUT of this node.
    pub(crate) fn take_ahead(&mut self, is_latest: bool) -> Option<Version> {
        self.ahead.take().filter(|ahead| is_latest && *ahead >= self.record.version)
    }

    /// Whether this PUT may be drawn anew above `by`: once, if both are plain and the time in that
    /// version lies ahead of this node's clock, which is the slower one then (`PROTOCOL.md` 3).
    pub(crate) fn may_overtake(&mut self, now: Now, by: Rank, is_latest: bool) -> bool {
        let both_plain = by.class == Class::Plain && self.record.class == Class::Plain;
        let is_fast = both_plain && by.version.time() > now.wall && !by.version.is_too_early(now.wall);
        let may = is_fast && is_latest && !self.was_raised;
        self.was_raised |= may;
        may
    }

    /// Replaces the version: nobody stores the new one yet.
    pub(crate) fn raise(&mut self, version: Version) {
        self.record.version = version;
        self.replicas.clear();
    }
}

impl Spread {
    /// The largest record that is claimed, if more claim one than store this.
    fn outvoted(&self, replicas: usize) -> Option<Rank> {
        let largest = self.newer_claims.iter().copied().max_by_key(|rank| rank.precedence());
        largest.filter(|_| self.newer_claims.len() > replicas)
    }

    /// Takes the next node to get a copy out of the targets. `None` while enough store one, or will,
    /// and no target stores an older record.
    ///
    /// Nodes that claim a larger record count as replicas until all have answered, and where they
    /// are the majority: the nodes beyond them would store what is out of date.
    fn next_target(
        &mut self,
        replicas: usize,
        stale_replicas: &[NodeId],
        in_flight: usize,
        replication: u8,
    ) -> Option<Replica> {
        let is_open = in_flight > 0 || self.outvoted(replicas).is_some();
        let claims = if is_open { self.newer_claims.len() } else { 0 };
        let enough = replicas + in_flight + claims >= usize::from(replication);
        let is_stale = |target: &Replica| match target {
            Replica::Me => false,
            Replica::Peer(contact) => stale_replicas.contains(&contact.id),
        };
        let at = if enough { self.targets.iter().position(is_stale)? } else { 0 };
        self.targets.remove(at)
    }
}

/// Whether a record of the rank `by` can be larger than `record`. Everyone ignores a version from the
/// far future (`PROTOCOL.md` 3), and nothing is larger than a hashed record.
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

    /// The version of that many milliseconds after this node's clock; before it, if negative.
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
        Put::new(client, record, Time::ZERO + Duration::from_mins(1), PutOrigin::Client, Duration::from_secs(1))
    }

    /// A lookup of `peers` that all answer until `width` have; the others are never asked.
    fn answered(peers: &[Contact], width: usize) -> Lookup {
        let mut lookup = Lookup::new(me(), KEY, width, 3, peers);
        while let crate::lookup::Step::Ask(contact) = lookup.step() {
            lookup.on_answer(&contact.id, []);
        }
        lookup
    }

    /// What a peer does with a copy or with a probe.
    #[derive(Clone, Copy, Debug)]
    enum Conduct {
        /// It stores the copy; it had nothing before.
        Stores,
        /// It stores the copy; it had an older record, and says so when it is probed.
        WasStale,
        /// It refuses, or never answers.
        Fails,
        /// It is replaced when overdue, and stores the copy after that.
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

    /// The world around a PUT: it keeps its own books, from what it did and not from the machine.
    struct World {
        conducts: Vec<Conduct>,
        /// Copies and probes without an answer, with the peers they went to.
        copies: Vec<u8>,
        probes: Vec<u8>,
        /// Peers whose answer to a copy is overdue: nothing waits for it, and it still comes.
        late: Vec<u8>,
        /// Peers that have got a copy in this attempt, answered or not.
        copied: BTreeSet<u8>,
        /// Peers that have acknowledged this version.
        stored: BTreeSet<NodeId>,
        /// Peers that said that they store an older record, and have not answered a copy.
        stale: BTreeSet<u8>,
        claims: usize,
    }

    impl World {
        fn conduct(&self, peer: u8) -> Conduct {
            self.conducts[usize::from(peer) - 1]
        }

        /// Does what the machine wants until it waits; returns how the attempt ended, if it did.
        fn drive(&mut self, put: &mut Put, confirmed: &mut usize, wanted: usize) -> Option<Next> {
            loop {
                match put.next(self.copies.len()) {
                    Next::Copy(Replica::Me) => {
                        self.stored.insert(me());
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
                        put.probe_sent();
                    }
                    Next::Confirm(_) => {
                        *confirmed += 1;
                        assert!(self.stored.len() >= wanted, "{} of {wanted} store it", self.stored.len());
                        assert!(self.probes.is_empty(), "{:?} may still say that they are stale", self.probes);
                        assert!(self.stale.is_empty() || self.copies.is_empty(), "{:?} are stale", self.stale);
                    }
                    Next::Wait => return None,
                    over @ (Next::Stored | Next::TooFew | Next::Outvoted(_)) => return Some(over),
                }
            }
        }

        /// One answer, or none, comes in; returns the record that ends the PUT, if one does.
        fn answer(&mut self, put: &mut Put, which: usize) -> Option<Rank> {
            let which = which % (self.copies.len() + self.probes.len() + self.late.len());
            let is_late = which >= self.copies.len() + self.probes.len();
            if which >= self.copies.len() && !is_late {
                let peer = self.probes.remove(which - self.copies.len());
                if let Conduct::WasStale = self.conduct(peer) {
                    self.stale.insert(peer);
                    let entry = Entry { key: KEY, rank: rank(put.record.class, -5), crc: 0 };
                    put.on_probe(NOW, id(peer), Some(entry), true);
                }
                put.probe_ended();
                return None;
            }
            let peer = if is_late {
                self.late.remove(which - self.copies.len() - self.probes.len())
            } else {
                self.copies.remove(which)
            };
            let mine = put.record.rank();
            match self.conduct(peer) {
                Conduct::StoresLate if !is_late => {
                    self.late.push(peer);
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
        /// Goal: a confirmation means what the module says, and each attempt ends once, as its
        /// replies demand.
        ///
        /// Method: random peers answer in random order, beside books of what they did.
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
            let peers: Vec<Contact> = (1..).take(conducts.len()).map(contact).collect();
            put.look_up(answered(&peers, width));
            let reached = put.lookup().map_or(0, |lookup| lookup.answered().count());
            let wanted = (reached + usize::from(serving)).min(replication);
            prop_assert!(put.spread(serving.then(me), K_MAX));
            let mut world = World {
                conducts, copies: Vec::new(), probes: Vec::new(), late: Vec::new(), copied: BTreeSet::new(), stored: BTreeSet::new(),
                stale: BTreeSet::new(), claims: 0,
            };
            let mut confirmed = 0;
            let mut over = world.drive(&mut put, &mut confirmed, wanted);
            for which in order {
                if over.is_some() || world.copies.len() + world.probes.len() == 0 {
                    break;
                }
                let superseded = world.answer(&mut put, which);
                if superseded.is_some() {
                    prop_assert!(!is_signed, "one claim ends no signed PUT");
                    return Ok(()); // a plain PUT is over by one larger record
                }
                over = world.drive(&mut put, &mut confirmed, wanted);
            }
            let enough = wanted > 0 && world.stored.len() >= wanted;
            prop_assert!(over.is_some(), "nothing is in flight, and the attempt goes on");
            match over {
                Some(Next::Stored) => prop_assert!(enough),
                Some(Next::Outvoted(_)) => prop_assert!(!enough && world.claims > world.stored.len()),
                Some(Next::TooFew) => prop_assert!(!enough && world.claims <= world.stored.len()),
                _ => unreachable!("the drive says how it ended"),
            }
            prop_assert!(confirmed <= 1);
            prop_assert_eq!(confirmed == 1, over == Some(Next::Stored));
        }
    }

    #[test]
    fn an_attempt_that_begins_anew_remembers_replicas_and_no_reply_in_flight() {
        let mut put = put(Class::Plain, 2);
        put.look_up(answered(&[contact(1), contact(2), contact(3)], 2));
        assert!(put.spread(None, K_MAX));
        assert_eq!(put.next(0), Next::Copy(Replica::Peer(contact(1))));
        assert_eq!(put.next(1), Next::Copy(Replica::Peer(contact(2))));
        assert_eq!(put.next(2), Next::Probe(contact(3)));
        put.probe_sent();
        put.on_stored(NOW, id(1), StoreOutcome::Held, rank(Class::Plain, 0));
        put.park();
        put.look_up(answered(&[contact(1), contact(2), contact(3)], 2));
        assert!(put.spread(None, K_MAX));
        assert_eq!((put.attempt, put.replicas()), (2, 1));
        assert_eq!(put.next(0), Next::Copy(Replica::Peer(contact(2))), "1 stores it already");
        assert_eq!(put.next(1), Next::Probe(contact(3)));
        assert_eq!(put.next(1), Next::Wait, "one copy is in flight, no probe");
    }

    #[test]
    fn a_raised_version_is_stored_by_nobody_and_is_raised_once() {
        let mut put = put(Class::Plain, 1);
        put.look_up(answered(&[contact(1)], 1));
        assert!(put.spread(None, K_MAX));
        put.on_replica(id(1));
        assert!(put.may_overtake(NOW, rank(Class::Plain, 5), true));
        put.raise(version(6));
        assert_eq!(put.replicas(), 0);
        assert!(!put.may_overtake(NOW, rank(Class::Plain, 9), true), "once");
    }

    #[test]
    fn a_version_that_is_not_ahead_of_the_clock_or_of_a_later_put_is_not_overtaken() {
        let mut put = put(Class::Plain, 1);
        assert!(!put.may_overtake(NOW, rank(Class::Plain, 0), true), "not ahead");
        assert!(!put.may_overtake(NOW, rank(Class::Plain, 5), false), "a later PUT was taken here");
        assert!(!put.may_overtake(NOW, rank(Class::Signed, 5), true), "certifies itself");
        assert!(!put.may_overtake(NOW, rank(Class::Plain, 3_600_000), true), "too far ahead");
    }
}
