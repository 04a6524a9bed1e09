//! Black-box tests: they start the programs of this package as processes, and talk to them over sockets.
//!
//! All of them are one binary, so that the harness in `common` and the second implementation of the
//! peer protocol in `scripted_peer` are compiled and linked once. `tests/bench.rs` is a binary of its
//! own, because it loads both cores.

mod cluster;
mod common;
mod dht_load;
mod hostile_peer;
mod scripted_peer;
mod server_api;
mod store_damage;
mod survival;
