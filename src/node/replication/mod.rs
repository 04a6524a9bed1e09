//! Replication: records stay on the nodes that are responsible for them while nodes come and go.
//!
//! [`schedule`] decides which record is offered to which contact, and when; [`offer`] carries out
//! OFFER, WANT and the copies that follow; [`sync`] asks neighbours what this node has missed.

pub(in crate::node) mod offer;
pub(in crate::node) mod schedule;
pub(in crate::node) mod sync;
