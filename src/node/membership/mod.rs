//! Membership: how this node joins its network, stays in it, and leaves it.
//!
//! [`crate::node::status`] names the states. [`join`] joins through bootstraps and remembered contacts;
//! [`liveness`] pings near contacts and refreshes buckets; [`sleep`] and [`clock`] notice that this process did not
//! run, and that its wall clock is wrong; [`leave`] hands records over and says GOODBYE. [`address_book`] has the
//! contacts that are not in the routing table; [`alone`] finds out whether this node is the only one that runs, and
//! [`dialled`] whether others can dial it.

pub(crate) mod address_book;
pub(crate) mod alone;
pub(crate) mod clock;
pub(crate) mod dialled;
pub(crate) mod join;
pub(crate) mod leave;
pub(crate) mod liveness;
pub(crate) mod sleep;
