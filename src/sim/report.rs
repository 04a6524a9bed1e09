//! The result of a run: its figures and the digest of its events.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::counters::NodeCounters;
use crate::sim::Number;
use crate::time::Time;

/// The counters of a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events at nodes.
    pub events: u64,
    /// Messages sent between nodes.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that did not arrive.
    pub messages_lost: u64,
    /// Dials.
    pub dials: u64,
    /// Dials that led to a connection.
    pub connections_made: u64,
    /// Connections that are open at one end or both.
    pub connections: u64,
    /// GETs that returned an older value than an earlier GET through the same incarnation of the same node.
    pub stale_reads: u64,
    /// The sum of the counters of all nodes, including stopped ones.
    pub nodes: NodeCounters,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "events {}", self.events)?;
        writeln!(f, "messages {} lost {} bytes {}", self.messages, self.messages_lost, self.bytes)?;
        writeln!(f, "dials {} connections {} open {}", self.dials, self.connections_made, self.connections)?;
        let NodeCounters { rpcs_sent, rpcs_served, rpcs_silent, gets_found, gets_local, gets_hops, .. } = self.nodes;
        writeln!(f, "rpcs {rpcs_sent} served {rpcs_served} silent {rpcs_silent}")?;
        let lookups = gets_found.saturating_sub(gets_local);
        let tenths = (10 * gets_hops).checked_div(lookups).unwrap_or(0);
        writeln!(f, "hops {}.{} on the way of each of {lookups} GETs", tenths / 10, tenths % 10)?;
        writeln!(f, "older values after newer ones {}", self.stale_reads)
    }
}

/// The kind of an event in the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    Started = 1,
    Killed,
    Woken,
    Requested,
    Answered,
    Dialled,
    DialFailed,
    Accepted,
    Received,
    Closed,
    Saved,
    SaveFailed,
}

/// A SHA-256 digest over all events of a run, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct EventDigest {
    hasher: Sha256,
}

impl EventDigest {
    /// Adds an event at a node, with the bytes that belong to it.
    pub(super) fn add(&mut self, at: Time, kind: EventKind, node: Number, bytes: &[u8]) {
        let mut line = [0; 21];
        line[..8].copy_from_slice(&at.as_nanos().to_be_bytes());
        line[8] = kind as u8;
        line[9..13].copy_from_slice(&node.0.to_be_bytes());
        line[13..17].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        line[17..].copy_from_slice(&crc32fast::hash(bytes).to_be_bytes());
        self.hasher.update(line);
    }

    /// The digest of all events so far, as 64 hex digits.
    pub(super) fn hex(&self) -> String {
        let digest = self.hasher.clone().finalize();
        crate::id::Key::new(digest.into()).to_string()
    }
}
