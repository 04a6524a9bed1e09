//! Networks of real `dht-server` processes that are killed, stopped and started again: what they
//! promised to keep is there.
//!
//! A [`Home`] is where a node lives: its ports and its directory outlast its processes. Load is
//! a number of [`Writer`]s, each with keys of its own, whose values count upwards: what is read
//! later must be the last value that was confirmed, or a later one. Nothing waits for time to
//! pass: whoever kills waits until enough was confirmed in between.

mod homes;
mod kills;
mod lone_node;
mod rejoin;
mod restarts;
mod writers;
