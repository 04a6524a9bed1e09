//! One connection: its socket, its phase and its deadline.
//!
//! ```text
//! dialled   Connecting ─► Handshaking ─► Open ─► Draining ─► Lingering ─► Closed
//! accepted                Handshaking ─► Open ─► Draining ─► Lingering ─► Closed
//! client                                 Open ─► Draining ─► Lingering ─► Closed
//! ```
//!
//! A connection can go from any phase to *Closed* directly: the other side is gone, or a deadline has
//! passed. The node knows a connection to a peer exactly while it is *Open*.
//!
//! *Draining*: the connection is not read any more; replies that arrive later and all output are still
//! written. *Lingering*: the end is announced, and further input is discarded. The kernel resets a socket
//! that is closed with unread input, and then the other side would lose the output that it has not read.
//!
//! Guarantee: nothing here calls the service or changes another connection.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::Interest;
use mio::net::TcpStream;

use crate::limits::{CLIENT_BUFFER_KEPT_MAX, DIAL_TIMEOUT, VALUES_SHARED_MAX};
use crate::net::account::{PROGRESS_MIN, UNREAD_TIMEOUT, Usage};
use crate::net::client::Client;
use crate::net::listener::Pool;
use crate::net::outbox;
use crate::net::peer::{Peer, Written};
use crate::net::socket::Socket;
use crate::net::tls::TlsFault;
use crate::node::replies::Answers;
use crate::time::Time;
use crate::wire::codec::WireError;

/// From the TCP connection to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// From the first byte of a message to its last byte.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// From the decision to close a connection to the last byte of its output.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for the other side to notice the announced end. Until then its input is read and discarded: the
/// kernel answers unread bytes with a reset, which would also delete the output that the other side has
/// not read yet.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// The phase of a connection: see the documentation of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TCP is connecting.
    Connecting,
    /// TLS is shaking hands.
    Handshaking,
    /// Messages are exchanged.
    Open,
    /// The last output is written.
    Draining,
    /// The other side gets time to read the last output.
    Lingering,
    /// The connection is freed at the end of this turn.
    Closed,
}

/// The other side of a connection.
pub(super) enum Side {
    /// A client of the API.
    Client(Client),
    /// Another node.
    Peer(Box<Peer>),
}

/// What is known about unread bytes of a socket. mio reports a change only once, at the edge.
///
/// The order matters: an event never resets a later state to an earlier one, only a read does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Incoming {
    /// No bytes until the next event.
    Drained,
    /// There may be bytes. A read that does not fill its buffer has drained the socket.
    Ready,
    /// There may be bytes, and then the end or an error, so reads continue until that is seen.
    Ending,
    /// The end was read.
    Ended,
}

/// Why a connection is queued by [`Connections`](crate::net::connections::Connections).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// It is not queued.
    No,
    /// It will be served.
    Ready,
    /// It will be served when the service wants requests again.
    Parked,
    /// It will be served when there is room for its further answers. It is in no queue: its next answer, or the
    /// flush of its outbox, queues it.
    Full,
}

/// Whether a connection is served after the others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deferred {
    /// Its last slice of input took long, or input was left, or its input is discarded.
    pub(super) input: bool,
    /// Output was left when it was last flushed, or it is closed after its output.
    pub(super) output: bool,
}

/// The bytes in an inbox for which the other side must send the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partial {
    /// No incomplete message.
    No,
    /// The same incomplete message as before, possibly with more bytes.
    Same,
    /// Another incomplete message.
    New,
}

/// The state of a connection.
pub(super) struct ConnectionInfo {
    /// Contains the slot of the connection. Each id is used once.
    pub(super) id: u64,
    pub(super) socket: Socket,
    pub(super) address: SocketAddr,
    pub(super) side: Side,
    pub(super) phase: Phase,
    pub(super) incoming: Incoming,
    pub(super) deferred: Deferred,
    pub(super) queued: Queued,
    /// Whether it is queued for a flush.
    pub(super) flush_queued: bool,
    /// Whether input was discarded. Then the other side needs time to notice the end.
    pub(super) discarded: bool,
    /// Input that was read (and decrypted) but not processed yet.
    pub(super) inbox: Vec<u8>,
    /// The events that mio reports.
    pub(super) interest: Interest,
    /// The time of its entry in the queue of deadlines.
    pub(super) scheduled: Option<Time>,
    /// When the phase began.
    since: Time,
    /// When bytes were last read or written.
    active: Time,
    /// When the incomplete message in the inbox began.
    frame_since: Option<Time>,
}

