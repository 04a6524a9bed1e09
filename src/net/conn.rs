//! One connection: its socket, its phase, and what it waits for.
//!
//! ```text
//! dialled   Connecting ─► Handshaking ─► Open ─► Draining ─► Lingering ─► Over
//! accepted                Handshaking ─► Open ─► Draining ─► Lingering ─► Over
//! client                                 Open ─► Draining ─► Lingering ─► Over
//! ```
//!
//! From any phase a connection may be over at once: the other side is gone, or was given enough
//! time. The node knows of a connection to a peer exactly while it is *open*.
//!
//! *Draining*: nothing is read any more; what is owed and what waits is still written.
//! *Lingering*: the end is announced; what still comes in is thrown away. A socket that is closed
//! over unread bytes is reset by the kernel, and the other side would lose what it has not read.
//!
//! Nothing here calls the service or touches another connection.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::Interest;
use mio::net::TcpStream;

use crate::limits::{DIAL_TIMEOUT, FLUSH_TIMEOUT, FRAME_TIMEOUT, HANDSHAKE_TIMEOUT, LINGER_TIMEOUT, VALUES_SHARED_MAX};
use crate::net::client::Client;
use crate::net::outbox;
use crate::net::peer::{Peer, Written};
use crate::net::socket::Socket;
use crate::net::tls::TlsFault;
use crate::node::replies::Answers;
use crate::time::Time;
use crate::wire::codec::WireError;

/// How far a connection has come: see the head of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TCP is being opened.
    Connecting,
    /// TLS is being opened.
    Handshaking,
    /// Messages come and go.
    Open,
    /// The last messages go.
    Draining,
    /// The other side is given time to read them.
    Lingering,
    /// Freed at the end of this turn.
    Over,
}

/// Who is at the other end.
pub(super) enum Side {
    /// A module.
    Client(Client),
    /// Another node.
    Peer(Box<Peer>),
}

/// What the socket may still have to be read. mio says so once, at the edge.
///
/// In this order: a later state is not undone by what mio says, only by reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Incoming {
    /// Nothing, until the next event.
    Dry,
    /// Something. A read that leaves room in its buffer has taken all of it.
    Ready,
    /// Something, and then the end or an error: to be read until that is seen.
    Ending,
    /// The end was seen.
    Ended,
}

/// Whether a connection stands in one of the loop's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// In none.
    No,
    /// To be served.
    Ready,
    /// To be served once the service wants requests again.
    Unwelcome,
    /// To be served once the client has read answers; in no list, flushing will see to it.
    Full,
}

/// What is left in an inbox for whose rest the other side is responsible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// No half message.
    Nothing,
    /// The same half message as before, or a little more of it.
    SameHalf,
    /// Half of another message.
    NewHalf,
}

/// A connection of this host.
pub(super) struct ConnectionInfo {
    /// Never used for another one; says in which slot it is.
    pub(super) id: u64,
    pub(super) socket: Socket,
    pub(super) address: SocketAddr,
    pub(super) side: Side,
    pub(super) phase: Phase,
    pub(super) incoming: Incoming,
    pub(super) queued: Queued,
    /// To be flushed in this turn.
    pub(super) touched: bool,
    /// Whether bytes that were sent here went unread; then the other side needs time at the end.
    pub(super) discarded: bool,
    /// What was read (and decrypted) and not taken yet.
    pub(super) inbox: Vec<u8>,
    /// What mio was asked to tell.
    pub(super) interest: Interest,
    /// When the deadlines look at it next.
    pub(super) scheduled: Option<Time>,
    /// When the phase began.
    since: Time,
    /// When bytes last came or went.
    active: Time,
    /// When the half message in the inbox began.
    frame_since: Option<Time>,
}

/// How long the connections of a host may stay silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a client that is owed nothing.
    pub(super) api_idle: Duration,
}

impl ConnectionInfo {
    /// The connection `id` over `socket` to `address`, which mio watches for `interest`.
    pub(super) fn new(
        id: u64,
        socket: TcpStream,
        address: SocketAddr,
        side: Side,
        phase: Phase,
        interest: Interest,
        now: Time,
    ) -> Self {
        Self {
            id,
            socket: Socket::new(socket),
            address,
            side,
            phase,
            incoming: Incoming::Dry,
            queued: Queued::No,
            touched: false,
            discarded: false,
            inbox: Vec::new(),
            interest,
            scheduled: None,
            since: now,
            active: now,
            frame_since: None,
        }
    }

    /// The client at the other end, where only a client can be.
    pub(super) fn client(&mut self) -> &mut Client {
        match &mut self.side {
            Side::Client(client) => client,
            Side::Peer(_) => unreachable!("only clients have requests"),
        }
    }

    /// Goes on to `phase`.
    pub(super) fn enter(&mut self, phase: Phase, now: Time) {
        assert!(self.phase != Phase::Over, "a connection that is over stays so");
        self.phase = phase;
        self.since = now;
        self.frame_since = None;
        if matches!(phase, Phase::Draining | Phase::Lingering | Phase::Over) {
            self.discarded |= !self.inbox.is_empty();
            outbox::empty(&mut self.inbox);
        }
    }

    /// Takes note of what mio said about the socket.
    pub(super) fn mark(&mut self, news: Incoming) {
        self.incoming = self.incoming.max(news);
    }

    /// Whether the socket may have something to be read.
    pub(super) fn is_readable(&self) -> bool {
        matches!(self.incoming, Incoming::Ready | Incoming::Ending)
    }

