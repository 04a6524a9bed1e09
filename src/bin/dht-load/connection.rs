//! One connection of a run: its unsent requests and its unanswered requests.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::plan::Connecting;
use dht::time::Time;

/// Source addresses of connections that carry one request each. An address has some 28 000 ports, and
/// a used port is blocked for a minute: 500 addresses allow 200 000 connections per second.
const SOURCES: u32 = 500;

/// A request without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// The index of its key.
    pub(crate) key: u32,
    /// The start of its latency: when it was sent or, in an open loop, scheduled.
    pub(crate) since: Time,
    pub(crate) what: Wanted,
}

/// The answer that a request expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A value.
    Value,
    /// The confirmation of a PUT.
    Stored,
    /// None: the server does not answer this PUT. The next answer on the connection shows that the
    /// server has read it.
    Nothing,
    /// A value that only shows that the server has read the PUTs before. It does not count.
    Marker,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    pub(crate) stage: Stage,
    /// When it was dialled.
    pub(crate) dialled: Time,
    /// When its server last sent data, or when the oldest unanswered batch was sent.
    pub(crate) heard: Time,
    /// The index of its server.
    pub(crate) server: usize,
    pub(crate) outbox: Vec<u8>,
    written: usize,
    /// The beginning of an incomplete answer.
    pub(crate) inbox: Vec<u8>,
    /// In the order of the requests, which is also the order of the answers.
    pub(crate) awaited: VecDeque<Awaited>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    Open,
    /// The server has answered a request.
    Proven,
}

impl Connection {
    /// Starts to connect. The connection is open when its socket is writable.
    ///
    /// # Errors
    ///
    /// If the system refuses at once.
    pub(crate) fn dial(server: usize, address: SocketAddr, source: Option<Ipv4Addr>, now: Time) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match source {
            Some(source) => socket.bind(&SocketAddr::from((source, 0)).into())?,
            // A lasting connection may have several writes in flight.
            None => socket.set_tcp_nodelay(true)?,
        }
        match socket.connect(&address.into()) {
            Err(error)
                if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error())
                    && error.kind() != ErrorKind::WouldBlock =>
            {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        Ok(Self {
            socket: TcpStream::from_std(socket.into()),
            stage: Stage::Connecting,
            dialled: now,
            heard: now,
            server,
            outbox: Vec::new(),
            written: 0,
            inbox: Vec::new(),
            awaited: VecDeque::new(),
        })
    }

    /// Writes as much as the kernel accepts; returns the number of bytes.
    ///
    /// # Errors
    ///
    /// If the connection broke.
    pub(crate) fn flush(&mut self) -> io::Result<usize> {
        let begun = self.written;
        while self.written < self.outbox.len() {
            match self.socket.write(&self.outbox[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(self.written - begun),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let count = self.written - begun;
        self.outbox.clear();
        self.written = 0;
        Ok(count)
    }

    /// Reads once; returns `None` if no data is available, and 0 at the end.
    ///
    /// # Errors
    ///
    /// If the connection broke.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.socket.read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether it waits for its server to accept or to answer.
    pub(crate) fn waits(&self) -> bool {
        self.stage == Stage::Connecting || !self.awaited.is_empty()
    }

    /// Whether it may send another request, given at most `pipeline` unanswered ones.
    pub(crate) fn has_room(&self, pipeline: usize) -> bool {
        self.stage != Stage::Connecting && self.awaited.len() < pipeline
    }
}

/// The source address of the connection number `dialled`. Connections that carry one request each
/// would use up the ports of one address. Only the loopback interface has many addresses.
pub(crate) fn source(connecting: Connecting, to: SocketAddr, dialled: u32) -> Option<Ipv4Addr> {
    let spread = connecting == Connecting::Each && to.is_ipv4() && to.ip().is_loopback();
    spread.then(|| Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + dialled % SOURCES))
}
