//! A Kademlia distributed hash table that speaks the VoidPhone module API.
//!
//! The ground of the house: keys and distances, time as an argument, contacts, bounds, records
//! and the layouts of all messages. No state, no decisions.

#![forbid(unsafe_code)]

pub mod contact;
pub mod counters;
pub mod id;
pub mod limits;
pub mod record;
pub mod time;
pub mod wire;
