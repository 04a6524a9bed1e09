//! One blocking connection to a node: requests and their answers.
//!
//! A PUT that asks for no confirmation gets no answer (`PROTOCOL.md` 1, rule 1). After a plain one
//! the client closes its side and waits until the node closes too: by then the node has read the
//! PUT. An older node does not know signed and hashed values and closes the connection when it
//! reads their flags; so a GET follows such a PUT, and an answer shows that the node knows them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::Duration;

use dht::id::Key;
use dht::record::Class;
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::frame::next_frame;

use super::Failure;

/// Largest read, in bytes.
const READ_SIZE: usize = 16 << 10;

/// A connection to a node.
pub(crate) struct Node {
    address: String,
    socket: TcpStream,
}

impl Node {
    /// Connects to the first reachable address of `address`. `timeout` applies to each attempt, and
    /// later to each answer.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`].
    pub(crate) fn connect(address: &str, timeout: Duration) -> Result<Self, Failure> {
        let socket = connect(address, timeout).map_err(broken(address))?;
        Ok(Self { address: address.to_owned(), socket })
    }

    /// The value of `key`, if the node finds one.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the node does not answer, or its answer is malformed.
    pub(crate) fn get(&mut self, key: Key) -> Result<Option<Vec<u8>>, Failure> {
        self.send(&ApiRequest::Get { key })?;
        read_answer(&mut self.socket, &self.address, key)
    }

    /// Puts a value and ends the connection. On return the node has read the PUT or, if `put` asks for
    /// a confirmation, has confirmed it.
    ///
    /// # Errors
    ///
    /// [`Failure::NotConfirmed`]; [`Failure::FlagsUnknown`]; as [`Self::get`].
    pub(crate) fn put(mut self, put: Put<'_>) -> Result<(), Failure> {
        self.send(&ApiRequest::Put(put))?;
        let answer = match (put.confirm, put.class) {
            (Confirm::No, Class::Plain) => return self.await_close(),
            (Confirm::No, Class::Signed | Class::Hashed) => self.get(put.key).map(|_| ()),
            (Confirm::Yes, _) => read_answer(&mut self.socket, &self.address, put.key)
                .and_then(|answer| answer.map(|_| ()).ok_or(Failure::NotConfirmed)),
        };
        match answer {
            Err(Failure::Closed { address }) if put.class != Class::Plain => Err(Failure::FlagsUnknown { address }),
            answer => answer,
        }
    }

    fn send(&mut self, request: &ApiRequest<'_>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        self.socket.write_all(&bytes).map_err(broken(&self.address))
    }

    /// Closes this side, and returns once the node has closed its side too.
    fn await_close(mut self) -> Result<(), Failure> {
        let closed = self.socket.shutdown(Shutdown::Write);
        closed.and_then(|()| io::copy(&mut self.socket, &mut io::sink())).map_err(broken(&self.address))?;
        Ok(())
    }
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(socket) => {
                socket.set_read_timeout(Some(timeout))?;
                socket.set_write_timeout(Some(timeout))?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Reads the answer to the one request about `key`: the value of SUCCESS, `None` for FAILURE.
fn read_answer(node: &mut impl Read, address: &str, key: Key) -> Result<Option<Vec<u8>>, Failure> {
    let malformed = |cause| Failure::Malformed { address: address.to_owned(), cause };
    let mut inbox = Vec::new();
    let mut chunk = [0; READ_SIZE];
    let reply = loop {
        if let Some((frame, _size)) = next_frame(Source::Server, &inbox).map_err(malformed)? {
            break ApiReply::decode(frame).map_err(malformed)?;
        }
        match node.read(&mut chunk) {
            Ok(0) => return Err(Failure::Closed { address: address.to_owned() }),
            Ok(count) => inbox.extend_from_slice(&chunk[..count]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(broken(address)(cause)),
        }
    };
    match reply {
        ApiReply::Success { key: of, value } if of == key => Ok(Some(value.to_vec())),
        ApiReply::Failure { key: of } if of == key => Ok(None),
        ApiReply::Success { .. } | ApiReply::Failure { .. } => Err(Failure::OtherKey { address: address.to_owned() }),
    }
}

/// Maps an I/O error: if the node closes while data is in flight to it, the system reports a reset.
fn broken(address: &str) -> impl FnOnce(io::Error) -> Failure {
    let address = address.to_owned();
    move |cause| match cause.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Failure::Closed { address }
        }
        _ => Failure::Unreachable { address, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dht::id::KEY_SIZE;
    use dht::limits::VALUE_SIZE_MAX;

    const KEY: Key = Key::new([7; KEY_SIZE]);

    fn bytes_of(reply: &ApiReply<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        bytes
    }

    fn read(mut node: impl Read) -> Result<Option<Vec<u8>>, Failure> {
        read_answer(&mut node, "node:1", KEY)
    }

    #[test]
    fn an_answer_is_read_in_parts_of_any_size() {
        let value = vec![7; VALUE_SIZE_MAX];
        let bytes = bytes_of(&ApiReply::Success { key: KEY, value: &value });
        for cut in [1, 4, 36, 4096, bytes.len() - 1] {
            let found = read(bytes[..cut].chain(&bytes[cut..])).expect("an answer");
            assert!(found.as_ref() == Some(&value), "cut at {cut} bytes");
        }
        assert!(matches!(read(&bytes_of(&ApiReply::Failure { key: KEY })[..]), Ok(None)));
    }

    #[test]
    fn a_reset_is_a_close_and_a_timeout_is_not() {
        let failure = |kind: io::ErrorKind| broken("node:1")(kind.into());
        assert!(matches!(failure(io::ErrorKind::ConnectionReset), Failure::Closed { .. }));
        assert!(matches!(failure(io::ErrorKind::BrokenPipe), Failure::Closed { .. }));
        assert!(matches!(failure(io::ErrorKind::TimedOut), Failure::Unreachable { .. }));
    }

    #[test]
    fn a_wrong_answer_is_distinguished_from_not_found() {
        let other = bytes_of(&ApiReply::Failure { key: Key::new([9; KEY_SIZE]) });
        assert!(matches!(read(&other[..]), Err(Failure::OtherKey { .. })));
        assert!(matches!(read(&other[..35]), Err(Failure::Closed { .. })));
        assert!(matches!(read(&b"HTTP/1.1"[..]), Err(Failure::Malformed { .. })));
    }
}
