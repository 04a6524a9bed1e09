//! A Kademlia distributed hash table that speaks the VoidPhone module API.
//!
//! Two floors stand: the ground (keys, time, contacts, bounds, records, layouts), without state and
//! without decisions; and the machines, one job each and strangers to each other.

#![forbid(unsafe_code)]

pub mod contact;
pub mod counters;
pub mod id;
pub mod limits;
pub mod lookup;
pub mod pending;
pub mod record;
pub mod routing;
pub mod storage;
pub mod time;
pub mod wire;
