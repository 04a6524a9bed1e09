//! The records of this node: which it accepts, and which survive a restart.
//!
//! [`accept`] is the one way into the storage; [`aside`] holds records that the wall clock makes doubtful;
//! [`verification`] verifies those of an earlier run; [`changes`] collects the keys that have changed, and
//! [`persistence`] passes them to the disk of the host, in the form of [`crate::node::persisted`]; [`hung_disk`] answers
//! those that wait for a disk that hangs. [`packs`] turns tombstones old, and passes them on together. [`dropped`] logs
//! the tombstones for which there was no room; [`missed`] remembers newer records that this node has refused.

pub(crate) mod accept;
pub(crate) mod aside;
pub(crate) mod changes;
pub(crate) mod dropped;
pub(crate) mod hung_disk;
pub(crate) mod missed;
pub(crate) mod packs;
pub(crate) mod persistence;
pub(crate) mod verification;