impl ConnectionInfo {
    /// The connection `id` to `address`. A dialled peer is registered for reading and writing, all others
    /// for reading.
    pub(super) fn new(id: u64, stream: TcpStream, address: SocketAddr, side: Side, now: Time) -> Self {
        let (phase, interest) = match &side {
            Side::Client(_) => (Phase::Open, Interest::READABLE),
            Side::Peer(peer) if peer.dial.is_some() => (Phase::Connecting, Interest::READABLE | Interest::WRITABLE),
            Side::Peer(_) => (Phase::Handshaking, Interest::READABLE),
        };
        Self {
            id,
            socket: Socket { stream },
            address,
            side,
            phase,
            incoming: Incoming::Drained,
            deferred: Deferred::default(),
            queued: Queued::No,
            flush_queued: false,
            discarded: false,
            inbox: Vec::new(),
            interest,
            scheduled: None,
            since: now,
            active: now,
            frame_since: None,
        }
    }

    /// The pool that it counts in.
    pub(super) fn pool(&self) -> Pool {
        match self.side {
            Side::Client(_) => Pool::Clients,
            Side::Peer(_) => Pool::Peers,
        }
    }

    /// The client of this connection.
    ///
    /// # Panics
    ///
    /// If the other side is a peer.
    pub(super) fn client(&mut self) -> &mut Client {
        match &mut self.side {
            Side::Client(client) => client,
            Side::Peer(_) => unreachable!("only clients send requests"),
        }
    }

    /// Enters `phase`.
    pub(super) fn enter(&mut self, phase: Phase, now: Time) {
        assert!(self.phase != Phase::Closed, "a closed connection stays closed");
        self.phase = phase;
        self.since = now;
        self.frame_since = None;
        if matches!(phase, Phase::Draining | Phase::Lingering | Phase::Closed) {
            self.discarded |= !self.inbox.is_empty();
            outbox::empty(&mut self.inbox, CLIENT_BUFFER_KEPT_MAX);
        }
    }

    /// Notes an event of the socket.
    pub(super) fn mark(&mut self, incoming: Incoming) {
        self.incoming = self.incoming.max(incoming);
    }

    /// Whether the socket may have unread bytes.
    pub(super) fn is_readable(&self) -> bool {
        matches!(self.incoming, Incoming::Ready | Incoming::Ending)
    }

