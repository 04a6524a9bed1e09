//! The listening sockets. They are bound before the node is created, because its HELLO contains the port.
//!
//! mio is edge-triggered: it reports a listener only once, so a listener that was not drained stays marked
//! as ready. If the kernel lacks file descriptors or another resource, all listeners pause. They try again
//! after [`ACCEPT_PAUSE`] and as soon as a connection is closed; established connections are not affected.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use log::{info, warn};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::net::Options;
use crate::time::Time;

/// Connections that the kernel may hold for one listener until they are accepted.
const LISTEN_BACKLOG: i32 = 1_024;

/// Pause of accepting when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The kind of connections that a listener accepts. Each pool has its own bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// Connections of clients to the API.
    Clients,
    /// Connections between nodes.
    Peers,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "clients",
            Self::Peers => "peers",
        })
    }
}

/// All listeners of an event loop.
#[derive(Debug)]
pub struct Listeners {
    list: Vec<Listener>,
    paused_until: Option<Time>,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    pool: Pool,
    ready: bool,
}

impl Listeners {
    /// Binds all addresses of `options`. Port 0 means any free port. Every further port 0 of the peers'
    /// addresses becomes the port of the first one, since a HELLO contains only one port.
    ///
    /// # Errors
    ///
    /// [`BindError`] with the first address that cannot be bound.
    pub fn bind(options: &Options) -> Result<Self, BindError> {
        let mut list = vec![Listener::bind(options.api_address, Pool::Clients)?];
        let mut port = 0;
        for address in &options.p2p_addresses {
            let mut address = *address;
            if address.port() == 0 {
                address.set_port(port);
            }
            let listener = Listener::bind(address, Pool::Peers)?;
            port = listener.address.port();
            list.push(listener);
        }
        Ok(Self { list, paused_until: None })
    }

    /// The address for clients.
    pub fn api_address(&self) -> SocketAddr {
        self.list[0].address
    }

    /// The addresses for peers.
    pub fn p2p_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.list.iter().filter(|listener| listener.pool == Pool::Peers).map(|listener| listener.address)
    }

    /// Registers the listeners under `token` and the tokens after it.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        for (at, listener) in self.list.iter_mut().enumerate() {
            registry.register(&mut listener.socket, Token(token.0 + at), Interest::READABLE)?;
        }
        Ok(())
    }

    /// The number of listeners.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Marks the listener `at` as ready: a connection waits there.
    pub(super) fn mark(&mut self, at: usize) {
        if let Some(listener) = self.list.get_mut(at) {
            listener.ready = true;
        }
    }

    /// The next time at which a connection can be accepted, if one waits.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let waits = self.list.iter().any(|listener| listener.ready);
        waits.then(|| self.paused_until.unwrap_or(Time::ZERO))
    }

    /// Ends a pause after a connection was closed and its descriptor is free.
    pub(super) fn resume(&mut self) {
        self.paused_until = self.paused_until.map(|_| Time::ZERO);
    }

    /// Closes all listeners.
    pub(super) fn close(&mut self) {
        self.list.clear();
    }

    /// Accepts the next connection at the listener `at`.
    pub(super) fn accept(&mut self, at: usize, now: Time) -> Option<(TcpStream, SocketAddr, Pool)> {
        let listener = self.list.get_mut(at).filter(|listener| listener.ready)?;
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        loop {
            match listener.socket.accept() {
                Ok((socket, address)) => {
                    if self.paused_until.take().is_some() {
                        info!("accepting again");
                    }
                    return Some((socket, address, listener.pool));
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        listener.ready = false;
                        return None;
                    }
                    // Each of these removed one connection from the queue or left the queue unchanged.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset => {}
                    _ => {
                        if self.paused_until.is_none() {
                            warn!("accepting paused addr={} error=\"{error}\"", listener.address);
                        }
                        self.paused_until = Some(now + ACCEPT_PAUSE);
                        return None;
                    }
                },
            }
        }
    }
}

impl Listener {
    fn bind(address: SocketAddr, pool: Pool) -> Result<Self, BindError> {
        let listen = || -> io::Result<Self> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                // Allows a node to listen on one port with both address families.
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(LISTEN_BACKLOG)?;
            let socket = TcpListener::from_std(socket.into());
            let address = socket.local_addr()?;
            Ok(Self { socket, address, pool, ready: false })
        };
        listen().map_err(|source| BindError { address, source })
    }
}

/// An address cannot be bound.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen at {}: {}", self.address, self.source)
    }
}

impl std::error::Error for BindError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(p2p: &[&str]) -> Options {
        let address = |text: &str| text.parse().expect("a literal of this test");
        Options {
            api_address: address("127.0.0.1:0"),
            p2p_addresses: p2p.iter().map(|text| address(text)).collect(),
            ..Options::default()
        }
    }

    #[test]
    fn port_zero_becomes_the_same_port_for_both_families() {
        let listeners = Listeners::bind(&options(&["127.0.0.1:0", "[::1]:0"])).expect("free ports");
        let bound: Vec<_> = listeners.p2p_addresses().collect();
        assert_eq!(bound.len(), 2);
        assert_ne!(bound[0].port(), 0);
        assert_eq!(bound[0].port(), bound[1].port());
        assert_ne!(listeners.api_address().port(), 0);
    }

    #[test]
    fn the_error_names_an_address_that_is_in_use() {
        let first = Listeners::bind(&options(&["127.0.0.1:0"])).expect("free ports");
        let taken = first.p2p_addresses().next().expect("one address").to_string();
        let error = Listeners::bind(&options(&[&taken])).expect_err("the address is in use");
        assert!(error.to_string().starts_with(&format!("cannot listen at {taken}: ")), "{error}");
    }
}
