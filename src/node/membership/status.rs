//! How a node stands to its network. It comes in by `joining` and goes by `leaving`.

use crate::node::Node;

/// How a node stands to its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It knows nobody who answers.
    Joining,
    /// Somebody has answered; it learns from its neighbours what it missed.
    Settling,
    /// It takes part: what it holds in scope, it is responsible for.
    Settled,
    /// It answers what it owes, hands over what few hold, and then goes.
    Leaving,
    /// It has gone.
    Left,
}

impl Node {
    /// Whether it takes part: what it holds in scope, it is responsible for.
    pub(in crate::node) fn is_settled(&self) -> bool {
        self.upkeep.status == Status::Settled
    }

    /// Whether somebody has answered: it can ask others, whether it has settled or not.
    pub(in crate::node) fn has_joined(&self) -> bool {
        matches!(self.upkeep.status, Status::Settling | Status::Settled)
    }

    /// Whether it is leaving, or has left.
    pub(in crate::node) fn is_leaving(&self) -> bool {
        matches!(self.upkeep.status, Status::Leaving | Status::Left)
    }
}
