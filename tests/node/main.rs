//! The pure node against scripted, hostile and precisely timed counterparts.
//!
//! Each test drives [`dht::node::Node`] through its public verbs, with time made by hand, and
//! reads what it wants done. A [`harness::Harness`] has one node and peers that say what the test
//! lets them say; a [`mini_network::MiniNetwork`] has several real nodes, back to back. Worlds of many
//! nodes, loss and churn are the simulator's.
//!
//! Sections cited are those of `PROTOCOL.md`, unless a paper is named.

mod duplicate_connections;
mod durability;
mod failures;
mod get;
mod handshake;
mod harness;
mod inbound_store;
mod invariants;
mod join;
mod leave;
mod lookup_pacing;
mod mini_network;
mod offer;
mod outbound_rpc;
mod put;
mod put_retry;
mod put_stale_replicas;
mod read_quorum;
mod signed;
mod storage_full;
mod sync;
