//! The state machine of a GET: evaluates the responses of replicas, and decides from which node to fetch
//! the value, when the GET may end, with which answer, and which replicas are stale (`PROTOCOL.md` 3).
//!
//! A replica responds with its record, or with the head of it. A head is only a claim; the answer is always
//! a verified value. So the *winner* is the largest record whose value this node has. While a larger one
//! is only claimed, the GET fetches its value from the replicas that claim it. A replica that cannot
//! deliver what it claimed is ignored from then on. A tombstone has no value and is believed without
//! proof: it can only hide plain records, which any node could replace anyway.
//!
//! Guarantee: a GET ends early only if as many replicas as the quorum agree on the largest record that was
//! reported, its value is verified, and no client has seen a newer version through this node. Tentative replicas do not
//! count: a PUT may not have reached them.
//!
//! Non-goals: the machine sends nothing, verifies nothing and has no clock; its caller does that. Its
//! memory is bounded by the lookup: one response per node.

use std::cmp::Ordering;

use crate::contact::Contact;
use crate::id::NodeId;
use crate::node::params::Reads;
use crate::node::records::accept::Replica;
use crate::record::{Class, Life, Precedence, Rank, Record};
use crate::time::{Now, Time};

/// A record without its value: all that two replicas need to agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Class, life and version.
    pub(crate) rank: Rank,
    /// CRC-32 of the value; meaningless for a tombstone.
    pub(crate) crc: u32,
    /// The number of replicas that the record should have.
    pub(crate) replication: u8,
}

impl Head {
    /// Whether both are of the same record, or of the same tombstone.
    fn agrees(&self, other: &Head) -> bool {
        let over = self.rank.life == Life::Over;
        self.rank == other.rank && (over || self.crc == other.crc)
    }

    /// The order of heads as far as it does not depend on the value. A tombstone is larger than a record
    /// of the same version.
    fn order(&self) -> (Precedence, bool) {
        (self.rank.precedence(), self.rank.life == Life::Over)
    }
}

/// A verified record.
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

/// The response of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// The node stores no record of the key.
    Nothing,
    /// The node stores the record with this head, or this tombstone.
    Head(Head),
    /// The node stores this record.
    Value(Found),
    /// The response cannot be true. The node is ignored from now on.
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

/// Whether the lookup of a GET has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The lookup is running: more nodes may respond.
    LookingUp,
    /// The k closest nodes have answered or failed.
    LookedUp,
}

/// The next step of a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Fetch the value from this node, and call [`QuorumRead::next`] again.
    Fetch(Contact),
    /// Wait for a response.
    Wait,
    /// End the GET: [`QuorumRead::winner`] is the answer.
    Answer,
}

/// The responses to a GET.
#[derive(Debug)]
pub(crate) struct QuorumRead {
    reads: Reads,
    /// The number of replicas that must agree before the GET ends early.
    quorum: u8,
    /// A record with a smaller replication counts as one with this replication.
    replication_min: u8,
    /// The number of values to fetch at the same time after the lookup.
    fetches_max: usize,
    /// The newest version that clients have seen through this node: an older one does not end the GET early.
    newest_seen: Option<Precedence>,
    /// The nodes that have responded, quickest first.
    nodes: Vec<Responder>,
    /// The lookup candidate that was asked for the value instead of the head, and has not responded.
    awaited: Option<NodeId>,
    /// How often a node that was asked for the value did not deliver it in time. As many additional nodes
    /// are asked for the next value at the same time, so that repeated losses do not use up the time of
    /// the GET.
    losses: usize,
}

/// A node that has responded.
#[derive(Clone, Debug)]
struct Responder {
    from: Replica,
    response: Response,
    fetch: Fetch,
    /// Whether PUTs may not have reached the node.
    is_tentative: bool,
}

/// The state of fetching the value of a head from the node that claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetch {
    NotSent,
    InFlight,
    /// In flight, and later than usual: another node may be asked meanwhile.
    Late,
    Ended,
}

