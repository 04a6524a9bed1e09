//! Replication: records stay on the nodes that are responsible for them while nodes come and go.
//!
//! [`schedule`] decides which record is offered to which contact, and when; [`offer`] sends OFFERs, and
//! answers those of peers with a WANT; [`sync`] asks neighbours for the records that this node lacks.
//! [`copies`] counts the records in flight to other nodes, [`wanted`] those that this node has asked for.
//!
//! Replication never prolongs the life of a record, and does a bounded amount of work in a turn.

pub(crate) mod copies;
pub(crate) mod offer;
pub(crate) mod schedule;
pub(crate) mod sync;
pub(crate) mod wanted;
