//! The real `dht-server`, spoken to over its module API: `PROTOCOL.md` 1 rule by rule, and what
//! an operator sees of a node's life.
//!
//! Each test starts servers of its own, on ports that the system draws, and waits for answers,
//! lines of the log and ends of connections, never for time to pass.

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

/// A server that waits to join, and so answers no GET of what it does not hold before
/// `request_timeout`: its one bootstrap takes connections and never says a word.
struct Joining {
    server: Server,
    _mute: TcpListener,
}

impl Joining {
    /// Starts one; `lines` are further lines of its configuration.
    fn start(lines: &str) -> Self {
        let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let bootstrap = mute.local_addr().expect("it is bound");
        let server = Server::start(&format!("bootstrap = {bootstrap}\nrpc_timeout = 50ms\n{lines}"));
        Self { server, _mute: mute }
    }
}
