//! Networks of real `dht-server` processes that are killed, stopped and started again: every confirmed
//! value must survive.
//!
//! The ports and the directory of a node outlast its processes: its [`homes::Home`]. The load is several
//! [`writers::Writer`]s with separate keys, whose values count upwards: a later read must return the last
//! confirmed value or a later one. Tests wait for events, not for time: before each kill a test waits for
//! a number of confirmations.

mod homes;
mod kills;
mod last_node;
mod lone_node;
mod rejoin;
mod restarts;
mod writers;
