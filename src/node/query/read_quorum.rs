//! What a GET has heard, and what follows from it: whom to fetch the value from, whether it may
//! end, what the answer is, and who was behind (`PROTOCOL.md` 3).
//!
//! A holder answers with its record, or with the head of it; a head is a claim, and only a value
//! that was verified is ever the answer. So the winner is the largest that was heard *and* whose
//! value is in hand; while a larger one is only claimed, its value is fetched from those who claim
//! it, and who cannot give what it claimed is ignored from then on. A tombstone has no value and is
//! taken at its word: it can hide plain records alone, which anybody may replace anyway.
//!
//! It sends nothing, verifies nothing and knows no clock: whoever drives it does. It is bounded by
//! the search that it listens to: each node is heard once.

use std::cmp::Ordering;

use crate::contact::Contact;
use crate::id::NodeId;
use crate::node::params::Reads;
use crate::node::records::accept::Replica;
use crate::record::{Class, Life, Precedence, Rank, Record};
use crate::time::Time;

/// What is compared of two records whose values are elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Class, life and version.
    pub(crate) rank: Rank,
    /// CRC-32 of the value; of no meaning for a tombstone.
    pub(crate) crc: u32,
    /// How many nodes shall hold it.
    pub(crate) replication: u8,
}

impl Head {
    /// Whether both are of one record, or of one version that is over.
    fn agrees(&self, other: &Head) -> bool {
        let over = self.rank.life == Life::Over;
        self.rank == other.rank && (over || self.crc == other.crc)
    }

    /// What the value need not be known for; of one version, what is over is larger.
    fn order(&self) -> (Precedence, bool) {
        (self.rank.precedence(), self.rank.life == Life::Over)
    }
}

/// A record that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The record.
    pub(crate) record: Record,
    /// When its life ends.
    pub(crate) expires: Time,
}

impl Found {
    fn head(&self) -> Head {
        let record = &self.record;
        Head { rank: record.rank(), crc: record.crc, replication: record.replication }
    }
}

/// What a node said about the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// That it holds nothing.
    Nothing,
    /// What it holds, without its value, or which version is over.
    Head(Head),
    /// What it holds.
    Value(Found),
    /// What cannot be true: it is not believed any more.
    Invalid,
}

impl Response {
    fn head(&self) -> Option<Head> {
        match self {
            Response::Head(head) => Some(*head),
            Response::Value(found) => Some(found.head()),
            Response::Nothing | Response::Invalid => None,
        }
    }
}

/// Whether the search of a GET is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Others may yet be heard.
    LookingUp,
    /// The k closest have answered or failed.
    LookedUp,
}

/// What a GET does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Fetch the value from this node, and ask again what is next.
    Fetch(Contact),
    /// Wait for somebody who was asked.
    Wait,
    /// End: [`QuorumRead::winner`] is the answer.
    Answer,
}

/// What a GET has heard.
#[derive(Debug)]
pub(crate) struct QuorumRead {
    reads: Reads,
    /// Holders that must agree before it ends early.
    quorum: u8,
    /// A record that claims to be held by fewer is not believed in that.
    replication_min: u8,
    /// Values that may be fetched at once when nobody else is asked.
    fetches_max: usize,
    /// What was shown or handed in before: nothing smaller ends the search.
    floor: Option<Precedence>,
    /// In the order in which they answered: the quick ones first.
    heard: Vec<Replier>,
    /// The candidate of the search that was asked for the value, and has not answered.
    asked: Option<NodeId>,
    /// How many were asked for a value and did not give it in time. So many more are asked side by
    /// side for the next one, lest loss after loss use up the time of a GET.
    late: usize,
}

/// A node that answered.
#[derive(Clone, Debug)]
struct Replier {
    from: Replica,
    response: Response,
    fetch: Fetch,
}

/// How far it has come to fetch the value of a head from the node that claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetch {
    Untried,
    Awaited,
    Tried,
}