    /// Reads once into `buffer` and returns the number of bytes. 0 means no bytes for now or the end:
    /// `incoming` tells which.
    pub(super) fn read(&mut self, buffer: &mut [u8], now: Time) -> io::Result<usize> {
        let len = match self.socket.read(buffer) {
            Ok(0) => {
                self.incoming = Incoming::Ended;
                return Ok(0);
            }
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.incoming = Incoming::Drained;
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        if len < buffer.len() && self.incoming == Incoming::Ready {
            self.incoming = Incoming::Drained; // the next byte causes an event: this saves one read
        }
        self.active = now;
        Ok(len)
    }

    /// Writes immediate replies to the socket; returns the number of bytes that were written. The outbox
    /// must be empty.
    pub(super) fn write_replies(&mut self, replies: &Answers, now: Time) -> io::Result<usize> {
        let written = match replies.in_one() {
            Some(bytes) => self.socket.write(bytes),
            None => write_parts(&mut self.socket, replies),
        };
        match written {
            Ok(len) => {
                self.active = now;
                Ok(len)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Writes the output of this connection, about `share` bytes at most.
    pub(super) fn write(&mut self, share: usize, now: Time) -> io::Result<Written> {
        let client = match &mut self.side {
            Side::Peer(peer) => return peer.write(&mut self.socket, share),
            Side::Client(client) => client,
        };
        let unsent = client.outbox().unsent();
        if unsent.is_empty() {
            return Ok(Written::All);
        }
        let part = &unsent[..unsent.len().min(share)];
        let wanted = part.len();
        let len = match self.socket.write(part) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if len > 0 {
            self.active = now;
            client.outbox().advance(len);
        }
        let is_blocked = len < wanted;
        client.note_accepted(len, is_blocked, now);
        Ok(if is_blocked {
            Written::Blocked
        } else if client.outbox().is_empty() {
            Written::All
        } else {
            Written::Part
        })
    }

    /// Whether TCP has connected.
    pub(super) fn has_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.stream.take_error()? {
            return Err(error);
        }
        match self.socket.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether all replies have arrived and all output is written.
    pub(super) fn is_done(&self) -> bool {
        match &self.side {
            Side::Client(client) => client.is_done(),
            Side::Peer(peer) => !peer.wants_write(),
        }
    }

    /// Discards input: one read. Returns whether the socket can be closed without a reset: the other side has ended
    /// too, or no input was discarded.
    pub(super) fn discard(&mut self, buffer: &mut [u8], now: Time) -> io::Result<bool> {
        if self.read(buffer, now)? > 0 {
            self.discarded = true;
            return Ok(false);
        }
        Ok(self.incoming == Incoming::Ended || !self.discarded)
    }

    /// Notes what is left in the inbox.
    pub(super) fn note_partial(&mut self, partial: Partial, now: Time) {
        self.frame_since = match partial {
            Partial::No => None,
            Partial::Same => self.frame_since.or(Some(now)),
            Partial::New => Some(now),
        };
    }

    /// What a client holds.
    pub(super) fn usage(&self) -> Usage {
        match &self.side {
            Side::Client(client) => Usage { input: self.inbox.capacity(), ..client.usage() },
            Side::Peer(_) => Usage::default(),
        }
    }

    /// When a client that is behind last made progress.
    pub(super) fn behind_since(&self) -> Option<Time> {
        match (self.phase, &self.side) {
            (Phase::Open | Phase::Draining, Side::Client(client)) => client.behind_since(),
            _ => None,
        }
    }

    /// Whether the deadline may have become earlier: only a new phase, an incomplete message, or a client that
    /// has fallen behind does that.
    pub(super) fn may_be_due_earlier(&self) -> bool {
        self.phase != Phase::Open || self.frame_since.is_some() || self.behind_since().is_some()
    }

    /// The deadline of this connection, and what times out then. A client without unanswered requests
    /// times out after `api_idle_timeout`.
    pub(super) fn deadline(&self, api_idle_timeout: Duration) -> Option<(Time, Timeout)> {
        let unread = self.behind_since().map(|since| (since + UNREAD_TIMEOUT, Timeout::Unread));
        self.other_deadline(api_idle_timeout).into_iter().chain(unread).min_by_key(|(at, _)| *at)
    }

    /// The deadline of this connection, whether or not it is behind.
    fn other_deadline(&self, api_idle_timeout: Duration) -> Option<(Time, Timeout)> {
        let frame = self.frame_since.map(|since| (since + FRAME_TIMEOUT, Timeout::Frame));
        match (self.phase, &self.side) {
            // Its input may be what is awaited.
            (Phase::Handshaking | Phase::Open, _) if self.queued == Queued::Ready => None,
            (Phase::Connecting, _) => Some((self.since + DIAL_TIMEOUT, Timeout::Connect)),
            (Phase::Handshaking, _) => Some((self.since + HANDSHAKE_TIMEOUT, Timeout::Handshake)),
            (Phase::Open, Side::Peer(_)) => frame,
            (Phase::Open, Side::Client(_)) if self.queued == Queued::Parked => None,
            (Phase::Open, Side::Client(client)) => {
                let idle = (!client.has_unanswered()).then(|| (self.active + api_idle_timeout, Timeout::Idle));
                frame.into_iter().chain(idle).min_by_key(|(at, _)| *at)
            }
            (Phase::Draining, Side::Client(client)) if client.has_unanswered() || client.is_behind() => None,
            (Phase::Draining, Side::Client(_)) => Some((self.since.max(self.active) + FLUSH_TIMEOUT, Timeout::Close)),
            (Phase::Draining, Side::Peer(_)) => Some((self.since + FLUSH_TIMEOUT, Timeout::Close)),
            (Phase::Lingering, _) => Some((self.since + LINGER_TIMEOUT, Timeout::Close)),
            (Phase::Closed, _) => None,
        }
    }
}

/// Writes all parts of `replies` in one system call.
fn write_parts(socket: &mut Socket, replies: &Answers) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); 2 * VALUES_SHARED_MAX + 1];
    let mut len = 0;
    for (slice, part) in slices.iter_mut().zip(replies.parts()) {
        *slice = IoSlice::new(part);
        len += 1;
    }
    socket.write_vectored(&slices[..len])
}

/// What the other side of a connection did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// Accept a dial.
    Connect,
    /// Complete its handshake.
    Handshake,
    /// Complete a message.
    Frame,
    /// Send or read any byte.
    Idle,
    /// Read enough of its answers.
    Unread,
    /// Read the last output.
    Close,
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => write!(f, "no connection within {} s", DIAL_TIMEOUT.as_secs()),
            Self::Handshake => write!(f, "no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs()),
            Self::Frame => write!(f, "half a message for {} s", FRAME_TIMEOUT.as_secs()),
            Self::Idle => f.write_str("idle for too long"),
            Self::Unread => {
                write!(f, "read less than {PROGRESS_MIN} bytes of its answers in {} s", UNREAD_TIMEOUT.as_secs())
            }
            Self::Close => f.write_str("it did not read the last output"),
        }
    }
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum CloseReason {
    /// The other side sent bytes that are not a message.
    Wire(WireError),
    /// The peer has the wrong key, or violates the TLS profile of this protocol.
    Tls(TlsFault),
    /// The other side missed a deadline.
    Timeout(Timeout),
    /// The system reports an error of the socket.
    Io(io::Error),
    /// The other side closed the connection. That is no fault of an open peer.
    Closed,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => error.fmt(f),
            Self::Tls(fault) => fault.fmt(f),
            Self::Timeout(timeout) => timeout.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("it closed the connection"),
        }
    }
}
