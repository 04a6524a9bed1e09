//! The purpose of a request to a peer, and its outcome.
//!
//! [`Purpose`] names the part of the node that sends the request. That part gets exactly one final
//! [`Outcome`] for each request, and one more [`Outcome::Reply`] if the peer answers after a final outcome
//! that was no reply. Ids are never reused.

use std::net::SocketAddr;

use crate::contact::Family;
use crate::id::Key;
use crate::pending::Passed;
use crate::wire::peer::{ErrorCode, Reply};

/// Identifies a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueryId(pub(crate) u64);

/// Identifies an attempt of a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    /// The PUT.
    pub(crate) query: QueryId,
    /// The number of the attempt.
    pub(crate) number: u32,
}

/// Identifies a read repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RepairId(pub(crate) u64);

/// Identifies an OFFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OfferId(pub(crate) u64);

/// Why this node sends a request to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The next step of a lookup: FIND VALUE for GETs and PUTs, FIND NODE for maintenance. A PUT learns
    /// from the replies which nodes store an older record.
    Lookup(QueryId),
    /// A GET fetches the value of a head that the peer has sent.
    Fetch(QueryId),
    /// An attempt of a PUT asks a close node that gets no copy which version it stores.
    ProbeVersion(Attempt),
    /// A PUT went on without this node: which version of the key does it store?
    AskVersion(Key),
    /// An attempt of a PUT asks a bridge to store its record in that address family.
    Relay(Attempt, Family),
    /// This node sends a copy of a record (STORE).
    Copy(Copied),
    /// Membership checks that the peer is alive.
    Ping,
    /// Membership compares the wall clock of the peer with its own.
    AskTime,
    /// Replication asks which of the offered records the peer lacks.
    Offer(OfferId),
    /// This node catches up: it asks which records the peer stores, from this key on.
    Sync(Key),
    /// This node fetches a record that it lacks and the peer stores.
    FetchMissing(Key),
}

/// Which record is copied to a peer, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// The record of a PUT, in this attempt.
    Put(Attempt),
    /// The winner of a GET, to a replica with an older record.
    Repair(RepairId),
    /// The record that this node stores, to a peer that lacks it.
    HandOver(Key),
}

/// What happened to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// The peer sent a reply of the expected type; possibly after another final outcome.
    Reply {
        /// The reply.
        reply: Reply<'a>,
        /// The address of the peer.
        address: SocketAddr,
    },
    /// This deadline has passed without a reply. `Timeout` is final, and so is `GiveUp` if another peer
    /// replaces this one; `Hedge` is not.
    Passed(Passed),
    /// The peer has refused the request.
    Refused(ErrorCode),
    /// No reply will come: the peer sent another message, or cannot be reached.
    Failed,
}