/// Responses.
impl QuorumRead {
    /// A GET without responses. It ends early when `quorum` replicas agree, or never, as `reads` says. It
    /// fetches up to `fetches_max` values at a time. A record counts as one with at least
    /// `replication_min` replicas.
    pub(crate) fn new(reads: Reads, quorum: u8, replication_min: u8, fetches_max: usize) -> Self {
        Self {
            reads,
            quorum,
            replication_min,
            fetches_max,
            newest_seen: None,
            nodes: Vec::new(),
            awaited: None,
            losses: 0,
        }
    }

    /// The newest version that clients have seen through this node.
    pub(crate) fn newest_seen(&self) -> Option<Precedence> {
        self.newest_seen
    }

    /// Sets the newest version that clients have seen through this node.
    pub(crate) fn remember(&mut self, newest_seen: Option<Precedence>) {
        self.newest_seen = newest_seen;
    }

    /// `from` responded. A node that claims less than before is ignored from now on.
    pub(crate) fn on_response(&mut self, from: Replica, response: Response) {
        if let Replica::Peer(contact) = from
            && self.awaited == Some(contact.id)
        {
            self.awaited = None;
        }
        let Some(node) = self.nodes.iter_mut().find(|node| node.from.is(&from)) else {
            return self.nodes.push(Responder { from, response, fetch: Fetch::NotSent, is_tentative: false });
        };
        let (before, now) = (node.response.head(), response.head());
        let order = |head: Option<Head>| head.map(|head| head.order());
        node.fetch = match node.fetch {
            Fetch::InFlight | Fetch::Late => Fetch::Ended,
            Fetch::NotSent | Fetch::Ended if order(now) > order(before) => Fetch::NotSent,
            before => before,
        };
        let known = matches!((&node.response, before, now), (Response::Value(_), Some(a), Some(b)) if a.agrees(&b));
        if node.response == Response::Invalid || order(now) < order(before) {
            node.response = Response::Invalid;
        } else if !known {
            node.response = response;
        }
    }

    /// `from` has responded, and PUTs may not have reached it: it does not count among the replicas that agree.
    pub(crate) fn on_tentative(&mut self, from: &Replica) {
        for node in self.nodes.iter_mut().filter(|node| node.from.is(from)) {
            node.is_tentative = true;
        }
    }

    /// `id` will not respond, or not in time: another node may be asked for the value.
    pub(crate) fn on_no_response(&mut self, id: &NodeId) {
        if self.awaited == Some(*id) {
            self.awaited = None;
            self.losses += 1;
        }
        let is_from = |node: &&mut Responder| matches!(node.from, Replica::Peer(contact) if contact.id == *id);
        if let Some(node) = self.nodes.iter_mut().find(is_from) {
            self.losses += usize::from(node.fetch == Fetch::InFlight);
            node.fetch = Fetch::Ended;
        }
    }

    /// The value that is fetched from `id` comes later than usual: it may be fetched from another node too. No
    /// node has said that it cannot deliver it.
    pub(crate) fn on_late_fetch(&mut self, id: &NodeId) {
        let is_from = |node: &&mut Responder| matches!(node.from, Replica::Peer(contact) if contact.id == *id);
        if let Some(node) = self.nodes.iter_mut().find(is_from).filter(|node| node.fetch == Fetch::InFlight) {
            node.fetch = Fetch::Late;
        }
    }

    /// Whether the request to the candidate `id` asks for the value instead of the head. One candidate at
    /// a time is asked for the value, until a replica is known. After a loss all candidates are, until
    /// there is a winner.
    pub(crate) fn asks_value_of(&mut self, id: &NodeId) -> bool {
        if self.losses > 0 && self.winner().is_none() {
            return true;
        }
        if self.awaited.is_none() && self.largest().is_none() {
            self.awaited = Some(*id);
        }
        self.awaited == Some(*id)
    }

    /// Whether the lookup has to continue beyond replicas: always if the GET may not end early; otherwise
    /// after a replica has responded and that was not enough. Then replicas are asked for contacts too.
    pub(crate) fn goes_past_replicas(&self) -> bool {
        let stores = |node: &Responder| matches!(node.from, Replica::Peer(_)) && node.response.head().is_some();
        self.reads == Reads::Secure || self.nodes.iter().any(stores)
    }
}

