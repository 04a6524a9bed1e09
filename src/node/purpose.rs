//! What a request to a peer is for, and how it ends.
//!
//! [`Purpose`] names the part of the node that asks; each part gets exactly one final [`Outcome`]
//! for each of its requests, and a late [`Outcome::Reply`] where the peer answers after that. Ids
//! are never used twice.

use std::net::SocketAddr;

use crate::id::Key;
use crate::wire::peer::Reply;

/// Names a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueryId(pub(crate) u64);

/// Names a read repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RepairId(pub(crate) u64);

/// Names an OFFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OfferId(pub(crate) u64);

/// What a peer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The next step of a lookup. FIND VALUE for a GET, and for a PUT to learn who stores an older
    /// record; FIND NODE for the others.
    Lookup(QueryId),
    /// The value whose head the peer has told a GET.
    Fetch(QueryId),
    /// The version of the record that a close node stores which gets no copy of a PUT, in the
    /// attempt of that number.
    ProbeVersion(QueryId, u32),
    /// Storing a copy of a record.
    Copy(Copied),
    /// A sign of life.
    Ping,
    /// Which of the records that it is offered it lacks.
    Offer(OfferId),
    /// What it stores, from that key on.
    Sync(Key),
    /// A record that it stores and this node lacks.
    FetchMissing(Key),
}

/// Which record is copied to a peer, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// The record of a PUT, in the attempt of that number.
    Put(QueryId, u32),
    /// The winner of a GET, to a replica that was behind.
    Repair(RepairId),
    /// What this node stores of the key, to a peer that lacks it.
    HandOver(Key),
}

/// What has become of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// The peer answered with a message that answers the purpose; maybe after the request had ended.
    Reply {
        /// The message.
        reply: Reply<'a>,
        /// Where the peer sits.
        address: SocketAddr,
    },
    /// The reply takes longer than usual; it is still awaited.
    Slow,
    /// The reply takes so long that the part that asked goes on without it.
    Overdue,
    /// Nothing came for `rpc_timeout`.
    TimedOut,
    /// No reply will come: the peer refused, sent something else, or cannot be reached.
    Failed,
}