/// Hearing.
impl QuorumRead {
    /// A GET that has heard nothing. It ends when `quorum` holders agree, or never early; it
    /// fetches up to `fetches_max` values at a time; a record is believed to be held by
    /// `replication_min` nodes at least.
    pub(crate) fn new(reads: Reads, quorum: u8, replication_min: u8, fetches_max: usize) -> Self {
        Self { reads, quorum, replication_min, fetches_max, floor: None, heard: Vec::new(), asked: None, late: 0 }
    }

    /// What was shown or handed in by now.
    pub(crate) fn remember(&mut self, floor: Option<Precedence>) {
        self.floor = floor;
    }

    /// `from` answered. Whoever takes back what it claimed is not believed any more.
    pub(crate) fn on_response(&mut self, from: Replica, response: Response) {
        if let Replica::Peer(contact) = from
            && self.asked == Some(contact.id)
        {
            self.asked = None;
        }
        let Some(heard) = self.heard.iter_mut().find(|heard| heard.from.is(&from)) else {
            return self.heard.push(Replier { from, response, fetch: Fetch::Untried });
        };
        let (before, now) = (heard.response.head(), response.head());
        let order = |head: Option<Head>| head.map(|head| head.order());
        heard.fetch = match heard.fetch {
            Fetch::Awaited => Fetch::Tried,
            Fetch::Untried | Fetch::Tried if order(now) > order(before) => Fetch::Untried,
            before => before,
        };
        let known = matches!((&heard.response, before, now), (Response::Value(_), Some(a), Some(b)) if a.agrees(&b));
        if heard.response == Response::Invalid || order(now) < order(before) {
            heard.response = Response::Invalid;
        } else if !known {
            heard.response = response;
        }
    }

    /// No answer will come from `id`, or not in time: another may be asked for the value.
    pub(crate) fn on_no_response(&mut self, id: &NodeId) {
        if self.asked == Some(*id) {
            self.asked = None;
            self.late += 1;
        }
        let of = |heard: &&mut Replier| matches!(heard.from, Replica::Peer(contact) if contact.id == *id);
        if let Some(heard) = self.heard.iter_mut().find(of) {
            self.late += usize::from(heard.fetch == Fetch::Awaited);
            heard.fetch = Fetch::Tried;
        }
    }

    /// Whether the candidate `id`, which is about to be asked, is asked for the value rather than
    /// for the head: one at a time is, until a holder is known; everybody, once one was late and
    /// as long as no value is in hand.
    pub(crate) fn asks_value_of(&mut self, id: &NodeId) -> bool {
        if self.late > 0 && self.winner().is_none() {
            return true;
        }
        if self.asked.is_none() && self.largest().is_none() {
            self.asked = Some(*id);
        }
        self.asked == Some(*id)
    }

    /// Whether the search has to go on past holders: always if it may not end early, and otherwise
    /// once a holder has answered and that was not enough. Then all are asked for contacts too.
    pub(crate) fn goes_past_replicas(&self) -> bool {
        let holds = |heard: &Replier| matches!(heard.from, Replica::Peer(_)) && heard.response.head().is_some();
        self.reads == Reads::Secure || self.heard.iter().any(holds)
    }
}

/// Deciding.
impl QuorumRead {
    /// How many more holders would end it, should all of them agree with the largest that was heard;
    /// `None` if it cannot be hoped to end early: it may not, or some have said otherwise.
    pub(crate) fn replicas_missing(&self) -> Option<usize> {
        if self.reads == Reads::Secure {
            return None;
        }
        let Some(head) = self.largest() else { return Some(self.quorum.into()) };
        let agreeing = self.heads().filter(|held| held.agrees(&head)).count();
        let hopeful = agreeing == self.heads().count() && head.rank.life == Life::Alive && self.allows(head.rank);
        hopeful.then(|| usize::from(self.needed(&head)).saturating_sub(agreeing))
    }

    /// How many holders must agree on `head`.
    fn needed(&self, head: &Head) -> u8 {
        match head.rank.class {
            Class::Hashed => 1,
            Class::Plain | Class::Signed => self.quorum.min(head.replication.max(self.replication_min)),
        }
    }