    /// Reads once into `buffer`; returns how many bytes, 0 if there are none for now or the end
    /// has come: see `incoming`.
    pub(super) fn fill(&mut self, buffer: &mut [u8], now: Time) -> io::Result<usize> {
        let len = loop {
            match self.socket.read(buffer) {
                Ok(0) => {
                    self.incoming = Incoming::Ended;
                    return Ok(0);
                }
                Ok(len) => break len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.incoming = Incoming::Dry;
                    return Ok(0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        if len < buffer.len() && self.incoming == Incoming::Ready {
            self.incoming = Incoming::Dry; // and the next byte is the next edge: one read less
        }
        self.active = now;
        Ok(len)
    }

    /// Writes answers that nothing waits before; returns how much of them is out.
    pub(super) fn write_answers(&mut self, answers: &Answers, now: Time) -> io::Result<usize> {
        let written = match answers.in_one() {
            Some(bytes) => self.socket.write(bytes),
            None => write_parts(&mut self.socket, answers),
        };
        match written {
            Ok(len) => {
                self.active = now;
                Ok(len)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Writes what waits for the other side.
    pub(super) fn write(&mut self, now: Time) -> io::Result<Written> {
        let outbox = match &mut self.side {
            Side::Peer(peer) => return peer.write(&mut self.socket),
            Side::Client(client) => client.outbox(),
        };
        while !outbox.is_empty() {
            match self.socket.write(outbox.waiting()) {
                Ok(len) => {
                    self.active = now;
                    outbox.advance(len);
                    if !outbox.is_empty() {
                        return Ok(Written::Blocked);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Written::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// Whether a connection that was dialled is open by now.
    pub(super) fn has_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether everything is said that there was to say.
    pub(super) fn is_done(&self) -> bool {
        match &self.side {
            Side::Client(client) => client.is_done(),
            Side::Peer(peer) => !peer.wants_write(),
        }
    }

    /// Tells the other side that nothing more will come.
    pub(super) fn shut(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Throws away up to `budget` bytes; whether the other side can be left alone now: it has
    /// ended too, or it has sent nothing that went unread.
    pub(super) fn discard(&mut self, buffer: &mut [u8], budget: usize, now: Time) -> io::Result<bool> {
        let mut taken = 0;
        while taken < budget {
            match self.fill(buffer, now)? {
                0 => return Ok(self.incoming == Incoming::Ended || !self.discarded),
                len => taken += len,
            }
            self.discarded = true;
        }
        Ok(false)
    }

    /// Takes note of what the inbox was left with.
    pub(super) fn note_rest(&mut self, rest: Rest, now: Time) {
        self.frame_since = match rest {
            Rest::Nothing => None,
            Rest::SameHalf => self.frame_since.or(Some(now)),
            Rest::NewHalf => Some(now),
        };
    }

    /// Whether its deadline may have come nearer: only a new phase, or half a message, does that.
    pub(super) fn is_pressed(&self) -> bool {
        self.phase != Phase::Open || self.frame_since.is_some()
    }

    /// When something must have happened here, and what else to call it.
    pub(super) fn deadline(&self, patience: Patience) -> Option<(Time, Overdue)> {
        let frame = self.frame_since.map(|since| (since + FRAME_TIMEOUT, Overdue::Frame));
        match (self.phase, &self.side) {
            (Phase::Connecting, _) => Some((self.since + DIAL_TIMEOUT, Overdue::Connect)),
            (Phase::Handshaking, _) => Some((self.since + HANDSHAKE_TIMEOUT, Overdue::Handshake)),
            (Phase::Open, Side::Peer(_)) => frame,
            (Phase::Open, Side::Client(_)) if self.queued == Queued::Unwelcome => None,
            (Phase::Open, Side::Client(client)) => {
                let idle = (!client.is_owed()).then(|| (self.active + patience.api_idle, Overdue::Silence));
                frame.into_iter().chain(idle).min_by_key(|(at, _)| *at)
            }
            (Phase::Draining, Side::Client(client)) if client.is_owed() => None,
            (Phase::Draining, Side::Client(_)) => Some((self.since.max(self.active) + FLUSH_TIMEOUT, Overdue::End)),
            (Phase::Draining, Side::Peer(_)) => Some((self.since + FLUSH_TIMEOUT, Overdue::End)),
            (Phase::Lingering, _) => Some((self.since + LINGER_TIMEOUT, Overdue::End)),
            (Phase::Over, _) => None,
        }
    }
}

/// One write of all parts of `answers`.
fn write_parts(socket: &mut Socket, answers: &Answers) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); 2 * VALUES_SHARED_MAX + 1];
    let mut len = 0;
    for (slice, part) in slices.iter_mut().zip(answers.parts()) {
        *slice = IoSlice::new(part);
        len += 1;
    }
    socket.write_vectored(&slices[..len])
}

/// What the other side of a connection did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Answer to a dial.
    Connect,
    /// Complete its handshake.
    Handshake,
    /// Complete a message.
    Frame,
    /// Say anything at all.
    Silence,
    /// Read what was left to be read.
    End,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => write!(f, "no connection within {} s", DIAL_TIMEOUT.as_secs()),
            Self::Handshake => write!(f, "no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs()),
            Self::Frame => write!(f, "half a message for {} s", FRAME_TIMEOUT.as_secs()),
            Self::Silence => f.write_str("silent for too long"),
            Self::End => f.write_str("does not read to the end"),
        }
    }
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Fault {
    /// What it sent is no message.
    Wire(WireError),
    /// It is not who it should be, or does not speak TLS as we do.
    Tls(TlsFault),
    /// It did not do something in time.
    Overdue(Overdue),
    /// The system says that it cannot be reached.
    Io(io::Error),
    /// It closed. No fault of a peer that was open.
    Closed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => error.fmt(f),
            Self::Tls(fault) => fault.fmt(f),
            Self::Overdue(overdue) => overdue.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("it closed the connection"),
        }
    }
}
