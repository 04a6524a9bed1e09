//! Whether the nodes of the other address family have the record of a PUT, and which bridges were asked.
//!
//! A pure state: [`crate::node::query::relay`] asks the bridges and reports what becomes of it.

use crate::id::NodeId;

/// Whether the nodes of the other address family have the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relay {
    /// There are no such nodes.
    NotNeeded,
    /// They have it.
    Done,
    /// They do not have it yet.
    Asking {
        /// Bridges that were asked in this attempt; the last of them most recently.
        tried: Vec<NodeId>,
        /// Those of them that may still answer.
        awaited: Vec<NodeId>,
        next: NextBridge,
    },
}

/// When the next bridge is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextBridge {
    /// Now.
    Due,
    /// When the one that was asked last fails, or is late.
    Waits,
    /// When one is found.
    Missing,
}

/// How a bridge has not done what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BridgeEnded {
    /// It will not answer.
    Failed,
    /// It may still answer.
    Late,
}

impl Relay {
    /// No bridge was asked.
    const DUE: Self = Relay::Asking { tried: Vec::new(), awaited: Vec::new(), next: NextBridge::Due };

    /// An attempt begins; `is_needed` says whether there are nodes of another family. Those that have the
    /// record in this version need not get it again.
    pub(crate) fn plan(&mut self, is_needed: bool) {
        match self {
            Relay::Done => {}
            _ if is_needed => *self = Relay::DUE,
            Relay::NotNeeded | Relay::Asking { .. } => *self = Relay::NotNeeded,
        }
    }

    /// The record has a new version, which no node stores yet.
    pub(crate) fn restart(&mut self) {
        if *self != Relay::NotNeeded {
            *self = Relay::DUE;
        }
    }

    /// Whether the next bridge is to be asked.
    pub(crate) fn asks_next(&self) -> bool {
        matches!(self, Relay::Asking { next: NextBridge::Due, .. })
    }

    /// The bridges that were asked in this attempt.
    pub(crate) fn tried(&self) -> &[NodeId] {
        if let Relay::Asking { tried, .. } = self { tried } else { &[] }
    }

    /// Whether a bridge may still answer.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self, Relay::Asking { awaited, .. } if !awaited.is_empty())
    }

    /// Whether `bridge` was asked and may still answer.
    pub(crate) fn awaits(&self, bridge: &NodeId) -> bool {
        matches!(self, Relay::Asking { awaited, .. } if awaited.contains(bridge))
    }

    /// Whether the nodes of the other family have the record, or there are none.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Relay::NotNeeded | Relay::Done)
    }

    /// `bridge` is asked; `None` if no other one is known.
    pub(crate) fn ask(&mut self, bridge: Option<NodeId>) {
        if let Relay::Asking { tried, awaited, next } = self {
            *next = if bridge.is_some() { NextBridge::Waits } else { NextBridge::Missing };
            tried.extend(bridge);
            awaited.extend(bridge);
        }
    }

    /// Whether no other bridge was known.
    pub(crate) fn misses_bridge(&self) -> bool {
        matches!(self, Relay::Asking { next: NextBridge::Missing, .. })
    }

    /// A bridge was found. It is asked if one was missing.
    pub(crate) fn found(&mut self) {
        if let Relay::Asking { next: next @ NextBridge::Missing, .. } = self {
            *next = NextBridge::Due;
        }
    }

    /// `bridge` has failed, or is late. The next one is asked, if `bridge` was asked last.
    pub(crate) fn ended(&mut self, bridge: &NodeId, ended: BridgeEnded) {
        if let Relay::Asking { tried, awaited, next } = self {
            if ended == BridgeEnded::Failed {
                awaited.retain(|id| id != bridge);
            }
            if tried.last() == Some(bridge) && *next == NextBridge::Waits {
                *next = NextBridge::Due;
            }
        }
    }

    /// The nodes of the other family have the record.
    pub(crate) fn done(&mut self) {
        *self = Relay::Done;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;

    fn id(number: u8) -> NodeId {
        NodeId::new(Key::new([number; 32]))
    }

    /// An attempt in which the bridges `asked` were asked one after another.
    fn asking(asked: &[u8]) -> Relay {
        let mut relay = Relay::NotNeeded;
        relay.plan(true);
        for number in asked {
            relay.ask(Some(id(*number)));
        }
        relay
    }

    #[test]
    fn a_late_bridge_is_followed_by_the_next_one_and_still_awaited() {
        let mut relay = asking(&[1]);
        relay.ended(&id(1), BridgeEnded::Late);
        assert!(relay.asks_next() && relay.awaits(&id(1)));
        relay.ask(Some(id(2)));
        assert_eq!(relay.tried(), [id(1), id(2)]);
        relay.ended(&id(1), BridgeEnded::Failed);
        assert!(!relay.asks_next(), "2 was asked last, and may answer");
        relay.ended(&id(2), BridgeEnded::Failed);
        relay.ask(None);
        assert!(!relay.asks_next() && !relay.is_awaited() && !relay.is_done(), "the attempt has failed");
    }

    #[test]
    fn a_bridge_that_is_found_is_asked_if_one_was_missing() {
        let mut relay = asking(&[1]);
        relay.found();
        assert!(!relay.asks_next(), "1 may answer");
        relay.ended(&id(1), BridgeEnded::Late);
        relay.ask(None);
        assert!(relay.misses_bridge() && relay.is_awaited());
        relay.ended(&id(1), BridgeEnded::Failed);
        assert!(!relay.asks_next(), "there is no other");
        relay.found();
        assert!(relay.asks_next());
    }

    #[test]
    fn a_record_is_passed_on_once_for_each_version() {
        let mut relay = asking(&[1]);
        relay.done();
        relay.plan(true);
        assert!(relay.is_done() && !relay.asks_next(), "a later attempt");
        relay.restart();
        assert!(relay.asks_next() && relay.tried().is_empty(), "a later version");
        relay.plan(false);
        relay.restart();
        assert_eq!(relay, Relay::NotNeeded, "no other family any more");
    }
}
