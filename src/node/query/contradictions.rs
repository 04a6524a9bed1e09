//! Answers to a PUT which show that wall clocks differ too much.
//!
//! A peer *contradicts* a PUT if it refuses the version as too far ahead (ERROR 425), or stores one that is too far ahead
//! for this node. Then other nodes will not read the record of the PUT, or not as the newest one. Whether these answers
//! *prevail* depends on what the peers of this node say about its clock:
//!
//! - Most say that it is right: these answers do not prevail. If this node has not asked its peers for the time in the
//!   last 15 s, it asks them again, and the next rule holds for this attempt of the PUT.
//! - Too few have told their time: they do, unless more peers store the record than contradict.
//! - Most say that it is wrong: refusals do if they are as many as the replicas, and a larger version does if it is not
//!   too far ahead for them either. Otherwise the clock of the contradicting peer is wrong too, and others will read the
//!   record.

use std::time::Duration;

use crate::id::NodeId;
use crate::limits::CLOCK_SKEW_MAX;
use crate::node::Node;
use crate::node::purpose::QueryId;
use crate::node::query::write_quorum::Put;
use crate::time::{ClockOffset, Now};

/// What the peers of this node say about its wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnClock {
    /// Too few have told their time.
    Unknown,
    /// Most agree with it.
    Right,
    /// Most differ from it: they are ahead by about this much.
    Wrong(ClockOffset),
}

/// The peers that contradict a PUT.
#[derive(Debug, Default)]
pub(crate) struct Contradictions {
    all: Vec<Contradiction>,
}

#[derive(Clone, Copy, Debug)]
struct Contradiction {
    from: NodeId,
    /// How far the larger version that the peer stores is ahead of this node's clock; `None` if the peer has refused
    /// the record as too far ahead.
    ahead: Option<Duration>,
}

impl Contradictions {
    /// The clocks of `from` and of this node differ too much. `ahead` is how far the version that `from` stores is ahead
    /// of this node's clock; `None` if `from` has refused the record as too far ahead.
    pub(crate) fn add(&mut self, from: NodeId, ahead: Option<Duration>) {
        if !self.all.iter().any(|by| by.from == from) {
            self.all.push(Contradiction { from, ahead });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// `from` stores the record after all.
    pub(crate) fn withdraw(&mut self, from: &NodeId) {
        self.all.retain(|by| by.from != *from);
    }

    /// Whether no other node would read the record as the newest one, which `peers` store, as far as the answers show.
    pub(crate) fn prevail(&self, clock: OwnClock, peers: usize) -> bool {
        match clock {
            OwnClock::Right => false,
            OwnClock::Wrong(_) => {
                let refusals = self.all.iter().filter(|by| by.ahead.is_none()).count();
                refusals > 0 && refusals >= peers || self.show_newer(clock)
            }
            OwnClock::Unknown => !self.all.is_empty() && self.all.len() >= peers,
        }
    }

    /// Whether most peers say that this node's clock is wrong, and a larger record is stored that they read.
    pub(crate) fn show_newer(&self, clock: OwnClock) -> bool {
        let OwnClock::Wrong(peers_ahead) = clock else { return false };
        let reach = if peers_ahead.is_ahead() { peers_ahead.size() + CLOCK_SKEW_MAX } else { Duration::ZERO };
        self.all.iter().filter_map(|by| by.ahead).any(|ahead| ahead <= reach)
    }
}

impl Node {
    /// Peers may contradict the PUT `query`. If most others have said that this node's clock is right, but long ago, that
    /// does not count in this attempt.
    pub(crate) fn doubt_clock_if_contradicted(&mut self, now: Now, query: QueryId) {
        let is_contradicted = self.queries.put(query).is_some_and(|put| put.is_contradicted());
        if is_contradicted && self.ask_again_if_evidence_is_old(now) {
            self.queries.put(query).into_iter().for_each(Put::doubt_clock);
        }
    }
}
