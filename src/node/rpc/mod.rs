//! Requests between nodes, in both directions, and the connections that carry them.
//!
//! [`outbound`] sends requests to peers and passes each reply, failure and timeout back to the part of the
//! node that asked; [`waiting`] holds those that have no room yet; [`inbound`] serves the requests of peers;
//! [`peers`] owns the connections and dials; [`rtt`] estimates how quickly each peer replies; [`families`] knows
//! which address families they can dial, and [`bridges`] which nodes pass records on between them.

pub(crate) mod bridges;
pub(crate) mod families;
pub(crate) mod inbound;
pub(crate) mod outbound;
pub(crate) mod peers;
pub(crate) mod rtt;
pub(crate) mod waiting;
