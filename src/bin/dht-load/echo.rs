//! The echo server: the upper bound of what one thread with `mio` can serve.
//!
//! It answers a DHT GET with a SUCCESS of a constant value and ignores every other message. It has no
//! records, no deadlines and no bounds on memory or file descriptors. It does not use the event loop
//! of the library, because it is the reference for that loop. A request costs one read, one write and
//! a part of one poll.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, Socket, Type};

use dht::id::KEY_SIZE;
use dht::limits::{FRAME_SIZE_MAX, HEADER_SIZE};
use dht::wire::{GET, SUCCESS};

/// Size of a GET: header and key.
const GET_SIZE: usize = HEADER_SIZE + KEY_SIZE;

/// Largest read, in bytes.
const READ_SIZE: usize = 64 << 10;

/// Largest number of events per poll.
const EVENTS_PER_POLL: usize = 1024;

/// Connections that may wait to be accepted, up to the system's own bound.
const BACKLOG: i32 = 4096;

/// Every byte of every value.
const FILL: u8 = b'v';

const LISTENER: Token = Token(usize::MAX - 1);

/// The loop and its listener.
#[derive(Debug)]
pub(crate) struct Echo {
    listener: TcpListener,
    address: SocketAddr,
    poll: Poll,
    streams: Slab<Stream>,
    answerer: Answerer,
    buffer: Vec<u8>,
}

/// Composes the answers to one read.
#[derive(Debug)]
struct Answerer {
    /// An answer, up to its key.
    head: [u8; HEADER_SIZE],
    value_size: usize,
    answers: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
struct Stream {
    socket: TcpStream,
    /// The beginning of an incomplete message.
    inbox: Vec<u8>,
    /// Bytes that the kernel has not accepted yet.
    outbox: Vec<u8>,
    interest: Interest,
}

impl Echo {
    /// Listens at `address`; for port 0 the system chooses the port. Values have `value_size` bytes.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    ///
    /// # Panics
    ///
    /// If such a value does not fit into a message.
    pub(crate) fn bind(address: SocketAddr, value_size: usize) -> io::Result<Self> {
        let size = u16::try_from(GET_SIZE + value_size).expect("the value fits into a message");
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let ([s0, s1], [k0, k1]) = (size.to_be_bytes(), SUCCESS.number.to_be_bytes());
        let answerer = Answerer { head: [s0, s1, k0, k1], value_size, answers: Vec::new() };
        let address = listener.local_addr()?;
        Ok(Self { listener, address, poll, streams: Slab::new(), answerer, buffer: vec![0; READ_SIZE] })
    }

