//! A node in isolation: the test scripts its peers, its clock and its disk.
//!
//! Each test calls the public verbs of [`dht::node::Node`], moves the clock by hand, and reads the node's
//! actions. A [`harness::Harness`] has one node and scripted peers; a [`mini_network::MiniNetwork`]
//! connects several real nodes directly. Networks of many nodes with loss and churn belong to the
//! simulator.
//!
//! Sections cited are those of `PROTOCOL.md`, unless a paper is named.

mod clock;
mod clock_restart;
mod dialled;
mod duplicate_connections;
mod durability;
mod failures;
mod families;
mod get;
mod handshake;
mod harness;
mod inbound_store;
mod interval;
mod invariants;
mod join;
mod last_node;
mod leave;
mod lookup_pacing;
mod mini_network;
mod missed;
mod offer;
mod old_tombstones;
mod outbound_rpc;
mod peer_clocks;
mod persisted_contacts;
mod put;
mod put_retry;
mod put_stale_replicas;
mod put_turns;
mod read_quorum;
mod shared_get;
mod signed;
mod silence;
mod sleep;
mod storage_full;
mod sync;
mod unsettled;
mod unverified;
mod waiting;
