//! The records of this node: what it accepts, and what survives a restart.
//!
//! `accept` is the one way into the storage; `persistence` queues changed keys for the disk of
//! the host; [`persisted`] is the form in which the host stores them.

pub(in crate::node) mod accept;
pub mod persisted;
pub(in crate::node) mod persistence;
