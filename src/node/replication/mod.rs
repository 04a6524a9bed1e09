//! Replication: records stay on the nodes that are responsible for them while nodes come and go.
//!
//! [`schedule`] decides which record is offered to which contact, and when; [`offer`] sends OFFERs
//! and answers those of peers by WANT; [`sync`] asks neighbours what this node has missed. [`copies`]
//! knows the records on their way to other nodes, [`wanted`] those on their way to this one.

pub(crate) mod copies;
pub(crate) mod offer;
pub(crate) mod schedule;
pub(crate) mod sync;
pub(crate) mod wanted;
