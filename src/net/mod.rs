//! The event loop that connects a service to the network: sockets, TLS and time, on one thread.
//!
//! [`EventLoop`] moves bytes and verifies the ids of peers. Its [`Service`] decides what a message means
//! and what to do about it. A [`Node`] is one service; the tests use another.
//!
//! # One turn of the loop
//!
//! ```text
//! 1   choose the timeout: none if work is left, else until an event or the timer of the first deadline
//! 2   poll; once more if a signal interrupts it, or if more events wait in a late turn
//! 3   now = clock.now()                                   once
//! 4   each event marks its connection; a signal begins to leave
//! 5   accept a bounded number from each listener          out of descriptors: pause, keep serving
//! 6   each connection with an event gets a small slice; then the deferred ones get larger slices, in turn, as long
//!     as there is time:
//!       read into the inbox                               TLS: socket → session → plaintext
//!       split up to its budget of work → decode in batches → service
//!       write the immediate replies                       one write for all of them
//!       input left? it is deferred: mio is edge-triggered and reports it only once
//! 7   deadlines: of connections, of the service             also what a message of this turn made due
//! 8   report failed dials, ended connections and saved batches to the service
//! 9   flush each connection with new output, a small part of it; then what is left, in the same time; if step 6
//!     took all of it, in the next turn, and input after that; wait for writability only if a socket accepts no more
//! 10  free the closed connections
//! ```
//!
//! After each call of the service, the loop performs its actions: messages go into outboxes, and step 9
//! writes them, so that all output of one turn for one connection shares a write (and TLS records). Only
//! an immediate reply to a client, with no unanswered request before it, takes a shorter path: the service
//! writes it into one shared buffer, and the loop writes that to the socket before it serves the next
//! connection. No connection is freed before step 10, so a slot identifies one connection for a whole turn.
//!
//! # Guarantees
//!
//! * A request costs one read, one write and a part of one poll. A GET that the service answers
//!   immediately allocates nothing here. Its value is copied once, a large value only by the kernel.
//! * All input has a bound (a constant beside its user, or in [`limits`](crate::limits)) and a deadline.
//!   Reading a connection ends when its slice is used up. A client that does not read its
//!   replies is not read either, and is closed after a while (`account` says when). A peer is always read. If
//!   its outbox has no room for a reply, the peer gets ERROR 429 instead, for which room is reserved; the
//!   service learns of a request that has no room.
//! * A connection that sends or gets much delays the others little, whether it sends many requests or large ones, asks
//!   for large values, or sends garbage. A slice bounds the requests, the bytes read and the bytes answered. Who takes
//!   more than a small slice is *deferred*, until it takes little again: it is served after those that are not, and
//!   all deferred ones together have a small part of each turn. Output is written in the same way, in the same time.
//!   But if the process or the host stood still, all are served before any deadline counts: the answers may have come.
//!   A request that the service has no room for stays in the inbox of its connection, which is *parked*: the
//!   connection that has waited longest is served first. GETs of records that the service may return at once need no
//!   room.
//! * Clients and peers have separate pools. A full pool refuses new connections; the node bounds the
//!   connections that it dials.
//!
//! # Non-goals
//!
//! The event loop does not decide which contact to dial, does not evaluate a HELLO, does not choose one of
//! two connections to the same peer, and does not close idle peers. The node does all of that, so that the
//! simulator covers it.

pub mod clock;
pub mod entropy;

mod account;
mod client;
mod conn;
mod connections;
mod event_loop;
mod input;
mod listener;
mod outbox;
mod output;
mod peer;
mod provider;
mod rate_limited_log;
mod resolver;
mod slice;
mod socket;
mod timer;
mod tls;
mod verifier;

#[cfg(test)]
mod loop_tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::id::{Key, NodeId, RpcId};
use crate::identity::Puzzle;
use crate::node::Node;
use crate::node::action::{Actions, ClientId, ConnId, DialError, DialId, Origin, Taken};
use crate::node::persisted::Saved;
use crate::time::{Now, Time};
use crate::wire::api::ApiRequest;
use crate::wire::frame::Frame;

pub use event_loop::{Ended, EventLoop, Helper, LoopError};
pub use listener::{BindError, Listeners};