    /// The address of the listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until a signal ends the process.
    ///
    /// # Errors
    ///
    /// If a poll fails.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let Token(slot) = event.token();
                let Some(stream) = self.streams.get_mut(slot) else {
                    continue;
                };
                let mut course = if event.is_writable() { stream.flush() } else { ControlFlow::Continue(()) };
                if course.is_continue() && event.is_readable() {
                    course = stream.serve(&mut self.answerer, &mut self.buffer, event.is_read_closed());
                }
                if course.is_break() {
                    self.streams.remove(slot); // closing deregisters it
                } else if !stream.outbox.is_empty() && !stream.interest.is_writable() {
                    // Only for a connection whose outbox has filled; most never need it.
                    stream.interest = Interest::READABLE | Interest::WRITABLE;
                    self.poll.registry().reregister(&mut stream.socket, Token(slot), stream.interest)?;
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        // After an error, such as a lack of file descriptors, the next event retries.
        while let Ok((mut socket, _)) = self.listener.accept() {
            let entry = self.streams.vacant_entry();
            let interest = Interest::READABLE;
            self.poll.registry().register(&mut socket, Token(entry.key()), interest)?;
            entry.insert(Stream { socket, inbox: Vec::new(), outbox: Vec::new(), interest });
        }
        Ok(())
    }
}

/// Each method breaks if the connection must be closed.
impl Stream {
    /// Reads and answers until no data is left. A read that does not fill the buffer was the last one,
    /// unless the end of the stream follows.
    fn serve(&mut self, answerer: &mut Answerer, buffer: &mut [u8], is_closing: bool) -> ControlFlow<()> {
        loop {
            let count = match self.socket.read(buffer) {
                Ok(count @ 1..) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return ControlFlow::Continue(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => return ControlFlow::Break(()),
            };
            let taken = if self.inbox.is_empty() {
                answerer.take(&buffer[..count]).inspect(|taken| self.inbox.extend_from_slice(&buffer[*taken..count]))
            } else {
                self.inbox.extend_from_slice(&buffer[..count]);
                answerer.take(&self.inbox).inspect(|taken| drop(self.inbox.drain(..*taken)))
            };
            if taken.is_none() {
                return ControlFlow::Break(());
            }
            self.send(&mut answerer.answers)?;
            if count < buffer.len() && !is_closing {
                return ControlFlow::Continue(());
            }
        }
    }

    /// Writes `answers`, and stores in the outbox what the kernel does not accept.
    fn send(&mut self, answers: &mut Vec<u8>) -> ControlFlow<()> {
        if self.outbox.is_empty() {
            std::mem::swap(&mut self.outbox, answers);
            let course = self.flush();
            if self.outbox.is_empty() {
                std::mem::swap(&mut self.outbox, answers); // reuse the memory
            }
            return course;
        }
        self.outbox.append(answers);
        ControlFlow::Continue(())
    }

    fn flush(&mut self) -> ControlFlow<()> {
        let mut written = 0;
        while written < self.outbox.len() {
            match self.socket.write(&self.outbox[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return ControlFlow::Break(()),
            }
        }
        self.outbox.drain(..written);
        ControlFlow::Continue(())
    }
}

impl Answerer {
    /// Answers all complete messages in `bytes`; returns their size, or `None` if the bytes are not
    /// messages.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut taken = 0;
        while let [s0, s1, k0, k1, ..] = bytes[taken..] {
            let size = usize::from(u16::from_be_bytes([s0, s1]));
            if size < HEADER_SIZE {
                return None;
            }
            let Some(message) = bytes.get(taken..taken + size) else {
                break;
            };
            if u16::from_be_bytes([k0, k1]) == GET.number && size == GET_SIZE {
                self.answers.extend_from_slice(&self.head);
                self.answers.extend_from_slice(&message[HEADER_SIZE..]);
                // Filled, not copied: an upper bound reads no value.
                self.answers.resize(self.answers.len() + self.value_size, FILL);
            }
            taken += size;
        }
        Some(taken)
    }
}

const _: () = assert!(READ_SIZE > FRAME_SIZE_MAX, "one read may contain the largest message");

#[cfg(test)]
mod tests {
    use super::*;

    fn answerer() -> Answerer {
        Answerer { head: [0, 39, 0x02, 0x8c], value_size: 3, answers: Vec::new() }
    }

    fn get(fill: u8) -> Vec<u8> {
        [&[0, 36, 0x02, 0x8b][..], &[fill; 32]].concat()
    }

    #[test]
    fn each_complete_get_is_answered() {
        let mut answerer = answerer();
        let bytes = [get(1), get(2), get(3)[..35].to_vec()].concat();
        assert_eq!(answerer.take(&bytes), Some(72));
        let answer = |fill: u8| [&[0, 39, 0x02, 0x8c][..], &[fill; 32], b"vvv"].concat();
        assert_eq!(answerer.answers, [answer(1), answer(2)].concat());
    }

    #[test]
    fn other_messages_are_ignored_and_invalid_ones_close_the_connection() {
        let mut answerer = answerer();
        let put = [0, 41, 0x02, 0x8a].into_iter().chain([0; 37]).collect::<Vec<u8>>();
        assert_eq!(answerer.take(&[put, get(1)].concat()), Some(77));
        assert_eq!(answerer.answers.len(), 39, "the answer to the GET alone");
        assert_eq!(answerer.take(&[0, 3, 0x02, 0x8b]), None);
        assert_eq!(answerer.take(&[]), Some(0));
    }
}