    /// What to do next.
    pub(crate) fn next(&mut self, phase: Phase) -> Next {
        if self.may_end() {
            return Next::Answer;
        }
        if let Some(at) = self.next_fetch(phase) {
            self.heard[at].fetch = Fetch::Awaited;
            if let Replica::Peer(contact) = self.heard[at].from {
                return Next::Fetch(contact);
            }
        }
        let claimed = self.largest().is_some_and(|head| !self.is_in_hand(&head));
        match phase {
            Phase::LookedUp if !claimed => Next::Answer,
            Phase::LookingUp | Phase::LookedUp => Next::Wait,
        }
    }

    /// The largest record in hand, and who gave it; or the tombstone that hides it.
    pub(crate) fn winner(&self) -> Option<Winner<'_>> {
        let head = self.heads().filter(|head| self.is_in_hand(head)).max_by(|a, b| self.compare(a, b))?;
        if head.rank.life == Life::Over {
            return Some(Winner::Over(head.rank));
        }
        let source = self.heard.iter().find_map(|heard| match &heard.response {
            Response::Value(found) if found.head().agrees(&head) => Some((heard.from, found)),
            _ => None,
        });
        source.map(|(from, found)| Winner::Record { from, found })
    }

    /// Whether a record of `rank` is no older than what was shown or handed in before.
    pub(crate) fn allows(&self, rank: Rank) -> bool {
        self.floor.is_none_or(|floor| rank.precedence() >= floor)
    }

    /// Who holds something smaller than `winner`, and who of `nearest` said that it holds nothing.
    pub(crate) fn behind<'a>(&'a self, winner: &'a Found, nearest: &'a [NodeId]) -> impl Iterator<Item = Contact> + 'a {
        let best = winner.head();
        self.heard.iter().filter_map(move |heard| {
            let Replica::Peer(contact) = heard.from else { return None };
            let is_behind = match (&heard.response, heard.response.head()) {
                (Response::Nothing, _) => nearest.contains(&contact.id),
                (_, Some(other)) => !other.agrees(&best) && other.order() <= best.order(),
                (_, None) => false,
            };
            is_behind.then_some(contact)
        })
    }

    /// Whether enough holders agree on the largest that was heard, and its value is in hand.
    ///
    /// A tombstone ends nothing early: FAILURE is said only after a search (`PROTOCOL.md` 1).
    fn may_end(&self) -> bool {
        let Some(head) = self.largest().filter(|head| head.rank.life == Life::Alive) else { return false };
        if self.reads == Reads::Secure || !self.is_in_hand(&head) || !self.allows(head.rank) {
            return false;
        }
        self.heads().filter(|held| held.agrees(&head)).count() >= self.needed(&head).into()
    }

    /// The largest that was heard, unless nobody is left to give its value.
    fn largest(&self) -> Option<Head> {
        self.heads().filter(|head| !self.is_dismissed(head)).max_by(|a, b| self.compare(a, b))
    }

    /// Whose value to fetch: that of the largest claim; when the search is over, of several at a
    /// time, so that liars cannot make it wait for one after the other.
    fn next_fetch(&self, phase: Phase) -> Option<usize> {
        let awaited = self.heard.iter().filter(|heard| heard.fetch == Fetch::Awaited).count();
        let (under_way, most) = match phase {
            Phase::LookingUp => (awaited + usize::from(self.asked.is_some()), 1 + self.late),
            Phase::LookedUp => (awaited, self.fetches_max),
        };
        if under_way >= most {
            return None;
        }
        let best = self.heads().filter(|head| self.is_in_hand(head)).max_by(|a, b| self.compare(a, b));
        let wanted = self.heads().filter(|head| {
            let larger = best.is_none_or(|best| self.compare(head, &best).is_gt());
            larger && !self.is_in_hand(head) && self.may_be_fetched(head)
        });
        let wanted = wanted.max_by(|a, b| self.compare(a, b))?;
        self.heard.iter().position(|heard| {
            heard.fetch == Fetch::Untried && heard.response.head().is_some_and(|head| head.agrees(&wanted))
        })
    }

    /// The order of records (`PROTOCOL.md` 3), as far as it is known: of one version, a value that
    /// is only claimed comes first, for it may be the larger one.
    fn compare(&self, a: &Head, b: &Head) -> Ordering {
        let by_value = || match (self.value_of(a), self.value_of(b)) {
            (Some(a), Some(b)) => a.record.value.cmp(&b.record.value),
            (None, None) => a.crc.cmp(&b.crc),
            (a, b) => a.is_none().cmp(&b.is_none()),
        };
        a.order().cmp(&b.order()).then_with(by_value)
    }

    fn heads(&self) -> impl Iterator<Item = Head> {
        self.heard.iter().filter_map(|heard| heard.response.head())
    }

    fn value_of(&self, head: &Head) -> Option<&Found> {
        self.heard.iter().find_map(|heard| match &heard.response {
            Response::Value(found) if found.head().agrees(head) => Some(found),
            _ => None,
        })
    }

    /// Whether nothing more is to be fetched for `head`.
    fn is_in_hand(&self, head: &Head) -> bool {
        head.rank.life == Life::Over || self.value_of(head).is_some()
    }

    /// Whether all who claim `head` were asked for its value in vain.
    fn is_dismissed(&self, head: &Head) -> bool {
        !self.is_in_hand(head) && self.newer_claims(head).all(|heard| heard.fetch == Fetch::Tried)
    }

    /// Whether somebody is left who may give the value of `head`, and not enough are asked for it.
    fn may_be_fetched(&self, head: &Head) -> bool {
        let count = |fetch| self.newer_claims(head).filter(|heard| heard.fetch == fetch).count();
        count(Fetch::Untried) > 0 && count(Fetch::Awaited) <= self.late
    }

    fn newer_claims(&self, head: &Head) -> impl Iterator<Item = &Replier> {
        self.heard.iter().filter(|heard| heard.response.head().is_some_and(|claimed| claimed.agrees(head)))
    }
}