/// Decisions.
impl QuorumRead {
    /// The number of additional replicas that would end the GET early if they agree with the largest
    /// head. `None` if the GET probably cannot end early: it may not, or responses differ.
    pub(crate) fn replicas_missing(&self) -> Option<usize> {
        if self.reads == Reads::Secure {
            return None;
        }
        let Some(head) = self.largest() else { return Some(self.quorum.into()) };
        let agreeing = self.agreeing(&head);
        let all_agree = self.heads().all(|held| held.agrees(&head));
        let may_end = all_agree && head.rank.life == Life::Alive && self.allows(head.rank);
        may_end.then(|| usize::from(self.needed(&head)).saturating_sub(agreeing))
    }

    /// The number of replicas that must agree on `head`.
    fn needed(&self, head: &Head) -> u8 {
        match head.rank.class {
            Class::Hashed => 1,
            Class::Plain | Class::Signed => self.quorum.min(head.replication.max(self.replication_min)),
        }
    }

    /// The next step.
    pub(crate) fn next(&mut self, phase: Phase) -> Next {
        if self.may_end() {
            return Next::Answer;
        }
        if let Some(at) = self.next_fetch(phase) {
            self.nodes[at].fetch = Fetch::InFlight;
            if let Replica::Peer(contact) = self.nodes[at].from {
                return Next::Fetch(contact);
            }
        }
        let claimed = self.largest().is_some_and(|head| !self.is_in_hand(&head));
        match phase {
            Phase::LookedUp if !claimed => Next::Answer,
            Phase::LookingUp | Phase::LookedUp => Next::Wait,
        }
    }

