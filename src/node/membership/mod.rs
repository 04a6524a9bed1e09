//! Membership: how this node enters its network, stays in it, and leaves it.
//!
//! [`status`] names the states; [`join`] enters through bootstraps and remembered contacts;
//! [`liveness`] pings near contacts and refreshes buckets; [`leave`] hands over and says GOODBYE.

pub(in crate::node) mod join;
pub(in crate::node) mod leave;
pub(in crate::node) mod liveness;
pub(in crate::node) mod status;
