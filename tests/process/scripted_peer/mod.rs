//! A second implementation of `PROTOCOL.md` 2 and 5. It shares no code with `src/`, so that a fault of
//! one is not repeated in the other.

pub(crate) mod connection;
pub(crate) mod message;
pub(crate) mod neighbour;
pub(crate) mod tls;