/// The configuration of an event loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Address for clients.
    pub api_address: SocketAddr,
    /// Addresses for peers; empty if the node accepts none.
    pub p2p_addresses: Vec<SocketAddr>,
    /// An API connection without unanswered requests is closed after this time without traffic.
    pub api_idle_timeout: Duration,
    /// Maximum number of API connections.
    pub api_connections_max: usize,
    /// Maximum number of connections to peers; at the bound no more are accepted.
    pub peer_connections_max: usize,
    /// Maximum time for a graceful shutdown.
    pub leave_timeout: Duration,
    /// The puzzle that a peer's id must solve.
    pub puzzle: Puzzle,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 7401)),
            p2p_addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 7402))],
            api_idle_timeout: Duration::from_hours(1),
            api_connections_max: 1024,
            peer_connections_max: 4096,
            leave_timeout: Duration::from_secs(10),
            puzzle: Puzzle::new(12),
        }
    }
}

/// What the event loop serves: the methods of a [`Node`], whose documentation has the details.
pub trait Service {
    /// Whether the service has room for another request of any client.
    fn wants_requests(&self) -> bool;
    /// Whether it has room for another request of the client on `connection`.
    fn wants_requests_of(&self, connection: u64) -> bool;
    /// Announces requests for these keys, in this order, so that the service can load their data into
    /// the processor's cache. Has no other effect.
    fn prefetch<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        drop(keys);
    }
    /// The same once more, if the first of the requests is a PUT.
    fn prefetch_for_puts<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        drop(keys);
    }
    /// A client sent a request.
    fn on_request(&mut self, now: Now, client: ClientId, request: ApiRequest<'_>, out: &mut Actions) -> Taken;
    /// A connection to `peer` at `address` is open, and TLS has verified the peer's id.
    fn on_secured(
        &mut self,
        now: Now,
        conn: ConnId,
        peer: NodeId,
        address: SocketAddr,
        origin: Origin,
        out: &mut Actions,
    );
    /// A dial failed.
    fn on_dial_failed(&mut self, now: Now, dial: DialId, error: DialError, out: &mut Actions);
    /// A peer sent a complete message, which is not decoded yet.
    fn on_frame(&mut self, now: Now, conn: ConnId, frame: Frame<'_>, out: &mut Actions);
    /// The outbox of `conn` had no room for the request `rpc`.
    fn on_unsent(&mut self, now: Now, conn: ConnId, rpc: RpcId, out: &mut Actions);
    /// An open connection ended for another reason than an action of the service.
    fn on_closed(&mut self, now: Now, conn: ConnId, out: &mut Actions);
    /// The batch of the last save action is on disk, or could not be written.
    fn on_saved(&mut self, now: Now, saved: Saved, out: &mut Actions);
    /// The time of `next_deadline` has come.
    fn on_timeout(&mut self, now: Now, out: &mut Actions);
    /// When to call `on_timeout`.
    fn next_deadline(&self) -> Option<Time>;
    /// The process must end: the service begins to leave.
    fn leave(&mut self, now: Now, out: &mut Actions);
    /// Whether the service has left.
    fn has_left(&self) -> bool;
}

impl Service for Node {
    fn wants_requests(&self) -> bool {
        self.wants_requests()
    }

    fn wants_requests_of(&self, connection: u64) -> bool {
        self.wants_requests_of(connection)
    }

    fn prefetch<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.storage().prefetch(keys);
    }

    fn prefetch_for_puts<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.storage().prefetch_for_insertion(keys);
    }

    fn on_request(&mut self, now: Now, client: ClientId, request: ApiRequest<'_>, out: &mut Actions) -> Taken {
        self.on_request(now, client, request, out)
    }

    fn on_secured(
        &mut self,
        now: Now,
        conn: ConnId,
        peer: NodeId,
        address: SocketAddr,
        origin: Origin,
        out: &mut Actions,
    ) {
        self.on_secured(now, conn, peer, address, origin, out);
    }

    fn on_dial_failed(&mut self, now: Now, dial: DialId, error: DialError, out: &mut Actions) {
        self.on_dial_failed(now, dial, error, out);
    }

    fn on_frame(&mut self, now: Now, conn: ConnId, frame: Frame<'_>, out: &mut Actions) {
        self.on_frame(now, conn, frame, out);
    }

    fn on_unsent(&mut self, now: Now, conn: ConnId, rpc: RpcId, out: &mut Actions) {
        self.on_unsent(now, conn, rpc, out);
    }

    fn on_closed(&mut self, now: Now, conn: ConnId, out: &mut Actions) {
        self.on_closed(now, conn, out);
    }

    fn on_saved(&mut self, now: Now, saved: Saved, out: &mut Actions) {
        self.on_saved(now, saved, out);
    }

    fn on_timeout(&mut self, now: Now, out: &mut Actions) {
        self.on_timeout(now, out);
    }

    fn next_deadline(&self) -> Option<Time> {
        self.next_deadline()
    }

    fn leave(&mut self, now: Now, out: &mut Actions) {
        self.leave(now, out);
    }

    fn has_left(&self) -> bool {
        self.has_left()
    }
}
