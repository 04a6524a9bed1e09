//! A second implementation of `PROTOCOL.md` 2 and 5, which shares no code with `src/`: what one of
//! them misreads, the other does not.

pub(crate) mod connection;
pub(crate) mod message;
pub(crate) mod neighbour;
pub(crate) mod tls;