    /// The largest record whose value this node has, and its source; or the tombstone that hides it.
    pub(crate) fn winner(&self) -> Option<Winner<'_>> {
        let head = self.largest_in_hand()?;
        if head.rank.life == Life::Over {
            return Some(Winner::Over(head.rank));
        }
        self.value_of(&head).map(|(from, found)| Winner::Record { from, found })
    }

    /// Whether there is a winner, and it is no older than the newest version that clients have seen.
    pub(crate) fn has_enough(&self) -> bool {
        self.winner().is_some_and(|winner| self.allows(winner.rank()))
    }

    /// Whether no peer has told of the record that is the winner.
    pub(crate) fn is_told_by_me_alone(&self) -> bool {
        let best = self.largest_in_hand();
        best.is_some_and(|best| self.claimants(&best).all(|node| matches!(node.from, Replica::Me)))
    }

    /// Whether a record of `rank` is no older than the newest version that clients have seen.
    pub(crate) fn allows(&self, rank: Rank) -> bool {
        self.newest_seen.is_none_or(|seen| rank.precedence() >= seen)
    }

    /// The replicas with a smaller record than `winner`, and those of the `nearest` nodes that store none.
    pub(crate) fn behind<'a>(&'a self, winner: &'a Found, nearest: &'a [NodeId]) -> impl Iterator<Item = Contact> + 'a {
        let best = winner.head();
        self.nodes.iter().filter_map(move |node| {
            let Replica::Peer(contact) = node.from else { return None };
            let is_behind = match (&node.response, node.response.head()) {
                (Response::Nothing, _) => nearest.contains(&contact.id),
                (_, Some(other)) => !other.agrees(&best) && other.order() <= best.order(),
                (_, None) => false,
            };
            is_behind.then_some(contact)
        })
    }

    /// Whether enough replicas agree on the largest head, and this node has its value.
    ///
    /// A tombstone does not end a GET early: FAILURE requires a complete lookup (`PROTOCOL.md` 1).
    fn may_end(&self) -> bool {
        let Some(head) = self.largest().filter(|head| head.rank.life == Life::Alive) else { return false };
        if self.reads == Reads::Secure || !self.is_in_hand(&head) || !self.allows(head.rank) {
            return false;
        }
        self.agreeing(&head) >= self.needed(&head).into()
    }

    /// The number of replicas that agree on `head`. Nothing replaces a hashed record.
    fn agreeing(&self, head: &Head) -> usize {
        let counts = |node: &&Responder| !node.is_tentative || head.rank.class == Class::Hashed;
        let counted = self.nodes.iter().filter(counts);
        counted.filter(|node| node.response.head().is_some_and(|held| held.agrees(head))).count()
    }

    /// The largest head, without those whose value no node is left to deliver.
    fn largest(&self) -> Option<Head> {
        self.heads().filter(|head| !self.is_dismissed(head)).max_by(|a, b| self.compare(a, b))
    }

    /// The node to fetch a value from: one that claims the largest record. After the lookup several
    /// values are fetched at a time, so that false claims cannot delay the GET one after the other.
    fn next_fetch(&self, phase: Phase) -> Option<usize> {
        let fetches = self.nodes.iter().filter(|node| node.fetch == Fetch::InFlight).count();
        let (in_flight, most) = match phase {
            Phase::LookingUp => (fetches + usize::from(self.awaited.is_some()), 1 + self.losses),
            Phase::LookedUp => (fetches, self.fetches_max),
        };
        if in_flight >= most {
            return None;
        }
        let best = self.largest_in_hand();
        let wanted = self.heads().filter(|head| {
            let larger = best.is_none_or(|best| self.compare(head, &best).is_gt());
            larger && !self.is_in_hand(head) && self.may_be_fetched(head)
        });
        let wanted = wanted.max_by(|a, b| self.compare(a, b))?;
        self.nodes.iter().position(|node| node.fetch == Fetch::NotSent && node.claims(&wanted))
    }

    /// The order of records (`PROTOCOL.md` 3), as far as this node knows it. Of two records with the same
    /// version, one whose value is only claimed counts as larger, because it may be.
    fn compare(&self, a: &Head, b: &Head) -> Ordering {
        let by_value = || match (self.value_of(a), self.value_of(b)) {
            (Some((_, a)), Some((_, b))) => a.record.value.cmp(&b.record.value),
            (None, None) => a.crc.cmp(&b.crc),
            (a, b) => a.is_none().cmp(&b.is_none()),
        };
        a.order().cmp(&b.order()).then_with(by_value)
    }

    fn heads(&self) -> impl Iterator<Item = Head> {
        self.nodes.iter().filter_map(|node| node.response.head())
    }

    /// The record of `head` with its value, and the node that delivered it.
    fn value_of(&self, head: &Head) -> Option<(Replica, &Found)> {
        self.nodes.iter().find_map(|node| match &node.response {
            Response::Value(found) if found.head().agrees(head) => Some((node.from, found)),
            _ => None,
        })
    }

    /// Whether this node has the value of `head`, or `head` is a tombstone.
    fn is_in_hand(&self, head: &Head) -> bool {
        head.rank.life == Life::Over || self.value_of(head).is_some()
    }

    fn largest_in_hand(&self) -> Option<Head> {
        self.heads().filter(|head| self.is_in_hand(head)).max_by(|a, b| self.compare(a, b))
    }

    /// Whether all nodes that claim `head` were asked for its value, and none has delivered it.
    fn is_dismissed(&self, head: &Head) -> bool {
        !self.is_in_hand(head) && self.claimants(head).all(|node| node.fetch == Fetch::Ended)
    }

    /// Whether a node is left to ask for the value of `head`, and too few have been asked.
    fn may_be_fetched(&self, head: &Head) -> bool {
        let count = |fetch| self.claimants(head).filter(|node| node.fetch == fetch).count();
        count(Fetch::NotSent) > 0 && count(Fetch::InFlight) <= self.losses
    }

    fn claimants(&self, head: &Head) -> impl Iterator<Item = &Responder> {
        self.nodes.iter().filter(|node| node.claims(head))
    }
}

impl Responder {
    /// Whether the node claims to store the record of `head`.
    fn claims(&self, head: &Head) -> bool {
        self.response.head().is_some_and(|claimed| claimed.agrees(head))
    }
}

/// The result of a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Winner<'a> {
    /// A record.
    Record {
        /// The node that delivered its value.
        from: Replica,
        /// The record.
        found: &'a Found,
    },
    /// A tombstone that hides all smaller records.
    Over(Rank),
}

impl Winner<'_> {
    /// Its rank.
    pub(crate) fn rank(&self) -> Rank {
        match self {
            Winner::Record { found, .. } => found.record.rank(),
            Winner::Over(rank) => *rank,
        }
    }

    /// Whether it is a record whose life has not ended.
    pub(crate) fn is_alive(&self, now: Now) -> bool {
        matches!(self, Winner::Record { found, .. } if found.expires > now.mono)
    }
}

#[cfg(test)]
mod tests;
