//! The real `dht-server` over its module API: the rules of `PROTOCOL.md` 1, and what an operator sees of
//! a node.
//!
//! Each test starts its own servers on ports that the system draws. Tests wait for answers, log lines and
//! ends of connections, not for time.

mod bounds;
mod command_line;
mod identity;
mod lifecycle;
mod malformed;
mod programs;
mod requests;
mod signed;
mod values;

use std::net::TcpListener;

use crate::common::Server;

/// A server that waits to join: it answers a GET of a record that it does not hold only at
/// `request_timeout`. Its one bootstrap accepts connections and never sends a byte.
struct Joining {
    server: Server,
    _mute: TcpListener,
}

impl Joining {
    /// Starts the server; `lines` are further configuration lines.
    fn start(lines: &str) -> Self {
        let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let bootstrap = mute.local_addr().expect("it is bound");
        let server = Server::start(&format!("bootstrap = {bootstrap}\nrpc_timeout = 50ms\n{lines}"));
        Self { server, _mute: mute }
    }
}
