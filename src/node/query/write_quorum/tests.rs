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
        PutOrigin::Client { connection: 1, taken: NOW.mono },
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
    /// It stores the copy after another peer has replaced it, if one can.
    StoresLate,
    /// The same, and it stored an older record, which it reports to a probe.
    WasStaleAndLate,
    /// It claims to store a larger record.
    Claims,
}

fn conduct() -> impl Strategy<Value = Conduct> {
    prop_oneof![
        4 => Just(Conduct::Stores),
        2 => Just(Conduct::WasStale),
        2 => Just(Conduct::Fails),
        1 => Just(Conduct::StoresLate),
        1 => Just(Conduct::WasStaleAndLate),
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
                    put.copy_ended(Replica::Me);
                    put.on_replica(Replica::Me);
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
                    assert!(!self.overdue.iter().any(|peer| self.stale.contains(peer)), "{:?} are stale", self.stale);
                }
                Next::Relay => unreachable!("all nodes share a family"),
                Next::Wait => return None,
                end @ (Next::Stored | Next::TooFew | Next::Superseded(_) | Next::Refused(_)) => return Some(end),
            }
        }
    }

    /// One peer answers or fails; returns the record that ends the PUT, if one does.
    fn answer(&mut self, put: &mut Put, which: usize) -> Option<Rank> {
        let which = which % (self.copies.len() + self.probes.len() + self.overdue.len());
        let is_overdue = which >= self.copies.len() + self.probes.len();
        if which >= self.copies.len() && !is_overdue {
            let peer = self.probes.remove(which - self.copies.len());
            if let Conduct::WasStale | Conduct::WasStaleAndLate = self.conduct(peer) {
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
            self.copies.remove(which)
        };
        if matches!(self.conduct(peer), Conduct::StoresLate | Conduct::WasStaleAndLate) && !is_overdue {
            put.copy_overdue(id(peer));
            self.overdue.push(peer);
            return None;
        }
        put.copy_ended(Replica::Peer(contact(peer)));
        let mine = put.record.rank();
        match self.conduct(peer) {
            Conduct::Stores | Conduct::WasStale | Conduct::StoresLate | Conduct::WasStaleAndLate => {
                self.stored.insert(id(peer));
                self.stale.remove(&peer);
                put.on_stored(NOW, contact(peer), StoreOutcome::Held, mine)
            }
            Conduct::Fails => None,
            Conduct::Claims => {
                self.claims += 1;
                self.stale.remove(&peer);
                put.on_stored(NOW, contact(peer), StoreOutcome::Larger, rank(mine.class, 5))
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
        is_only_node in any::<bool>(),
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
        let others = if is_only_node { Others::None } else { Others::Exist };
        let is_heard = reached > 0 || is_only_node;
        let wanted = if is_heard { (reached + usize::from(serving)).min(replication) } else { 0 };
        prop_assert!(put.spread(serving.then(me), K_MAX, OwnClock::Unknown, others));
        let mut peers = Peers {
            conducts, copies: Vec::new(), probes: Vec::new(), overdue: Vec::new(), copied: BTreeSet::new(),
            stored: BTreeSet::new(), stale: BTreeSet::new(), claims: 0,
        };
        let (mut confirmed, mut superseded) = (0, None);
        let mut end = peers.drive(&mut put, &mut confirmed, wanted);
        for which in order {
            if end.is_some() || peers.copies.len() + peers.probes.len() + peers.overdue.len() == 0 {
                break;
            }
            if let Some(by) = peers.answer(&mut put, which) {
                prop_assert!(!is_signed, "one claim ends no signed PUT");
                put.on_larger(by);
                superseded = superseded.max(Some(by.version));
            }
            let copied = peers.copied.len();
            end = peers.drive(&mut put, &mut confirmed, wanted);
            prop_assert!(superseded.is_none() || peers.copied.len() == copied, "a copy after a larger record was met");
        }
        if let Some(by) = superseded {
            prop_assert!(peers.copies.is_empty(), "a copy in flight may be stored");
            prop_assert!(matches!(end, Some(Next::Superseded(rank)) if rank.version == by));
            return Ok(());
        }
        let enough = wanted > 0 && peers.stored.len() >= wanted;
        prop_assert!(end.is_some(), "no copy or probe is in flight, but the attempt does not end");
        match end {
            Some(Next::Stored) => prop_assert!(enough),
            Some(Next::Superseded(_)) => prop_assert!(!enough && peers.claims > peers.stored.len()),
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
    assert!(put.spread(None, K_MAX, OwnClock::Unknown, Others::Exist));
    assert_eq!(put.next(), Next::Copy(Replica::Peer(contact(1))));
    assert_eq!(put.next(), Next::Copy(Replica::Peer(contact(2))));
    assert_eq!(put.next(), Next::Probe(contact(3)));
    put.on_stored(NOW, contact(1), StoreOutcome::Held, rank(Class::Plain, 0));
    put.park();
    put.look_up(answered(&[contact(1), contact(2), contact(3)], 2));
    assert!(put.spread(None, K_MAX, OwnClock::Unknown, Others::Exist));
    assert_eq!((put.attempt, put.replicas()), (2, 1));
    assert_eq!(put.next(), Next::Copy(Replica::Peer(contact(2))), "1 stores it already");
    assert_eq!(put.next(), Next::Probe(contact(3)));
    put.probe_ended();
    assert_eq!(put.next(), Next::Wait, "one copy is in flight, no probe");
}

#[test]
fn all_that_store_a_smaller_version_than_the_raised_one_get_a_copy() {
    let mut put = put(Class::Plain, 1);
    let peers = [contact(1), contact(2), contact(3), contact(4)];
    put.look_up(answered(&peers, 4));
    assert!(put.spread(None, K_MAX, OwnClock::Unknown, Others::Exist));
    put.on_replica(Replica::Peer(contact(4)));
    put.look_up(answered(&peers, 4));
    for (peer, offset) in [(2, 5), (3, 7)] {
        put.on_head(NOW, id(peer), rank(Class::Plain, offset), NOW.mono..=NOW.mono);
    }
    put.raise(version(6));
    assert_eq!(put.replicas(), 0);
    assert!(put.spread(None, K_MAX, OwnClock::Unknown, Others::Exist));
    let mut copied = BTreeSet::new();
    while let Next::Copy(Replica::Peer(peer)) = put.next() {
        copied.insert(peer.id);
    }
    assert_eq!(copied, BTreeSet::from([id(1), id(2), id(4)]), "one needs no copy: it stores a larger one");
}

#[test]
fn an_attempt_is_repeated_once_and_only_for_a_plain_version_that_is_slightly_ahead_of_the_clock() {
    let mut put = put(Class::Plain, 1);
    assert!(!put.repeats(NOW, rank(Class::Plain, 0)), "not ahead");
    assert!(!put.repeats(NOW, rank(Class::Signed, 5)), "certified");
    assert!(!put.repeats(NOW, rank(Class::Plain, 3_600_000)), "too far ahead");
    put.is_latest = false;
    assert!(!put.repeats(NOW, rank(Class::Plain, 5)), "this node has accepted a later PUT");
    put.is_latest = true;
    assert!(!put.asks_all());
    assert!(put.repeats(NOW, rank(Class::Plain, 5)));
    assert!(put.asks_all());
    assert!(!put.repeats(NOW, rank(Class::Plain, 9)), "once");
}

#[test]
fn a_version_is_raised_only_above_one_whose_put_began_before_this_one() {
    let taken = NOW.mono + Duration::from_secs(5);
    let at = |millis| NOW.mono + Duration::from_millis(millis);
    for (from, to, raised) in [(0, 4_999, true), (4_000, 5_000, true), (4_000, 5_001, false), (5_001, 5_002, false)] {
        for offset in [0, 5] {
            let mut put = put(Class::Plain, 1);
            put.origin = PutOrigin::Client { connection: 1, taken };
            put.on_head(NOW, id(1), rank(Class::Plain, offset), at(from)..=at(to));
            assert_eq!(put.take_ahead(), raised.then(|| version(offset)), "{from} to {to}, {offset}");
        }
    }
}

#[test]
fn a_lookup_is_repeated_once_if_it_leaves_open_which_put_began_first() {
    let taken = NOW.mono + Duration::from_secs(5);
    let at = |millis| NOW.mono + Duration::from_millis(millis);
    for (from, to, repeated) in [(4_000, 5_000, false), (4_000, 5_001, true), (5_001, 5_002, false)] {
        let mut put = put(Class::Plain, 1);
        put.origin = PutOrigin::Client { connection: 1, taken };
        put.on_head(NOW, id(1), rank(Class::Plain, 5), at(from)..=at(to));
        assert_eq!(put.looks_again(), repeated, "{from} to {to}");
        assert_eq!(put.asks_all(), repeated, "{from} to {to}");
        put.on_head(NOW, id(1), rank(Class::Plain, 5), at(4_000)..=at(6_000));
        assert_eq!(put.looks_again(), !repeated, "once");
    }
}

#[test]
fn a_put_knows_that_a_peer_had_no_room_for_a_copy() {
    let refused = |code| {
        let mut put = put(Class::Plain, 2);
        put.on_refused(id(1), code);
        put.no_room
    };
    assert_eq!(refused(ErrorCode::OUT_OF_SCOPE), None);
    assert_eq!(refused(ErrorCode::FULL), Some(NoRoom::AtPeer));
    assert_eq!(refused(ErrorCode::TOO_MANY), Some(NoRoom::AtPeer));
    let mut put = put(Class::Plain, 2);
    put.on_refused(id(1), ErrorCode::FULL);
    put.without_room();
    put.on_refused(id(2), ErrorCode::FULL);
    assert_eq!(put.no_room, Some(NoRoom::Here), "that is what the operator can change");
}
