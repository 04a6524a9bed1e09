//! Membership status: Joining → Settling → Settled → Leaving → Left, and what it allows for the requests
//! of clients. A node that loses all contacts goes back to Joining.
//!
//! [`crate::node::membership`] changes the status; every other part only reads it.

use crate::time::Time;

/// The membership status of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No contact answers.
    Joining,
    /// A contact has answered. The node fetches the records that it missed from its neighbours.
    Settling,
    /// The node is a full member: it is responsible for the records in its scope.
    Settled,
    /// The node answers the requests in flight, hands over records that have few replicas, and then
    /// leaves.
    Leaving,
    /// The node has left.
    Left,
}

impl Status {
    /// Whether the node is a full member.
    pub fn is_settled(self) -> bool {
        self == Status::Settled
    }

    /// Whether a contact has answered, so that the node can send requests.
    pub fn has_joined(self) -> bool {
        matches!(self, Status::Settling | Status::Settled)
    }

    /// Whether the node is leaving, or has left.
    pub fn is_leaving(self) -> bool {
        matches!(self, Status::Leaving | Status::Left)
    }
}

/// What a node can do for a client at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The node has just started, and no contact has answered yet. The records that it stores are from an
    /// earlier run and may be old. So requests wait for a contact.
    Starting {
        /// The moment from which GETs no longer wait.
        until: Time,
    },
    /// No contact answers. PUTs wait; GETs are answered from the storage of this node.
    Isolated,
    /// No contact answers, and none is known or the known ones have stopped: this node is the whole network.
    Alone,
    /// Contacts answer; the records that this node stores may be old.
    Settling,
    /// The node is responsible for the records that it stores in its scope.
    Settled,
    /// The node is leaving: it answers GETs from its storage.
    Leaving,
}

impl Access {
    /// Whether requests wait until a contact answers.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Access::Starting { .. } | Access::Isolated)
    }
}
