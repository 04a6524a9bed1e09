//! Membership status: Joining → Settling → Settled → Leaving → Left, and what follows from it for
//! the requests of clients.
//!
//! [`crate::node::membership`] changes the status; every other part reads it.

use crate::time::Time;

/// How far a node has come with its membership in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No contact answers.
    Joining,
    /// A contact has answered; the node learns from its neighbours what it missed.
    Settling,
    /// It takes part: it is responsible for what it stores in scope.
    Settled,
    /// It answers what it owes, hands over what few others store, and then leaves.
    Leaving,
    /// It has left.
    Left,
}

impl Status {
    /// Whether it takes part in the network.
    pub fn is_settled(self) -> bool {
        self == Status::Settled
    }

    /// Whether it can ask others, settled or not.
    pub fn has_joined(self) -> bool {
        matches!(self, Status::Settling | Status::Settled)
    }

    /// Whether it is leaving, or has left.
    pub fn is_leaving(self) -> bool {
        matches!(self, Status::Leaving | Status::Left)
    }
}

/// What a node may do for a client at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The node has just started and no contact has answered yet. What it stores is of an earlier
    /// run and may be old, so GETs wait until that moment at most.
    Starting {
        /// The end of that patience.
        until: Time,
    },
    /// No contact answers. PUTs wait; GETs are answered with what is stored here.
    Isolated,
    /// No contact answers, and there is no other node to join through: this node is the network.
    Alone,
    /// Contacts answer; what is stored here may be old.
    Settling,
    /// The node answers for what it stores in scope.
    Settled,
    /// The node leaves: nobody answers for it any more.
    Leaving,
}

impl Access {
    /// Whether requests wait until a contact answers.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Access::Starting { .. } | Access::Isolated)
    }
}
