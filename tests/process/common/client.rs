//! A blocking client of the module API that can also misbehave.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use dht::id::{KEY_SIZE, Key};
use dht::record::Class;
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::frame::next_frame;

use super::PATIENCE;

/// The key that the course's client makes of `text`: its bytes, padded with zeros.
pub(crate) fn key(text: &str) -> Key {
    let mut bytes = [0; KEY_SIZE];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    Key::new(bytes)
}

/// The bytes of a GET.
pub(crate) fn get(key: Key) -> Vec<u8> {
    encode(&ApiRequest::Get { key })
}

/// The bytes of a PUT of `value` for `ttl` seconds without confirmation, as most clients send it.
pub(crate) fn put(key: Key, ttl: u16, value: &[u8]) -> Vec<u8> {
    encode(&ApiRequest::Put(Put { ttl, replication: 1, confirm: Confirm::No, class: Class::Plain, key, value }))
}

/// The bytes of `request`.
pub(crate) fn encode(request: &ApiRequest<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

/// The answer of a server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Success(Key, Vec<u8>),
    Failure(Key),
}

/// Short, since values can be long.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success(key, value) => {
                let shown = String::from_utf8_lossy(&value[..value.len().min(32)]);
                write!(f, "SUCCESS {key} {} bytes {shown:?}", value.len())
            }
            Self::Failure(key) => write!(f, "FAILURE {key}"),
        }
    }
}

/// A connection to a server.
pub(crate) struct Client {
    socket: TcpStream,
    inbox: Vec<u8>,
    taken: usize,
}

impl Client {
    /// Connects to a server.
    pub(crate) fn connect(api: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&api, PATIENCE).expect("a listener");
        socket.set_read_timeout(Some(PATIENCE)).expect("a bound that is not zero");
        socket.set_write_timeout(Some(PATIENCE)).expect("a bound that is not zero");
        socket.set_nodelay(true).expect("it is TCP");
        Self { socket, inbox: Vec::new(), taken: 0 }
    }

    /// Sends any `bytes`.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    /// PUTs `value` for a minute; the server may not have read it yet when this returns.
    pub(crate) fn put(&mut self, key: Key, value: &[u8]) {
        self.send(&put(key, 60, value));
    }

    /// PUTs `value` for a minute, and waits for the confirmation.
    pub(crate) fn put_confirmed(&mut self, key: Key, value: &[u8]) -> Answer {
        self.ask(&ApiRequest::Put(Put {
            ttl: 60,
            replication: 0,
            confirm: Confirm::Yes,
            class: Class::Plain,
            key,
            value,
        }))
    }

    /// Sends `request`, and waits for its answer.
    pub(crate) fn ask(&mut self, request: &ApiRequest<'_>) -> Answer {
        self.send(&encode(request));
        self.answer()
    }

    /// Sends a GET of `key`, and waits for the answer: the value, or `None` for FAILURE.
    pub(crate) fn get(&mut self, key: Key) -> Option<Vec<u8>> {
        match self.ask(&ApiRequest::Get { key }) {
            Answer::Success(of, value) => {
                assert_eq!(of, key);
                Some(value)
            }
            Answer::Failure(of) => {
                assert_eq!(of, key);
                None
            }
        }
    }

    /// Waits for the next answer.
    pub(crate) fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.next_answer() {
                return answer;
            }
            assert!(self.read() > 0, "the server closed, and owed an answer");
        }
    }

    /// Waits for the end of the connection; no answer may come before it.
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.inbox[self.taken..], [], "after the last answer");
        let read = self.read();
        assert_eq!(read, 0, "expected the end: {:?}", self.next_answer());
    }

    /// Closes the sending direction.
    pub(crate) fn finish(&self) {
        self.socket.shutdown(Shutdown::Write).expect("the connection stands");
    }

    /// Another handle of the same socket.
    pub(crate) fn socket(&self) -> TcpStream {
        self.socket.try_clone().expect("a file descriptor")
    }

    /// Sends as much of `bytes` as the kernel takes at once; returns the number of bytes.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> usize {
        self.socket.set_nonblocking(true).expect("it is a socket");
        let sent = match self.socket.write(bytes) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => panic!("the server hung up: {error}"),
        };
        self.socket.set_nonblocking(false).expect("it is a socket");
        sent
    }

    /// Waits for bytes behind the answers read so far, and reads once; returns their number, 0 at the
    /// end.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> usize {
        loop {
            match self.socket.read(buffer) {
                Ok(count) => return count,
                // The system does not restart an interrupted read that has a timeout.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("neither an answer nor the end in time: {error}"),
            }
        }
    }

    /// Whether bytes, or the end, can be read now.
    pub(crate) fn is_readable(&self) -> bool {
        self.socket.set_nonblocking(true).expect("it is a socket");
        let peeked = self.socket.peek(&mut [0]);
        self.socket.set_nonblocking(false).expect("it is a socket");
        !matches!(peeked, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted))
    }

    fn next_answer(&mut self) -> Option<Answer> {
        let (frame, size) =
            next_frame(Source::Server, &self.inbox[self.taken..]).expect("the server speaks its protocol")?;
        let answer = match ApiReply::decode(frame).expect("the server speaks its protocol") {
            ApiReply::Success { key, value } => Answer::Success(key, value.to_vec()),
            ApiReply::Failure { key } => Answer::Failure(key),
        };
        self.taken += size;
        Some(answer)
    }

    /// Reads once; 0 at the end.
    fn read(&mut self) -> usize {
        self.inbox.drain(..self.taken);
        self.taken = 0;
        let mut chunk = vec![0; 64 << 10];
        let count = self.receive(&mut chunk);
        self.inbox.extend_from_slice(&chunk[..count]);
        count
    }
}
