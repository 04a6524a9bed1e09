//! What a run is told by: its figures, and the digest of its events.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::counters::NodeCounters;
use crate::sim::Number;
use crate::time::Time;

/// What a world has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events, whatever their kind.
    pub events: u64,
    /// Messages sent between nodes.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that did not arrive.
    pub messages_lost: u64,
    /// Connections wanted.
    pub dials: u64,
    /// Connections made.
    pub connections_made: u64,
    /// Connections that are open at one end at least.
    pub connections: u64,
    /// GETs that were answered with an older value than one before, through the same life of the
    /// same node.
    pub reads_back: u64,
    /// What the nodes that live have counted, added up.
    pub nodes: NodeCounters,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "events {}", self.events)?;
        writeln!(f, "messages {} lost {} bytes {}", self.messages, self.messages_lost, self.bytes)?;
        writeln!(f, "dials {} connections {} open {}", self.dials, self.connections_made, self.connections)?;
        let NodeCounters { rpcs_sent, rpcs_served, rpcs_silent, gets_found, gets_local, gets_hops, .. } = self.nodes;
        writeln!(f, "rpcs {rpcs_sent} served {rpcs_served} silent {rpcs_silent}")?;
        let asked = gets_found.saturating_sub(gets_local);
        let tenths = (10 * gets_hops).checked_div(asked).unwrap_or(0);
        writeln!(f, "hops {}.{} on the way of each of {asked} GETs", tenths / 10, tenths % 10)?;
        writeln!(f, "older values after newer ones {}", self.reads_back)
    }
}

/// What kind an event is, as the digest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Born = 1,
    Killed,
    Woken,
    Asked,
    Answered,
    Dialled,
    DialFailed,
    Accepted,
    Received,
    Closed,
    Saved,
    SaveFailed,
}

/// SHA-256 over all events of a run, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    hasher: Sha256,
}

impl Log {
    /// Adds an event: when, what, at which node, and the bytes that came with it.
    pub(super) fn add(&mut self, at: Time, kind: Kind, node: Number, bytes: &[u8]) {
        let mut line = [0; 21];
        line[..8].copy_from_slice(&at.as_nanos().to_be_bytes());
        line[8] = kind as u8;
        line[9..13].copy_from_slice(&node.0.to_be_bytes());
        line[13..17].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        line[17..].copy_from_slice(&crc32fast::hash(bytes).to_be_bytes());
        self.hasher.update(line);
    }

    /// The digest of all events so far, as 64 hex digits.
    pub(super) fn digest(&self) -> String {
        let digest = self.hasher.clone().finalize();
        crate::id::Key::new(digest.into()).to_string()
    }
}
