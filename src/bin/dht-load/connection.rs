//! One connection of a run: what it has to send, and what it is owed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::plan::Connecting;
use dht::time::Time;

/// Source addresses that connections of one request each are spread over. Each has some 28 000
/// ports, and a port rests for a minute: together they allow 200 000 connections a second.
const SOURCES: u32 = 500;

/// What is still to come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// The number of its key.
    pub(crate) key: u32,
    /// When it was wanted.
    pub(crate) since: Time,
    pub(crate) what: Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A value.
    Value,
    /// Word that a value is stored.
    Stored,
    /// Nothing: this PUT is not answered. Whatever is answered after it was served after it.
    Nothing,
    /// A value, and only as a sign that what went before is done. It does not count.
    Marker,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    pub(crate) stage: Stage,
    /// When it was dialled.
    pub(crate) dialled: Time,
    /// When its server last gave a sign, or began to owe one.
    pub(crate) heard: Time,
    /// The number of the server at its other end.
    pub(crate) server: usize,
    pub(crate) outbox: Vec<u8>,
    written: usize,
    /// The beginning of an answer whose end has not come.
    pub(crate) inbox: Vec<u8>,
    /// In the order of the requests, which is the order of the answers.
    pub(crate) awaited: VecDeque<Awaited>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    Open,
    /// An answer came: the server is worth being dialled again.
    Proven,
}

impl Connection {
    /// Begins to connect; it is connected once its socket is writable.
    ///
    /// # Errors
    ///
    /// If the system refuses at once.
    pub(crate) fn dial(server: usize, address: SocketAddr, source: Option<Ipv4Addr>, now: Time) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match source {
            Some(source) => socket.bind(&SocketAddr::from((source, 0)).into())?,
            // A connection that lasts may have several writes on their way.
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

    /// Writes as much as the kernel takes; how many bytes that was.
    ///
    /// # Errors
    ///
    /// If the connection is over.
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

    /// Reads once; `None` if there is nothing yet, 0 at the end.
    ///
    /// # Errors
    ///
    /// If the connection is over.
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

    /// Whether it waits for its server, to connect or to answer.
    pub(crate) fn waits(&self) -> bool {
        self.stage == Stage::Connecting || !self.awaited.is_empty()
    }

    /// Whether another request may be sent, with at most `pipeline` that have no answer.
    pub(crate) fn has_room(&self, pipeline: usize) -> bool {
        self.stage != Stage::Connecting && self.awaited.len() < pipeline
    }
}

/// Where the connection number `dialled` comes from: connections of one request each use up the
/// ports of one address. Only this machine itself has many.
pub(crate) fn source(connecting: Connecting, to: SocketAddr, dialled: u32) -> Option<Ipv4Addr> {
    let spread = connecting == Connecting::Each && to.is_ipv4() && to.ip().is_loopback();
    spread.then(|| Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + dialled % SOURCES))
}
