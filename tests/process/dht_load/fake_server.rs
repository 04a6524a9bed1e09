//! A small server that answers GETs and confirmed PUTs as the test says.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use dht::id::{KEY_SIZE, Key};
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest};
use dht::wire::frame::next_frame;

/// The answer to a request for a key.
type Answering = fn(Key) -> Vec<u8>;

fn bytes_of(reply: &ApiReply<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    reply.encode(&mut bytes);
    bytes
}

/// A value of the right key, of 5 bytes.
pub(super) fn short_value(key: Key) -> Vec<u8> {
    bytes_of(&ApiReply::Success { key, value: b"value" })
}

/// A wrong value of the right size.
pub(super) fn wrong_value(key: Key) -> Vec<u8> {
    bytes_of(&ApiReply::Success { key, value: &[b'v'; 64] })
}

/// A value of another key.
pub(super) fn wrong_key(_: Key) -> Vec<u8> {
    short_value(Key::new([0xee; KEY_SIZE]))
}

/// FAILURE.
pub(super) fn failure(key: Key) -> Vec<u8> {
    bytes_of(&ApiReply::Failure { key })
}

/// A running fake server. Its threads end with their connections, or with the test.
pub(super) struct FakeServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl FakeServer {
    /// Starts one.
    pub(super) fn start(answering: Answering) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        thread::spawn(move || {
            for socket in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                let socket = socket.expect("a connection");
                thread::spawn(move || serve(socket, answering));
            }
        });
        Self { address, connections }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of connections so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Answers all requests of one connection until it ends.
fn serve(mut socket: TcpStream, answering: Answering) {
    let mut inbox = Vec::new();
    let mut chunk = vec![0; 16 << 10];
    loop {
        while let Some((frame, size)) = next_frame(Source::Module, &inbox).expect("requests") {
            let key = match ApiRequest::decode(frame).expect("a request") {
                ApiRequest::Get { key } => key,
                ApiRequest::Put(put) => put.key,
            };
            inbox.drain(..size);
            if socket.write_all(&answering(key)).is_err() {
                return; // the client has closed
            }
        }
        match socket.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => inbox.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
