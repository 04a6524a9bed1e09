//! A Kademlia distributed hash table that speaks the VoidPhone module API.
//!
//! Three floors stand, and one of the two hosts: the ground (keys, time, contacts, bounds, records,
//! layouts), without state
//! and without decisions; the machines, one job each and strangers to each other; and the node,
//! the only place where machines meet.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod contact;
pub mod counters;
pub mod disk;
pub mod id;
pub mod identity;
pub mod limits;
pub mod lookup;
pub mod net;
pub mod node;
pub mod pending;
pub mod record;
pub mod routing;
pub mod storage;
pub mod time;
pub mod wire;
