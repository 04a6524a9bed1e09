//! The real host of a service: sockets, TLS and time, on one thread.
//!
//! [`EventLoop`] moves bytes and proves ids; whatever a message means, and what follows from it,
//! is decided by its [`Service`]. A node is one; an echo or a gossip module would be others.
//!
//! # One turn of the loop
//!
//! ```text
//! 1   until something happens, or not at all if anything is left to do; an alarm rings by the first deadline
//! 2   poll; interrupted → go on
//! 3   now = clock.now()                                   once
//! 4   each event marks its connection; a signal → leave
//! 5   accept, so many from each listener                  out of descriptors: pause, keep serving
//! 6   each ready connection, round robin:
//!       read so many bytes into its inbox                 TLS: socket → session → plaintext, until dry
//!       split so many frames → decode, some at a time → service
//!       write the answers that came at once           one write for all of them
//!       not dry? it stays ready: mio is edge-triggered, nobody will remind us
//! 7   deadlines: of connections, of the service
//! 8   tell the service what became of its dials and of connections that ended
//! 9   flush each touched connection, once; ask to be told of room only if something is left
//! 10  free what is over
//! ```
//!
//! After every verb its actions are performed: messages go into outboxes, and step 9 writes them,
//! so that all that one turn has for one connection shares a write (and TLS records). Only what a
//! client is answered at once, with nothing owed before it, takes a shorter way: into one buffer
//! that is lent to the service, and from there to the socket before the next connection. Nothing is
//! freed before step 10, so a slot means one connection for a whole turn.
//!
//! # Laws
//!
//! * One read, one write and a share of one poll serve a request; a GET that the service answers
//!   at once allocates nothing here, and its value is copied once; a large one by the kernel alone.
//! * Whatever comes from outside has a bound in [`limits`](crate::limits) and a deadline: reading
//!   a connection ends at its budget of a turn, an API connection that does not read its answers
//!   is not read from either, and a peer's outbox at its bound drops and counts.
//! * The pools of clients and peers are separate. A full pool closes its door to strangers; what
//!   the node dials itself is bounded by the node.
//!
//! What this does not do: decide whom to dial, judge a HELLO, keep one of two connections to one
//! peer, close idle peers. All that is the node's, so that the simulator sees it.

pub mod clock;
pub mod entropy;

mod alarm;
mod client;
mod conn;
mod connections;
mod event_loop;
mod input;
mod listener;
mod names;
mod outbox;
mod output;
mod peer;
mod provider;
mod rate_limited_log;
mod socket;
mod tls;
mod verifier;

#[cfg(test)]
mod loop_tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::id::{Key, NodeId};
use crate::identity::Puzzle;
use crate::node::Node;
use crate::node::action::{Actions, ClientId, ConnId, DialError, DialId, Origin};
use crate::node::persisted::Saved;
use crate::time::{Now, Time};
use crate::wire::api::ApiRequest;
use crate::wire::frame::Frame;

pub use event_loop::{Ended, EventLoop, Helper, LoopError};
pub use listener::{BindError, Listeners};

/// What a user may set of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where modules connect.
    pub api_address: SocketAddr,
    /// Where peers connect; none, if nobody shall.
    pub p2p_addresses: Vec<SocketAddr>,
    /// An API connection that is owed nothing is closed after so long a silence.
    pub api_idle_timeout: Duration,
    /// API connections at once.
    pub api_connections_max: usize,
    /// Connections to peers at once, before no more are accepted.
    pub peer_connections_max: usize,
    /// From the wish to stop to the end.
    pub leave_timeout: Duration,
    /// What a peer's id must solve.
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

/// What the loop serves: the verbs of a [`Node`], which says more about each.
pub trait Service {
    /// Whether another request of a client is welcome; if not, no API connection is read.
    fn wants_requests(&self) -> bool;
    /// Requests for these keys are about to come, in this order: what it takes to answer them may be
    /// brought near. Nothing else follows from it.
    fn foresee<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        drop(keys);
    }
    /// A client asks.
    fn on_request(&mut self, now: Now, client: ClientId, request: ApiRequest<'_>, out: &mut Actions);
    /// A connection to `peer`, seen at `address`, is open; its id is proven.
    fn on_secured(
        &mut self,
        now: Now,
        conn: ConnId,
        peer: NodeId,
        address: SocketAddr,
        origin: Origin,
        out: &mut Actions,
    );
    /// No connection came of a dial.
    fn on_dial_failed(&mut self, now: Now, dial: DialId, error: DialError, out: &mut Actions);
    /// A whole message arrived from a peer, which is not decoded.
    fn on_frame(&mut self, now: Now, conn: ConnId, frame: Frame<'_>, out: &mut Actions);
    /// A connection that was open ended otherwise than by an action.
    fn on_closed(&mut self, now: Now, conn: ConnId, out: &mut Actions);
    /// The batch that was wanted saved is on disk, or is not.
    fn on_saved(&mut self, now: Now, saved: Saved, out: &mut Actions);
    /// The moment of `next_deadline` has come.
    fn on_timeout(&mut self, now: Now, out: &mut Actions);
    /// When `on_timeout` must be called.
    fn next_deadline(&self) -> Option<Time>;
    /// The process wants to end.
    fn leave(&mut self, now: Now, out: &mut Actions);
    /// Whether the service is ready for that.
    fn has_left(&self) -> bool;
}

impl Service for Node {
    fn wants_requests(&self) -> bool {
        self.wants_requests()
    }

    fn foresee<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.storage().bring_near(keys);
    }

    fn on_request(&mut self, now: Now, client: ClientId, request: ApiRequest<'_>, out: &mut Actions) {
        self.on_request(now, client, request, out);
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