/// What a GET answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Winner<'a> {
    /// A record.
    Record {
        /// Who gave its value.
        from: Replica,
        /// The record.
        found: &'a Found,
    },
    /// A version that is over, and nothing larger is known.
    Over(Rank),
}

impl Winner<'_> {
    /// What it is compared by.
    pub(crate) fn rank(&self) -> Rank {
        match self {
            Winner::Record { found, .. } => found.record.rank(),
            Winner::Over(rank) => *rank,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::id::Key;
    use crate::record::{Ttl, Version, crc_of};

    const KEY: Key = Key::new([9; 32]);

    fn contact(n: u8) -> Contact {
        Contact::new(NodeId::new(Key::new([n; 32])), SocketAddr::from((Ipv4Addr::LOCALHOST, u16::from(n) + 1)))
    }

    fn peer(n: u8) -> Replica {
        Replica::Peer(contact(n))
    }

    fn found(class: Class, version: u64, value: &[u8]) -> Found {
        let record = Record {
            key: KEY,
            class,
            version: Version::from_bits(version),
            ttl: Ttl::from_secs(60).expect("not zero"),
            replication: 3,
            crc: crc_of(value),
            value: value.into(),
        };
        Found { record, expires: Time::from_nanos(1) }
    }

    fn value(version: u64, value: &[u8]) -> Response {
        Response::Value(found(Class::Plain, version, value))
    }

    fn head(version: u64, value: &[u8]) -> Response {
        Response::Head(found(Class::Plain, version, value).head())
    }

    fn over(version: u64) -> Response {
        let rank = Rank { class: Class::Plain, life: Life::Over, version: Version::from_bits(version) };
        Response::Head(Head { rank, crc: 0, replication: 1 })
    }

    fn read(quorum: u8) -> QuorumRead {
        QuorumRead::new(Reads::Quorum, quorum, 1, 3)
    }

    fn seen(class: Class, version: u64) -> Precedence {
        Rank { class, life: Life::Alive, version: Version::from_bits(version) }.precedence()
    }

    fn won(read: &QuorumRead) -> Option<Vec<u8>> {
        match read.winner()? {
            Winner::Record { found, .. } => Some(found.record.value.to_vec()),
            Winner::Over(_) => None,
        }
    }

    #[test]
    fn one_candidate_at_a_time_is_asked_for_the_value_until_a_holder_is_known() {
        let mut read = read(2);
        assert!(read.asks_value_of(&contact(1).id));
        assert!(!read.asks_value_of(&contact(2).id));
        assert!(read.asks_value_of(&contact(1).id), "it is asked once more for the same");
        read.on_response(peer(1), Response::Nothing);
        assert!(read.asks_value_of(&contact(3).id), "the first held nothing");
        read.on_no_response(&contact(3).id);
        assert!(read.asks_value_of(&contact(4).id), "the second is late");
        read.on_response(peer(4), value(1, b"v"));
        assert!(!read.asks_value_of(&contact(5).id));
    }

    #[test]
    fn it_ends_when_as_many_as_the_quorum_agree_and_the_value_is_in_hand() {
        for quorum in 1..=3 {
            let mut read = read(quorum);
            for n in 1..=quorum {
                assert_eq!(read.next(Phase::LookingUp), Next::Wait, "{n} of {quorum}");
                read.on_response(peer(n), if n == 1 { value(5, b"v") } else { head(5, b"v") });
            }
            assert_eq!(read.next(Phase::LookingUp), Next::Answer);
            assert_eq!(won(&read), Some(b"v".to_vec()));
        }
    }

    #[test]
    fn no_more_are_needed_than_shall_hold_it_and_no_fewer_than_any_record_has() {
        for (replication, replication_min, ends) in [(1, 1, true), (1, 3, false), (3, 1, false)] {
            let mut read = QuorumRead::new(Reads::Quorum, 2, replication_min, 3);
            let mut one = found(Class::Plain, 5, b"v");
            one.record.replication = replication;
            read.on_response(peer(1), Response::Value(one));
            assert_eq!(read.next(Phase::LookingUp) == Next::Answer, ends, "{replication} of {replication_min}");
        }
    }

    #[test]
    fn what_this_node_holds_counts_as_one_answer() {
        let mut read = read(2);
        read.on_response(Replica::Me, value(5, b"v"));
        assert_eq!(read.next(Phase::LookingUp), Next::Wait);
        read.on_response(peer(1), head(5, b"v"));
        assert_eq!(read.next(Phase::LookingUp), Next::Answer);
    }

    #[test]
    fn an_agreement_on_anything_but_the_largest_ends_nothing() {
        let mut read = read(2);
        read.on_response(peer(1), value(5, b"v"));
        read.on_response(peer(2), head(6, b"w"));
        read.on_response(peer(3), head(5, b"v"));
        assert_eq!(read.next(Phase::LookingUp), Next::Fetch(contact(2)));
        assert_eq!(read.next(Phase::LookingUp), Next::Wait);
        read.on_response(peer(2), value(6, b"w"));
        assert_eq!(read.next(Phase::LookingUp), Next::Wait);
        read.on_response(peer(4), head(6, b"w"));
        assert_eq!(read.next(Phase::LookingUp), Next::Answer);
        assert_eq!(won(&read), Some(b"w".to_vec()));
    }

    #[test]
    fn a_claim_that_its_holder_does_not_make_good_is_ignored_from_then_on() {
        for (answer, fallen) in [
            (Some(Response::Invalid), true),
            (Some(Response::Nothing), true),
            (Some(head(7, b"w")), false),
            (None, false),
        ] {
            let mut read = read(2);
            read.on_response(peer(1), value(5, b"v"));
            read.on_response(peer(2), head(7, b"w"));
            assert_eq!(read.next(Phase::LookedUp), Next::Fetch(contact(2)));
            match answer {
                Some(response) => read.on_response(peer(2), response),
                None => read.on_no_response(&contact(2).id),
            }
            assert_eq!(read.next(Phase::LookedUp), Next::Answer);
            assert_eq!(won(&read), Some(b"v".to_vec()));
            read.on_response(peer(2), value(7, b"w"));
            assert_eq!(won(&read), Some(if fallen { b"v".to_vec() } else { b"w".to_vec() }), "late, but right");
        }
    }

    #[test]
    fn a_value_that_its_giver_cannot_give_is_fetched_from_the_next_who_claims_it() {
        let mut read = read(3);
        assert!(read.asks_value_of(&contact(1).id));
        read.on_response(peer(2), head(5, b"v"));
        read.on_response(peer(3), head(5, b"v"));
        read.on_response(peer(4), head(5, b"v"));
        assert_eq!(read.next(Phase::LookingUp), Next::Wait, "one value at a time");
        read.on_no_response(&contact(1).id);
        assert_eq!(read.next(Phase::LookingUp), Next::Fetch(contact(2)), "the quickest first");
        assert_eq!(read.next(Phase::LookingUp), Next::Fetch(contact(3)), "and one more, for one was late");
        assert_eq!(read.next(Phase::LookingUp), Next::Wait);
        read.on_no_response(&contact(2).id);
        assert_eq!(read.next(Phase::LookingUp), Next::Fetch(contact(4)));
        read.on_response(peer(3), value(5, b"v"));
        assert_eq!((read.next(Phase::LookedUp), won(&read)), (Next::Answer, Some(b"v".to_vec())));
    }

    #[test]
    fn liars_are_asked_side_by_side_when_the_search_is_over() {
        let mut read = read(2);
        for n in 1..=9 {
            read.on_response(peer(n), head(n.into(), b"lie"));
        }
        let asked: Vec<Next> = (0..4).map(|_| read.next(Phase::LookedUp)).collect();
        assert_eq!(asked, [Next::Fetch(contact(9)), Next::Fetch(contact(8)), Next::Fetch(contact(7)), Next::Wait]);
    }

    #[test]
    fn of_one_version_the_larger_value_wins_and_both_are_fetched_to_know_it() {
        let mut read = read(2);
        read.on_response(peer(1), value(5, b"b"));
        for (n, other) in [(2, b"a"), (3, b"c")] {
            read.on_response(peer(n), head(5, other));
            assert_eq!(read.next(Phase::LookedUp), Next::Fetch(contact(n)));
            read.on_response(peer(n), value(5, other));
        }
        assert_eq!((read.next(Phase::LookedUp), won(&read)), (Next::Answer, Some(b"c".to_vec())));
    }

    #[test]
    fn a_tombstone_hides_plain_versions_up_to_its_own_and_nothing_that_certifies_itself() {
        for (version, hidden) in [(4, true), (5, true), (6, false)] {
            let mut read = read(1);
            read.on_response(peer(1), over(5));
            read.on_response(peer(2), value(version, b"v"));
            assert_eq!(read.next(Phase::LookingUp) == Next::Wait, hidden);
            assert_eq!(read.next(Phase::LookedUp), Next::Answer);
            assert_eq!(won(&read), (!hidden).then(|| b"v".to_vec()));
        }
        let mut read = read(1);
        read.on_response(peer(1), over(5));
        read.on_response(peer(2), Response::Value(found(Class::Signed, 1, b"v")));
        assert_eq!((read.next(Phase::LookingUp), won(&read)), (Next::Answer, Some(b"v".to_vec())));
    }

    #[test]
    fn tombstones_that_agree_end_nothing_before_the_search_is_over() {
        let mut read = read(2);
        read.on_response(peer(1), over(5));
        read.on_response(peer(2), over(5));
        assert_eq!(read.next(Phase::LookingUp), Next::Wait);
        assert_eq!((read.next(Phase::LookedUp), won(&read)), (Next::Answer, None));
    }

    #[test]
    fn a_hashed_value_ends_it_at_once_unless_all_are_to_be_heard() {
        for (reads, next) in [(Reads::Quorum, Next::Answer), (Reads::Secure, Next::Wait)] {
            let mut read = QuorumRead::new(reads, 3, 3, 3);
            read.on_response(peer(1), Response::Value(found(Class::Hashed, 0, b"v")));
            assert_eq!(read.next(Phase::LookingUp), next);
            assert_eq!(read.next(Phase::LookedUp), Next::Answer);
        }
    }

    #[test]
    fn what_is_older_than_what_was_seen_before_does_not_end_the_search() {
        let mut read = read(2);
        read.remember(Some(seen(Class::Plain, 6)));
        read.on_response(peer(1), value(5, b"v"));
        read.on_response(peer(2), head(5, b"v"));
        assert_eq!(read.next(Phase::LookingUp), Next::Wait);
        assert_eq!((read.next(Phase::LookedUp), won(&read)), (Next::Answer, Some(b"v".to_vec())));
        read.remember(Some(seen(Class::Plain, 5)));
        assert_eq!(read.next(Phase::LookingUp), Next::Answer);
    }

    #[test]
    fn those_are_behind_who_hold_less_and_those_near_who_hold_nothing() {
        let mut read = read(2);
        let response = [
            value(5, b"v"),
            head(5, b"v"),
            head(4, b"u"),
            over(4),
            over(9),
            Response::Nothing,
            Response::Nothing,
            Response::Invalid,
        ];
        for (n, response) in (1..).zip(response) {
            read.on_response(peer(n), response);
        }
        let near = [contact(7).id, contact(8).id];
        let behind: Vec<Contact> = read.behind(&found(Class::Plain, 5, b"v"), &near).collect();
        assert_eq!(behind, [contact(3), contact(4), contact(7)]);
    }

    fn response() -> impl Strategy<Value = Response> {
        let class = prop_oneof![3 => Just(Class::Plain), 1 => Just(Class::Signed)];
        let record = (class, 0..3_u64, 0..2_u8).prop_map(|(class, version, value)| found(class, version, &[value]));
        let head = record.clone().prop_map(|found| Response::Head(found.head()));
        let over = (0..3_u64).prop_map(over);
        prop_oneof![1 => Just(Response::Nothing), 1 => Just(Response::Invalid), 2 => over, 4 => head, 4 => record.prop_map(Response::Value)]
    }

    /// What a reply claims: whether it is signed, its version, whether it is over. Of two replies of one
    /// peer the later must not claim less.
    fn claim(response: &Response) -> Option<(bool, u64, bool)> {
        let rank = response.head()?.rank;
        Some((rank.class == Class::Signed, rank.version.bits(), rank.life == Life::Over))
    }

    /// What a peer that gave these replies, in this order, is believed: the last one; nothing, once it
    /// lied or claimed less than before. A head does not replace its own value.
    fn believed(replies: &[Response]) -> Option<&Response> {
        replies.iter().try_fold(&Response::Nothing, |last, response| match (last, response) {
            (_, Response::Invalid) => None,
            (Response::Value(found), Response::Head(head)) if found.head() == *head => Some(last),
            _ => (claim(response) >= claim(last)).then_some(response),
        })
    }

    /// The largest value that is believed, unless a tombstone that is believed hides it.
    fn expected(replies: &[Vec<Response>]) -> Option<Vec<u8>> {
        let believed: Vec<&Response> = replies.iter().filter_map(|replies| believed(replies)).collect();
        let values = believed.iter().filter_map(|response| match response {
            Response::Value(found) => claim(response).zip(Some(found.record.value.to_vec())),
            Response::Nothing | Response::Head(_) | Response::Invalid => None,
        });
        let (largest, value) = values.max()?;
        let is_hidden = believed.iter().filter_map(|response| claim(response)).any(|claim| claim.2 && claim > largest);
        (!is_hidden).then_some(value)
    }

    proptest! {
        /// Goal: whatever is said, by whom and in whatever order, a GET ends, and with the largest
        /// of the values that were given.
        ///
        /// Method: the test keeps its own list of replies. Each peer that is asked for a value falls
        /// silent, so that all claims fall.
        #[test]
        fn a_get_ends_with_the_largest_value_that_was_given(
            all in proptest::collection::vec((0..5_u8, response()), 0..32),
            quorum in 1..=3_u8,
        ) {
            let mut read = read(quorum);
            let mut replies = vec![Vec::new(); 5];
            for (n, response) in all {
                replies[usize::from(n)].push(response.clone());
                read.on_response(peer(n), response);
            }
            let mut steps = 0;
            while let Next::Fetch(contact) = read.next(Phase::LookedUp) {
                read.on_no_response(&contact.id);
                steps += 1;
                prop_assert!(steps <= replies.len(), "each is asked once");
            }
            prop_assert_eq!(read.next(Phase::LookedUp), Next::Answer);
            prop_assert_eq!(won(&read), expected(&replies));
        }
    }
}
