//! A TCP socket that is read and written by direct system calls instead of the C library.
//!
//! The C library's `recv` and `send` are cancellation points: in a process with several threads (this one
//! has a disk writer) they execute atomic operations before and after each system call. This crate never
//! cancels a thread, so it avoids that cost.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;
use rustix::io::{retry_on_intr, writev};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A non-blocking socket that is connected or connecting. A call that a signal interrupts is repeated.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) stream: TcpStream,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, len) = retry_on_intr(|| recv(&self.stream, &mut *buffer, RecvFlags::empty()))?;
        Ok(len)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| send(&self.stream, bytes, SendFlags::NOSIGNAL))?)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match parts {
            [part] => self.write(part),
            parts => Ok(retry_on_intr(|| writev(&self.stream, parts))?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
