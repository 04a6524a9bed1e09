//! A TCP socket that is read and written by direct system calls instead of the C library.
//!
//! The C library's `recv` and `send` are cancellation points: in a process with several threads (this one
//! has a disk writer) they execute atomic operations before and after each system call. This crate never
//! cancels a thread, so it avoids that cost.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags};

/// A non-blocking socket that is connected or connecting.
#[derive(Debug)]
pub(super) struct Socket(TcpStream);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// The error since the last call, if any.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.take_error()
    }

    /// The address of the other end, if the socket is connected.
    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }

    /// Shuts down one direction or both.
    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, len) = rustix::net::recv(&self.0, buffer, RecvFlags::empty())?;
        Ok(len)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match parts {
            [part] => self.write(part),
            parts => Ok(rustix::io::writev(&self.0, parts)?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Socket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.0.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.0.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.0.deregister(registry)
    }
}
